//! The fault drill: honest candidates, and among them such as break the device or their process, while workers, zygotes and
//! executors are killed from outside. Every honest verdict has to stay as it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rollout::outcome::Candidate;
use rollout::task::TaskSpec;
use serde::Serialize;

use super::lanes::numbered;
use super::{Item, Lanes, quantile};

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Drill {
    pub candidates: usize,
    pub honest: usize,
    pub honest_right: usize,
    /// Kind to the verdicts that it came to.
    pub kinds: Vec<(String, Vec<(String, usize)>)>,
    /// Processes killed from outside, by kind: how often, and milliseconds until that lane gave its next verdict.
    pub kills: Vec<(String, usize, f64)>,
    /// Faults that were tried again.
    pub faults: usize,
    pub seconds: f64,
    /// The slots' states at the end.
    pub slots: Vec<String>,
    pub wrong: Vec<String>,
}

/// What goes wrong inside a candidate, by kind: code before the honest forward's return.
const KINDS: [(&str, &str); 5] = [
    ("illegal address", "_far[(1,)](x, 1 << 40)"),
    ("device assert", "_assert[(1,)](x)"),
    ("endless kernel", "_spin[(1,)](x)"),
    ("out of memory", "held = [torch.empty(1 << 31, device=x.device, dtype=torch.uint8) for _ in range(60)]"),
    ("exit", "os._exit(1)"),
];

const KERNELS: &str = "
import os

@triton.jit
def _far(x, far):
    tl.store(x + far, 1.0)

@triton.jit(debug=True)
def _assert(x):
    tl.device_assert(tl.load(x) != tl.load(x), 'drill')

@triton.jit
def _spin(x):
    n = 0
    while tl.load(x, volatile=True) == tl.load(x, volatile=True):
        n += 1
    tl.store(x, n)
";

/// What it does wrong, if anything, and what is evaluated.
pub type Made = (Option<&'static str>, (Arc<TaskSpec>, Candidate));

/// `count` candidates made of `honest`, every fifth of which does one of `KINDS` on the device only.
pub fn candidates(honest: &Item, count: usize) -> Vec<Made> {
    (0..count)
        .map(|n| {
            let kind = (n % 5 == 4).then(|| KINDS[n / 5 % KINDS.len()]);
            let source = match kind {
                None => honest.candidate.source.clone(),
                Some((_, code)) => broken(&honest.candidate.source, code),
            };
            let candidate = Candidate { source, digest: honest.candidate.digest.clone() };
            (kind.map(|(name, _)| name), (honest.task.clone(), numbered(&candidate, n)))
        })
        .collect()
}

/// The same with `code` run in forward where the inputs are as large as on the device.
fn broken(source: &str, code: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in source.lines() {
        if line.starts_with("class ModelNew") {
            out.push_str(KERNELS);
            out.push('\n');
        }
        out.push_str(line);
        out.push('\n');
        inside |= line.trim_start().starts_with("def forward(self, x");
        if inside && line.trim_end().ends_with(':') {
            out.push_str(&format!("        if x.numel() > 1000000:\n            {code}\n"));
            inside = false;
        }
    }
    out
}

/// Runs them on `lanes`, killing something from outside every `pause`.
pub async fn drill(honest: &Item, lanes: &Lanes, count: usize, pause: Duration) -> Drill {
    let made = candidates(honest, count);
    let work = Arc::new(made.iter().map(|(_, w)| w.clone()).collect::<Vec<_>>());
    let done = Arc::new(AtomicBool::new(false));
    let killer = tokio::spawn({
        let (executors, gpus, done) = (lanes.executors.clone(), lanes.gpus.clone(), done.clone());
        async move {
            let mut kills: Vec<(&'static str, Instant)> = Vec::new();
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
                    let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
                    kills.push((kind, Instant::now()));
                }
            }
            kills
        }
    });
    let began = Instant::now();
    let judged = lanes.run_unlinted(work, 5).await;
    let seconds = began.elapsed().as_secs_f64();
    done.store(true, Ordering::Relaxed);
    let kills = killer.await.unwrap_or_default();
    let mut report = Drill {
        candidates: count,
        honest: 0,
        honest_right: 0,
        kinds: KINDS.iter().map(|(name, _)| (name.to_string(), Vec::new())).collect(),
        kills: Vec::new(),
        faults: judged.iter().map(|j| j.faults.len()).sum(),
        seconds,
        slots: Vec::new(),
        wrong: Vec::new(),
    };
    for j in &judged {
        match made[j.item].0 {
            None => {
                report.honest += 1;
                let right = j.verdict() == "passed";
                report.honest_right += usize::from(right);
                if !right {
                    report.wrong.push(format!("honest {}: {:?}", j.item, j.result.as_ref().map(|r| &r.outcome)));
                }
            }
            Some(kind) => {
                let Some((_, verdicts)) = report.kinds.iter_mut().find(|(name, _)| name == kind) else { continue };
                match verdicts.iter_mut().find(|(v, _)| v == j.verdict()) {
                    Some((_, n)) => *n += 1,
                    None => verdicts.push((j.verdict().to_owned(), 1)),
                }
                if j.verdict() == "passed" {
                    report.wrong.push(format!("{kind} {} passed", j.item));
                }
            }
        }
    }
    for kind in ["zygote", "referee", "candidate", "device referee"] {
        let times: Vec<Instant> = kills.iter().filter(|(k, _)| *k == kind).map(|(_, at)| *at).collect();
        // The next verdict of anybody after a kill: the service goes on.
        let ends: Vec<Instant> = judged.iter().map(|j| j.ended).collect();
        let next = |at: Instant| ends.iter().filter(|e| **e > at).min().map(|e| (*e - at).as_secs_f64() * 1e3);
        let mut waits: Vec<f64> = times.iter().filter_map(|at| next(*at)).collect();
        report.kills.push((kind.to_owned(), times.len(), quantile(&mut waits, 1.0)));
    }
    for n in 0..lanes.gpus.count() {
        if let Ok(device) = lanes.gpus.of_executor(n).await {
            report.slots.push(device.state());
        }
    }
    report
}

/// The newest process below another.
fn youngest(pid: u32) -> Option<u32> {
    let mut found = None;
    let mut queue = vec![pid];
    while let Some(pid) = queue.pop() {
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            let children: Vec<u32> = children.split_whitespace().filter_map(|n| n.parse().ok()).collect();
            found = children.iter().copied().max().or(found);
            queue.extend(children);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_candidate_breaks_inside_forward_and_only_where_inputs_are_large() {
        let source = "class ModelNew(torch.nn.Module):\n    def forward(self, x):\n        return x\n";
        let made = broken(source, "os._exit(1)");
        let forward = made.split("def forward(self, x):\n").nth(1).unwrap();
        assert!(
            forward.starts_with("        if x.numel() > 1000000:\n            os._exit(1)\n        return x"),
            "{made}"
        );
        assert!(made.find("def _far").unwrap() < made.find("class ModelNew").unwrap());
    }
}
