//! `troupe bench generator`: tokens per second of the engine, against the memory's speed and against a peer.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use burn::tensor::backend::Backend;
use model::engine::{Engine, EngineConfig, EngineError, Request};
use model::sampling::Sampling;
use model::{ModelConfig, Transformer};
use rollout::id::PolicyVersion;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

/// What is sampled.
#[derive(Clone, Debug, Serialize)]
pub struct Load {
    /// At once; all begin together.
    pub sequences: usize,
    /// Of one prompt.
    pub group: usize,
    pub prompt_tokens: usize,
    pub answer_tokens: usize,
}

/// Times are wall time, of the second of two rounds.
#[derive(Clone, Debug, Serialize)]
pub struct GeneratorBench {
    pub shape: String,
    pub device: String,
    pub load: Load,
    /// Making the engine, and the first round: compilation, weights, memory, recorded steps.
    pub start_s: f64,
    pub warm_up_s: f64,
    /// Prompts that differ, in tokens, over the first step's time less a usual step's.
    pub prefill_ms: f64,
    pub prefill_tokens_per_s: f64,
    pub step_ms: f64,
    pub step_p95_ms: f64,
    /// All steps but the first.
    pub decode_tokens_per_s: f64,
    /// Prompts included.
    pub tokens_per_s: f64,
    /// One call of `adopt`: decoding stands still that long.
    pub adopt_ms: f64,
    /// Only on a GPU.
    pub memory: Option<Memory>,
    pub peer: Option<Peer>,
    pub ratio: Option<f64>,
}

/// Bytes that a step has to read, against what the memory can give.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    pub weight_bytes: usize,
    /// Keys and values, the mean of all steps.
    pub cache_bytes: f64,
    pub nominal_gb_per_s: f64,
    pub copied_gb_per_s: f64,
    /// Of the nominal bandwidth, and of what a copy reaches.
    pub share: f64,
    pub share_of_copy: f64,
}

/// `transformers.generate`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Peer {
    pub batch: usize,
    pub seconds: f64,
    pub tokens_per_s: f64,
    pub versions: String,
}

/// # Errors
/// What the engine says.
pub fn run<B: Backend>(
    shape: &str,
    device: &str,
    load: &Load,
    network: &Transformer<B>,
    make: impl FnOnce(EngineConfig) -> Result<Engine<B>, EngineError>,
) -> Result<GeneratorBench, EngineError> {
    let began = Instant::now();
    let max_seq_len = load.prompt_tokens + load.answer_tokens + 1;
    let mut engine = make(EngineConfig { max_batch: load.sequences, max_seq_len, threads: crate::sft::threads() })?;
    let start_s = began.elapsed().as_secs_f64();
    let began = Instant::now();
    round(&mut engine, load, network.vocab_size(), 0)?;
    let warm_up_s = began.elapsed().as_secs_f64();
    let steps = round(&mut engine, load, network.vocab_size(), 1)?;
    let (first, others) = (steps[0], &steps[1..]);
    let mut sorted = others.to_vec();
    sorted.sort_by(f64::total_cmp);
    let quantile =
        |q: f64| sorted.get(((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1))).copied();
    let (step, p95) = (quantile(0.5).unwrap_or(first), quantile(0.95).unwrap_or(first));
    let decoding: f64 = others.iter().sum();
    let tokens = (load.sequences * others.len()) as f64;
    let prompts = load.sequences.div_ceil(load.group.max(1)) * load.prompt_tokens;
    let prefill = (first - step).max(1e-9);
    let began = Instant::now();
    engine.adopt(network, PolicyVersion(1))?;
    let adopt_ms = began.elapsed().as_secs_f64() * 1e3;
    Ok(GeneratorBench {
        shape: shape.into(),
        device: device.into(),
        load: load.clone(),
        start_s,
        warm_up_s,
        prefill_ms: prefill * 1e3,
        prefill_tokens_per_s: prompts as f64 / prefill,
        step_ms: step * 1e3,
        step_p95_ms: p95 * 1e3,
        decode_tokens_per_s: tokens / decoding,
        tokens_per_s: (load.sequences * steps.len()) as f64 / (first + decoding),
        adopt_ms,
        memory: memory(&engine, load, decoding / others.len().max(1) as f64)?,
        peer: None,
        ratio: None,
    })
}

/// All sequences from their prompts to their last tokens: seconds of each step.
fn round<B: Backend>(engine: &mut Engine<B>, load: &Load, vocab: usize, round: usize) -> Result<Vec<f64>, EngineError> {
    for i in 0..load.sequences {
        // Prompts of other rounds and groups begin differently: none is in a cache.
        let (group, seed) = (i / load.group.max(1), (round * load.sequences + i) as u64);
        let prompt = (0..load.prompt_tokens).map(|t| ((t * 7919 + group * 104_729 + round * 1_299_709) % vocab) as u32);
        engine.admit(Request {
            id: i as u64,
            prompt: prompt.collect(),
            seed,
            sampling: Sampling::default(),
            max_new_tokens: load.answer_tokens,
            eos: Vec::new(),
        })?;
    }
    let mut steps = Vec::with_capacity(load.answer_tokens);
    while !engine.is_idle() {
        let began = Instant::now();
        engine.step()?;
        steps.push(began.elapsed().as_secs_f64());
    }
    Ok(steps)
}

#[cfg(feature = "cuda")]
fn memory<B: Backend>(engine: &Engine<B>, load: &Load, step_s: f64) -> Result<Option<Memory>, EngineError> {
    let Some(gpu) = engine.gpu() else { return Ok(None) };
    let found = model::device::generate::bandwidth::Bandwidth::measure(gpu.runtime())?;
    // The mean length over all steps but the first.
    let positions = load.prompt_tokens as f64 + load.answer_tokens as f64 / 2.0;
    let cache_bytes = load.sequences as f64 * positions * gpu.position_bytes() as f64;
    let speed = (gpu.weight_bytes() as f64 + cache_bytes) / step_s;
    Ok(Some(Memory {
        weight_bytes: gpu.weight_bytes(),
        cache_bytes,
        nominal_gb_per_s: found.nominal / 1e9,
        copied_gb_per_s: found.copied / 1e9,
        share: speed / found.nominal,
        share_of_copy: speed / found.copied,
    }))
}

#[cfg(not(feature = "cuda"))]
fn memory<B: Backend>(_: &Engine<B>, _: &Load, _: f64) -> Result<Option<Memory>, EngineError> {
    Ok(None)
}

/// The peer's script, with the shape's sizes; it prints one line of JSON.
///
/// # Errors
/// It cannot be started, does not end in time, or prints something else.
pub async fn peer(
    python: &Path,
    script: &Path,
    config: &ModelConfig,
    load: &Load,
    batch: usize,
    limit: Duration,
) -> std::io::Result<Peer> {
    let other = |what: String| std::io::Error::other(what);
    let sizes = serde_json::to_string(config).map_err(std::io::Error::other)?;
    let child = Command::new(python)
        .arg(script)
        .args([sizes, batch.to_string(), load.prompt_tokens.to_string(), load.answer_tokens.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let ended = tokio::time::timeout(limit, child.wait_with_output()).await;
    let output = ended.map_err(|_| other(format!("the peer did not end within {} s", limit.as_secs())))??;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last)
        .map_err(|e| other(format!("the peer ended with {} and said {last:?}: {e}", output.status)))
}
