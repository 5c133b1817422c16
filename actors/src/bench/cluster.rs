//! Executors as processes of their own, with stand-in candidates: how the executors' stage scales, and what the head carries.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use serde::Serialize;

use self::stage::{Ended, PATIENCE, Stage, StageConfig, job};
use crate::errors::UserError;
use crate::observe::Silent;
use crate::stop::StopToken;

mod attack;
pub mod drill;
pub mod limits;
pub mod link;
pub mod memory;
pub mod peer;
pub mod relay;
mod sampled;
pub mod scene;
pub mod stage;
pub mod tun;
pub mod versus;
pub mod whole;

#[derive(Clone, Copy, Debug)]
pub struct ClusterBench {
    pub port: u16,
    /// Milliseconds of one candidate.
    pub takes_ms: u64,
    /// Candidates an executor.
    pub each: u64,
    pub nodes: u32,
    /// Executors of a node.
    pub workers: u32,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterFigures {
    pub nodes: u32,
    pub executors: u32,
    pub candidates: u64,
    pub seconds: f64,
    pub candidates_per_s: f64,
    /// Share of the executors' time that was spent on candidates.
    pub efficiency: f64,
    /// From `troupe join` until the last node was ready, and until the first was.
    pub joined_ms: u64,
    pub first_joined_ms: u64,
    /// Processor time of the head's process per second, and per candidate in microseconds; memory.
    pub head_cpu: f64,
    pub head_us_each: f64,
    pub head_rss_mib: f64,
    pub faults: u64,
}

/// One head, so many nodes, all candidates at once.
///
/// # Errors
/// Ports that are taken, processes that cannot be started, nodes or answers that do not come.
pub fn run(bench: ClusterBench, stop: &StopToken) -> Result<ClusterFigures, UserError> {
    let broken = |found: String| {
        UserError::new("the cluster cannot be measured: answers do not come")
            .at(format!("{} nodes, port {}", bench.nodes, bench.port))
            .found(found)
            .expected("an answer for each candidate")
            .hint("try fewer --nodes")
    };
    let executors = bench.nodes * bench.workers;
    let config = StageConfig { port: bench.port, takes_ms: bench.takes_ms, nodes: bench.nodes, workers: bench.workers };
    let stage = Stage::start(config, Arc::new(Silent), stop)?;
    let candidates = bench.each * u64::from(executors);
    let (began, cpu) = (Instant::now(), cpu_s());
    stage.give((0..candidates).map(|n| job(n, 1)).collect());
    let faults = collect(&stage.ended, candidates, stop).map_err(broken)?;
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_s() - cpu);
    let figures = ClusterFigures {
        nodes: bench.nodes,
        executors,
        candidates,
        seconds,
        candidates_per_s: candidates as f64 / seconds,
        efficiency: candidates as f64 * bench.takes_ms as f64 / 1000.0 / (f64::from(executors) * seconds),
        joined_ms: stage.joined_ms,
        first_joined_ms: stage.first_joined_ms,
        head_cpu: cpu / seconds,
        head_us_each: 1e6 * cpu / candidates as f64,
        head_rss_mib: crate::bench::orchestrator::rss_mib(),
        faults,
    };
    stage.finish();
    Ok(figures)
}

fn collect(ended: &Receiver<Ended>, candidates: u64, stop: &StopToken) -> Result<u64, String> {
    let (mut faults, mut last) = (0, Instant::now());
    for n in 0..candidates {
        loop {
            match ended.recv_timeout(Duration::from_millis(200)) {
                Ok(answer) => {
                    faults += u64::from(answer.verdict.is_err());
                    last = Instant::now();
                    break;
                }
                Err(_) if last.elapsed() > PATIENCE || stop.asked() => return Err(format!("{n} of {candidates}")),
                Err(_) => {}
            }
        }
    }
    Ok(faults)
}

/// Processor time of this process, seconds: user and system, in ticks of 10 ms.
fn cpu_s() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold spaces.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}
