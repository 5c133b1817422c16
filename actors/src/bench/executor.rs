//! `troupe bench executor --cpu`: what one verified candidate costs with everything switched on, beside its peer: a
//! fresh Python process for each candidate that makes KernelBench's checks and no others.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rollout::id::Digest;
use rollout::outcome::{Candidate, Fault};
use rollout::task::TaskSpec;
use sandbox::executor::{Executor, ExecutorConfig};
use serde::Serialize;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;

const PEER: &str = include_str!("kernelbench_check.py");
/// For one process of the peer.
const PEER_LIMIT: Duration = Duration::from_secs(120);
const WARM_UP: usize = 3;

/// What was measured. Times are wall time.
#[derive(Clone, Debug, Serialize)]
pub struct ExecutorBench {
    pub candidates: usize,
    pub workers: usize,
    /// One candidate after the other on one warm executor, lint included, milliseconds.
    pub median_ms: f64,
    pub p95_ms: f64,
    pub max_ms: f64,
    /// All workers at once.
    pub per_s: f64,
    /// The peer, as many processes at once as there are workers.
    pub peer_candidates: usize,
    pub peer_median_ms: f64,
    pub peer_per_s: f64,
    pub ratio: f64,
}

/// # Errors
/// A fault; a candidate that is not correct on either side is one, since then the figures compare nothing.
pub async fn run(
    task: &TaskSpec,
    candidate: &Candidate,
    candidates: usize,
    peer_candidates: usize,
    workers: usize,
    config: impl Fn(usize) -> ExecutorConfig,
) -> Result<ExecutorBench, Fault> {
    let (task, candidate) = (Arc::new(task.clone()), Arc::new(candidate.clone()));
    let mut executors = Vec::new();
    for number in 0..workers.max(1) {
        let executor = Executor::start(config(number)).await?;
        for n in 0..WARM_UP {
            verify(&executor, &task, &numbered(&candidate, usize::MAX - n)).await?;
        }
        executors.push(executor);
    }
    let mut alone = Vec::new();
    for n in 0..candidates {
        alone.push(verify(&executors[0], &task, &numbered(&candidate, n)).await?);
    }
    let began = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for executor in executors {
        let (task, candidate, next) = (task.clone(), candidate.clone(), next.clone());
        tasks.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= candidates {
                    return Ok(executor);
                }
                verify(&executor, &task, &numbered(&candidate, candidates + n)).await?;
            }
        });
    }
    let done: Vec<Result<Executor, Fault>> = tasks.join_all().await;
    let per_s = candidates as f64 / began.elapsed().as_secs_f64();
    for executor in done {
        executor?.shutdown().await;
    }
    let python = config(0).python;
    let (peer_per_s, mut peer) = peers(&python, &task, &candidate, peer_candidates, workers.max(1)).await?;
    Ok(ExecutorBench {
        candidates,
        workers: workers.max(1),
        median_ms: quantile(&mut alone, 0.5),
        p95_ms: quantile(&mut alone, 0.95),
        max_ms: quantile(&mut alone, 1.0),
        per_s,
        peer_candidates,
        peer_median_ms: quantile(&mut peer, 0.5),
        peer_per_s,
        ratio: per_s / peer_per_s,
    })
}

/// One candidate through lint, sandbox and evidence: milliseconds.
async fn verify(executor: &Executor, task: &TaskSpec, candidate: &Candidate) -> Result<f64, Fault> {
    let began = Instant::now();
    let ruling = reward::judge_candidate(candidate.clone(), Some(task));
    if let rollout::outcome::Ruling::Reject { outcome, .. } = ruling {
        return Err(wrong(format!("the bench's candidate is {outcome:?}")));
    }
    let report = reward::evidence::weigh(executor.evaluate(task, candidate).await?);
    if !report.outcome.is_correct() {
        return Err(wrong(format!("the bench's candidate is {:?}", report.outcome)));
    }
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// The same program under another digest: other seeds, nothing remembered.
fn numbered(candidate: &Candidate, n: usize) -> Candidate {
    Candidate { source: format!("{}\n# {n}\n", candidate.source), digest: Digest(format!("bench {n}")) }
}

fn wrong(message: String) -> Fault {
    Fault { code: "F999".into(), message }
}

/// Candidates per second and milliseconds of each, `at_once` processes at a time.
async fn peers(
    python: &Path,
    task: &TaskSpec,
    candidate: &Candidate,
    count: usize,
    at_once: usize,
) -> Result<(f64, Vec<f64>), Fault> {
    let io = |e: std::io::Error| wrong(format!("the peer could not be run: {e}"));
    let dir = tempfile::tempdir().map_err(io)?;
    for (name, text) in [("check.py", PEER), ("task.py", &task.source), ("candidate.py", &candidate.source)] {
        std::fs::write(dir.path().join(name), text).map_err(io)?;
    }
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..at_once {
        let (python, dir, next) = (python.to_path_buf(), dir.path().to_path_buf(), next.clone());
        tasks.spawn(async move {
            let mut spent = Vec::new();
            while next.fetch_add(1, Ordering::Relaxed) < count {
                let began = Instant::now();
                let mut command = Command::new(&python);
                command.args(["check.py", "task.py", "candidate.py"]).current_dir(&dir).kill_on_drop(true);
                let output = timeout(PEER_LIMIT, command.stdin(Stdio::null()).output()).await;
                let output = output.map_err(|_| wrong("the peer took too long".into()))?.map_err(io)?;
                let said = String::from_utf8_lossy(&output.stdout);
                if said.trim() != "correct" {
                    let log = String::from_utf8_lossy(&output.stderr);
                    return Err(wrong(format!("the peer said {said:?}: {log}")));
                }
                spent.push(began.elapsed().as_secs_f64() * 1e3);
            }
            Ok(spent)
        });
    }
    let mut all = Vec::new();
    for spent in tasks.join_all().await {
        all.extend(spent?);
    }
    Ok((all.len() as f64 / began.elapsed().as_secs_f64(), all))
}

/// By the nearest rank; 0 of nothing.
fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (q * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_by_the_nearest_rank() {
        let mut values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!([0.5, 0.95, 1.0].map(|q| quantile(&mut values, q)), [3.0, 5.0, 5.0]);
        assert_eq!(quantile(&mut [], 0.5), 0.0);
    }
}
