//! Evaluates one candidate file on one task file, N times: `evaluate <python> <task.py> <candidate.py> [N]`.

use std::path::PathBuf;
use std::time::Instant;

use rollout::id::{Digest, TaskId};
use rollout::outcome::Candidate;
use rollout::task::{Split, TaskSpec};
use sandbox::Suspects;
use sandbox::executor::{Executor, ExecutorConfig, Limits};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, python, task, candidate, rest @ ..] = &args[..] else {
        return Err("usage: evaluate <python> <task.py> <candidate.py> [N]".into());
    };
    let scratch = tempfile_dir();
    let began = Instant::now();
    let config = ExecutorConfig {
        python: PathBuf::from(python),
        scratch,
        limits: Limits::default(),
        secret: [7; 32],
        suspects: Suspects::default(),
        require: Vec::new(),
        device: None,
    };
    let executor = Executor::start(config).await?;
    println!("started in {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
    let task = TaskSpec {
        id: TaskId(task.clone()),
        level: 1,
        split: Split::Validation,
        tags: vec![],
        source: std::fs::read_to_string(task)?,
    };
    let source = std::fs::read_to_string(candidate)?;
    for n in 0..rest.first().map_or(Ok(1), |n| n.parse())? {
        let candidate = Candidate { source: source.clone(), digest: Digest(format!("{n:064}")) };
        let report = executor.evaluate(&task, &candidate).await?;
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    executor.shutdown().await;
    Ok(())
}

fn tempfile_dir() -> PathBuf {
    std::env::temp_dir().join(format!("troupe-evaluate-{}", std::process::id()))
}
