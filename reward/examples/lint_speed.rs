//! Prints how many candidates a second one core extracts and lints, and what was found: `cargo run --release -p reward
//! --example lint_speed -- [--tasks FOLDER] FILE..` (`.md` and `.txt` are raw answers, everything else is Python). With a
//! folder of tasks, the answer `NAME__0.md` is one to the task `NAME.py`; a file may name its task (`# task: NAME`).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use reward::extract::{extract, from_python};
use reward::lint::{PreparedTask, lint_prepared};
use rollout::id::TaskId;
use rollout::task::{Split, TaskSpec};

type Error = Box<dyn std::error::Error>;

/// All tasks below a folder, by file name.
fn tasks(folder: &Path, found: &mut BTreeMap<String, PreparedTask>) -> Result<(), Error> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            tasks(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "py") {
            let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let source = std::fs::read_to_string(&path)?;
            let task = TaskSpec { id: TaskId(id.clone()), level: 1, split: Split::Train, tags: Vec::new(), source };
            found.insert(id, PreparedTask::new(&task));
        }
    }
    Ok(())
}

fn task_of(path: &str, text: &str) -> String {
    let named = text.lines().take(6).find_map(|l| l.split_once("task: ").map(|(_, name)| name));
    let stem = Path::new(path).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let stem = stem.split_once("__").map_or(stem.clone(), |(name, _)| name.to_owned());
    named.map_or(stem, |n| n.split_whitespace().next().unwrap_or_default().to_owned())
}

fn main() -> Result<(), Error> {
    let mut known = BTreeMap::new();
    let mut texts = Vec::new();
    let mut paths = std::env::args().skip(1);
    while let Some(path) = paths.next() {
        if path == "--tasks" {
            tasks(Path::new(&paths.next().ok_or("--tasks needs a folder")?), &mut known)?;
        } else {
            texts.push((path.clone(), std::fs::read_to_string(path)?));
        }
    }
    let candidate = |path: &str, text: &str| {
        if path.ends_with(".md") || path.ends_with(".txt") { extract(text) } else { from_python(text) }
    };
    for (path, text) in &texts {
        match candidate(path, text) {
            Ok(candidate) => {
                for finding in lint_prepared(&candidate.source, known.get(&task_of(path, text))).findings {
                    println!("{path}:{}: {} {:?} {}", finding.line, finding.code, finding.severity, finding.message);
                }
            }
            Err(error) => println!("{path}: {error}"),
        }
    }
    let start = Instant::now();
    let (mut done, mut slowest) = (0u32, (0.0, ""));
    while !texts.is_empty() && start.elapsed().as_secs_f64() < 2.0 {
        for (path, text) in &texts {
            let before = Instant::now();
            if let Ok(candidate) = candidate(path, text) {
                std::hint::black_box(lint_prepared(&candidate.source, known.get(&task_of(path, text))));
            }
            let took = before.elapsed().as_secs_f64();
            if took > slowest.0 {
                slowest = (took, path);
            }
            done += 1;
        }
    }
    let rate = f64::from(done) / start.elapsed().as_secs_f64();
    println!("{rate:.0} candidates/s on one core; slowest {:.2} ms: {}", slowest.0 * 1000.0, slowest.1);
    Ok(())
}
