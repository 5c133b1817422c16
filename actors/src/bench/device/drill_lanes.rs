//! The fault drill's executors, in a process of their own (`--parts drill-lanes`): what is asked for on stdin is evaluated while
//! workers, zygotes and referees are killed; each verdict and each kill is a JSON line on stdout at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::drill::{Made, candidates};
use super::lanes::Judged;
use super::{Item, Lanes};

/// A line of the drill's executors.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Said {
    Verdict {
        item: usize,
        verdict: String,
        outcome: String,
        /// Each fault before it.
        faults: Vec<String>,
        took_ms: f64,
        /// Its stages that took longer than half a second, milliseconds.
        long_ms: BTreeMap<String, f64>,
    },
    Killed {
        kind: String,
    },
    Slots {
        states: Vec<String>,
    },
}

/// Evaluates those of the drill's `count` candidates that are in `wanted`, with a kill every `pause`.
pub async fn drill_lanes(
    honest: &Item,
    lanes: &Lanes,
    count: usize,
    pause: Duration,
    wanted: &BTreeSet<usize>,
    say: impl Fn(&Said) + Send + Sync + 'static,
) {
    let say = Arc::new(say);
    let made: Vec<(usize, Made)> =
        candidates(honest, count).into_iter().enumerate().filter(|(n, _)| wanted.contains(n)).collect();
    let work = Arc::new(made.iter().map(|(_, (_, work))| work.clone()).collect::<Vec<_>>());
    let done = Arc::new(AtomicBool::new(false));
    let killer = tokio::spawn(kill_some(lanes.executors.clone(), lanes.gpus.clone(), pause, done.clone(), say.clone()));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel::<Judged>();
    let numbers: Vec<usize> = made.iter().map(|(n, _)| *n).collect();
    let teller = tokio::spawn({
        let say = say.clone();
        async move {
            while let Some(j) = told.recv().await {
                let outcome = j.result.as_ref().map_or_else(|f| f.to_string(), |r| format!("{:?}", r.outcome));
                say(&Said::Verdict {
                    item: numbers[j.item],
                    verdict: j.verdict().to_owned(),
                    outcome: outcome.chars().take(300).collect(),
                    faults: j.faults.iter().map(ToString::to_string).collect(),
                    took_ms: j.took.as_secs_f64() * 1e3,
                    long_ms: long(&j),
                });
            }
        }
    });
    lanes.run_unlinted(work, RETRIES, tell).await;
    done.store(true, Ordering::Relaxed);
    let _ = teller.await;
    killer.abort();
    let mut states = Vec::new();
    for n in 0..lanes.gpus.count() {
        if let Ok(device) = lanes.gpus.of_executor(n).await {
            states.push(device.state());
        }
    }
    say(&Said::Slots { states });
}

fn long(judged: &Judged) -> BTreeMap<String, f64> {
    let all = judged.result.as_ref().map(|r| r.phase_ms.clone()).unwrap_or_default();
    all.into_iter().filter(|(_, ms)| *ms > LONG_MS).collect()
}

/// A stage that takes longer is told.
const LONG_MS: f64 = 500.0;
/// A candidate may meet several kills.
const RETRIES: usize = 5;

/// Kills a zygote, a referee, a candidate, the device's referee, in turn.
async fn kill_some(
    executors: Vec<Arc<sandbox::executor::Executor>>,
    gpus: Arc<crate::policy::Gpus>,
    pause: Duration,
    done: Arc<AtomicBool>,
    say: Arc<impl Fn(&Said)>,
) {
    let mut turn = 0;
    while !done.load(Ordering::Relaxed) {
        tokio::time::sleep(pause).await;
        let executor = &executors[turn % executors.len()];
        let (kind, pid) = match turn % 4 {
            0 => ("zygote", executor.running_pids()[0]),
            1 => ("referee", executor.running_pids()[1]),
            2 => ("candidate", executor.running_pids()[0].and_then(youngest)),
            _ => (
                "device referee",
                match gpus.of_executor(turn).await {
                    Ok(device) => device.running_referee(),
                    Err(_) => None,
                },
            ),
        };
        turn += 1;
        if let Some(pid) = pid {
            say(&Said::Killed { kind: kind.to_owned() });
            let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }
}

/// The newest process below another.
fn youngest(pid: u32) -> Option<u32> {
    below(pid).into_iter().max()
}

/// Every process below another.
pub(super) fn below(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut queue = vec![pid];
    while let Some(pid) = queue.pop() {
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            let children: Vec<u32> = children.split_whitespace().filter_map(|n| n.parse().ok()).collect();
            found.extend(children.iter().copied());
            queue.extend(children);
        }
    }
    found
}
