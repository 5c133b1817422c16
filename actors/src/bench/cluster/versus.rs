//! The executors' stage as a loop, ours and Ray's, with the same payloads and the same number in flight.
//!
//! Per rollout: a prompt's ids, a stand-in completion (token ids, log-probs, text), the candidate's source to an executor in another
//! process, its verdict back, and a stand-in update per `STEP` rollouts. Generator and learner live with the head, as in `troupe run`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rollout::completion::{Completion, Finish, PolicySpan};
use rollout::id::PolicyVersion;
use serde::{Deserialize, Serialize};

use super::stage::{Stage, StageConfig, TEXT, job_of, source};
use super::{memory, stage};
use crate::errors::UserError;
use crate::observe::Silent;
use crate::stop::StopToken;

/// Tokens of a stand-in completion, and of its prompt.
pub const TOKENS: usize = 384;
pub const PROMPT_TOKENS: usize = 128;
/// Rollouts of one stand-in update.
pub const STEP: usize = 64;

/// What both sides do.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Load {
    pub takes_ms: u64,
    pub nodes: u32,
    /// Executors of a node.
    pub workers: u32,
    /// Candidates under way at once.
    pub in_flight: u64,
    pub warm_up_s: f64,
    pub seconds: f64,
}

/// What one side reached.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reached {
    pub rollouts: u64,
    pub seconds: f64,
    pub rollouts_per_s: f64,
    /// From the completion to its verdict, milliseconds.
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Memory of all processes together, each shared page counted once, at its highest, MiB.
    #[serde(default)]
    pub pss_mib: f64,
    #[serde(default)]
    pub processes: usize,
    pub versions: String,
}

/// A stand-in answer; its text is the candidate.
fn complete(prompt: &[u32], n: u64) -> Completion {
    Completion {
        prompt_tokens: prompt.to_vec(),
        tokens: vec![prompt[0]; TOKENS],
        logprobs: vec![-0.01; TOKENS],
        spans: vec![PolicySpan { start: 0, policy: PolicyVersion(0) }],
        finish: Finish::Stop,
        text: source(n),
        plan_tokens: None,
    }
}

/// Ours: pool, gateway, `ractor_cluster` and nodes as `troupe join` runs them.
///
/// # Errors
/// As [`Stage::start`]; an answer that does not come, or a fault.
pub fn ours(port: u16, load: &Load, stop: &StopToken) -> Result<Reached, UserError> {
    let config = StageConfig { port, takes_ms: load.takes_ms, nodes: load.nodes, workers: load.workers };
    let stage = Stage::start(config, std::sync::Arc::new(Silent), stop)?;
    let watch = memory::Watch::start(std::process::id());
    let found = drive(&stage, load, stop);
    let (pss_mib, processes) = watch.end();
    stage.finish();
    Ok(Reached { pss_mib, processes, ..found? })
}

fn drive(stage: &Stage, load: &Load, stop: &StopToken) -> Result<Reached, UserError> {
    let broken = |found: String| UserError::new("the loop came to a stand").found(found).expected("a verdict for each");
    let prompt: Vec<u32> = (0..PROMPT_TOKENS as u32).collect();
    let mut flying: HashMap<u64, (Instant, Completion)> = HashMap::new();
    let (mut next, mut batch, mut sum) = (0u64, Vec::with_capacity(STEP), 0.0f64);
    let mut latencies: Vec<f64> = Vec::new();
    let mut issue = |count: usize, flying: &mut HashMap<u64, (Instant, Completion)>| {
        let jobs = (0..count).map(|_| {
            let n = next;
            next += 1;
            let completion = complete(&prompt, n);
            let job = job_of(n, 1, completion.text.clone());
            flying.insert(n, (Instant::now(), completion));
            job
        });
        stage.give(jobs.collect());
    };
    issue(load.in_flight as usize, &mut flying);
    let (mut rollouts, mut seconds) = (0, 0.0);
    for phase_s in [load.warm_up_s, load.seconds] {
        latencies.clear();
        let began = Instant::now();
        rollouts = 0u64;
        while began.elapsed().as_secs_f64() < phase_s {
            let first = stage.ended.recv_timeout(stage::PATIENCE).map_err(|_| broken("nothing came back".into()))?;
            let mut count = 0;
            for ended in std::iter::once(first).chain(stage.ended.try_iter()) {
                let passed = ended.verdict.map_err(|code| broken(format!("fault {code}")))?;
                let (issued, completion) =
                    flying.remove(&ended.rollout.0).ok_or_else(|| broken("an answer twice".into()))?;
                latencies.push(ended.at.duration_since(issued).as_secs_f64() * 1e3);
                batch.push((passed, completion));
                count += 1;
            }
            if batch.len() >= STEP {
                sum += batch
                    .drain(..)
                    .map(|(passed, c)| f64::from(u8::from(passed)) * f64::from(c.logprobs.iter().sum::<f32>()))
                    .sum::<f64>();
            }
            rollouts += count as u64;
            issue(count, &mut flying);
            if stop.asked() {
                return Err(broken("asked to stop".into()));
            }
        }
        seconds = began.elapsed().as_secs_f64();
    }
    std::hint::black_box(sum);
    latencies.sort_by(f64::total_cmp);
    let quantile = |q: f64| latencies.get(((q * latencies.len() as f64) as usize).min(latencies.len() - 1)).copied();
    Ok(Reached {
        rollouts,
        seconds,
        rollouts_per_s: rollouts as f64 / seconds,
        p50_ms: quantile(0.5).unwrap_or(0.0),
        p99_ms: quantile(0.99).unwrap_or(0.0),
        versions: format!("troupe {}, ractor_cluster 0.16.5", env!("CARGO_PKG_VERSION")),
        ..Reached::default()
    })
}

/// What a peer's program is told.
#[derive(Clone, Debug, Serialize)]
pub struct PeerPlan {
    #[serde(flatten)]
    pub load: Load,
    /// `driver` or `actors`.
    pub layout: &'static str,
    /// Candidates in one call.
    pub batch: u64,
    pub tokens: usize,
    pub prompt_tokens: usize,
    pub text_bytes: usize,
    pub step: usize,
    pub cpus: usize,
    pub object_store_bytes: u64,
    pub temp_dir: String,
    /// One executor's worker takes one candidate at a time, in a call of several too.
    pub serial: bool,
}

impl PeerPlan {
    pub fn new(load: Load, layout: &'static str, batch: u64, temp_dir: &std::path::Path) -> PeerPlan {
        PeerPlan {
            load,
            layout,
            batch,
            tokens: TOKENS,
            prompt_tokens: PROMPT_TOKENS,
            text_bytes: TEXT,
            step: STEP,
            cpus: std::thread::available_parallelism().map_or(1, Into::into),
            object_store_bytes: 256 << 20,
            temp_dir: temp_dir.display().to_string(),
            serial: true,
        }
    }

    /// Start-up of the peer, its actors and its end.
    pub fn limit(&self) -> Duration {
        Duration::from_secs_f64(180.0 + self.load.warm_up_s + self.load.seconds)
    }
}
