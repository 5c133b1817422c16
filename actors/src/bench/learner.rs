//! `troupe bench learner`: what one update of the policy costs, from the first step of a fresh process to the last.
//!
//! Random weights of a known shape, made-up tokens, the learner of a run (`model::learner`): forward, backward, the gradient's
//! norm, AdamW. Tokens are those of the samples, each with its own prompt, whatever is padded, packed or shared to compute them.

use std::time::Instant;

use burn::tensor::backend::AutodiffBackend;
use model::ModelConfig;
use model::config::Family;
use model::kernels::Kernels;
use model::learner::{Learner, LearnerError, TrainSample};
use model::lora::{LoraConfig, Target};
use model::loss::LossConfig;
use model::optim::OptimConfig;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Known shapes, by name.
pub const SHAPES: [&str; 4] = ["tiny", "smollm2-135m", "qwen3-0.6b", "qwen3-8b"];
/// Batch layouts, by name.
pub const LAYOUTS: [&str; 4] = ["4x1024", "8x1024", "2x2048", "ragged"];
/// The rollouts of `ragged`: prompts, answers a prompt, tokens of a prompt, and the answers' lengths: log-normal, clipped.
pub const RAGGED: Ragged =
    Ragged { prompts: 4, group: 8, prompt_tokens: 256, median: 350.0, sigma: 0.8, shortest: 32, longest: 1792 };

/// See [`RAGGED`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ragged {
    pub prompts: usize,
    pub group: usize,
    pub prompt_tokens: usize,
    pub median: f64,
    pub sigma: f64,
    pub shortest: usize,
    pub longest: usize,
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct LearnerBench {
    pub shape: String,
    /// Layers in place of the shape's own.
    pub layers: Option<usize>,
    pub layout: String,
    /// Timed steps after the first.
    pub steps: usize,
    /// Sequences a pass.
    pub micro_batch: usize,
    /// TFLOP/s that the device can do at most, for the utilisation.
    pub peak_tflops: Option<f64>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LearnerFigures {
    pub shape: String,
    pub parameters: usize,
    /// The adapters' rank, where only they are trained.
    pub lora: Option<usize>,
    pub layout: String,
    pub samples: usize,
    /// Prompt and answer, over all samples.
    pub tokens: usize,
    /// Seconds from the start of the process to the end of the first step of this layout (of an earlier layout's steps too).
    pub first_step_s: f64,
    /// Seconds of the first step alone.
    pub warm_up_s: f64,
    /// Milliseconds of each timed step.
    pub step_ms: Vec<f64>,
    pub median_ms: f64,
    pub tokens_per_s: f64,
    /// By the operations that the samples need, nothing recomputed, padded or shared (with adapters: no gradients of whole matrices).
    pub tflops: f64,
    /// Share of `peak_tflops`.
    pub utilisation: Option<f64>,
    /// Memory of the device that is taken at the end, by anybody; kept buffers make it the peak of this process. GiB.
    pub device_gib: Option<f64>,
    /// The last step's numbers, to see that something was learned from.
    pub loss: f64,
    pub grad_norm: f64,
}

/// What the peer measured (`tests/device/torch_learner_peer.py`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerFigures {
    pub name: String,
    pub first_step_s: f64,
    pub step_ms: Vec<f64>,
    pub median_ms: f64,
    pub tokens_per_s: f64,
    /// Memory of the device that the peer had reserved at most, its context not counted. GiB.
    pub device_gib: f64,
}

/// The network of a known shape.
pub fn config(shape: &str, layers: Option<usize>) -> Option<ModelConfig> {
    let (family, sizes, theta, eps, tied) = match shape {
        "tiny" => (Family::Qwen3, [1024, 192, 512, 4, 6, 2, 32], 1e4, 1e-6, true),
        "smollm2-135m" => (Family::Llama, [49_152, 576, 1536, 30, 9, 3, 64], 1e5, 1e-5, true),
        "qwen3-0.6b" => (Family::Qwen3, [151_936, 1024, 3072, 28, 16, 8, 128], 1e6, 1e-6, true),
        "qwen3-8b" => (Family::Qwen3, [151_936, 4096, 12_288, 36, 32, 8, 128], 1e6, 1e-6, false),
        _ => return None,
    };
    let [vocab_size, hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim] = sizes;
    Some(ModelConfig {
        family,
        vocab_size,
        hidden_size,
        intermediate_size,
        num_layers: layers.unwrap_or(num_layers),
        num_heads,
        num_kv_heads,
        head_dim,
        rms_norm_eps: eps,
        rope_theta: theta,
        rope_scaling: None,
        tie_word_embeddings: tied,
        attention_bias: false,
        mlp_bias: false,
        max_position_embeddings: 8192,
        eos_token_ids: vec![1],
        bos_token_id: None,
        pad_token_id: None,
    })
}

/// Prompt and answer lengths of a layout's samples; samples of one group are neighbours and share their prompt.
pub fn lengths(layout: &str) -> Option<Vec<(usize, usize)>> {
    let even = |count: usize, seq: usize| vec![(1, seq); count];
    match layout {
        "4x1024" => Some(even(4, 1024)),
        "8x1024" => Some(even(8, 1024)),
        "2x2048" => Some(even(2, 2048)),
        "ragged" => Some(ragged(&RAGGED)),
        _ => None,
    }
}

/// The distribution's own quantiles, in an order that has nothing to do with their size.
fn ragged(r: &Ragged) -> Vec<(usize, usize)> {
    let count = r.prompts * r.group;
    (0..count)
        .map(|i| {
            // 11 has no factor in common with any power of two: each quantile once, where the count is one.
            let q = ((i * 11 % count) as f64 + 0.5) / count as f64;
            let answer = (r.median.ln() + r.sigma * quantile(q)).exp();
            (r.prompt_tokens, (answer as usize).clamp(r.shortest, r.longest))
        })
        .collect()
}

/// Of the normal distribution, to about 5e-4 (Abramowitz and Stegun, 26.2.23).
fn quantile(q: f64) -> f64 {
    let tail = |p: f64| {
        let t = (-2.0 * p.ln()).sqrt();
        t - (2.515517 + 0.802853 * t + 0.010328 * t * t)
            / (1.0 + 1.432788 * t + 0.189269 * t * t + 0.001308 * t * t * t)
    };
    if q < 0.5 { -tail(q) } else { tail(1.0 - q) }
}

fn samples(config: &ModelConfig, lengths: &[(usize, usize)], group: usize) -> Vec<TrainSample> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let total: usize = lengths.iter().map(|l| l.1).sum();
    let mut draw = |n: usize| -> Vec<u32> { (0..n).map(|_| rng.random_range(2..config.vocab_size as u32)).collect() };
    let mut prompt = Vec::new();
    let sample = |(i, (asked, answer)): (usize, &(usize, usize))| {
        if i % group == 0 {
            prompt = draw(*asked);
        }
        TrainSample {
            prompt: prompt.clone(),
            tokens: draw(*answer),
            // What a network that knows nothing thinks of every token: ratios near 1.
            logprobs: vec![-(config.vocab_size as f32).ln(); *answer],
            plan_tokens: 0,
            plan_advantage: 0.0,
            code_advantage: if i % 2 == 0 { 1.0 } else { -0.5 },
            plan_weight: 0.0,
            code_weight: 1.0 / total as f32,
        }
    };
    lengths.iter().enumerate().map(sample).collect()
}

/// Operations of one update: two a weight and token forward, twice that backward; attention by the pairs that see one another.
///
/// With adapters a frozen weight takes two backward (its input's gradient; the network's own input has none, which is not taken off),
/// and an adapter, which is added to its matrix beforehand, four: `x A^T` or `dy B`, and from it the other one's gradient.
/// Adding them is not counted.
fn operations(config: &ModelConfig, lengths: &[(usize, usize)], lora: Option<usize>) -> f64 {
    let (d, q) = (config.hidden_size as f64, (config.num_heads * config.head_dim) as f64);
    let (kv, ff) = ((config.num_kv_heads * config.head_dim) as f64, config.intermediate_size as f64);
    let layer = d * (q + 2.0 * kv) + q * d + 3.0 * d * ff;
    let (layers, head) = (config.num_layers as f64, d * config.vocab_size as f64);
    let (a_weight, adapters) = match lora {
        None => (6.0, 0.0),
        // Sums of inputs and outputs of the seven matrices.
        Some(rank) => (4.0, rank as f64 * ((d + q) + 2.0 * (d + kv) + (q + d) + 3.0 * (d + ff))),
    };
    let one = |(prompt, answer): &(usize, usize)| {
        let rows = (prompt + answer - 1) as f64;
        let pairs = rows * (rows + 1.0) / 2.0;
        let products = layers * (a_weight * layer + 4.0 * adapters) * rows;
        products + a_weight * head * *answer as f64 + 3.0 * layers * 4.0 * q * pairs
    };
    lengths.iter().map(one).sum::<f64>()
}

/// A learner of a shape, kept for several layouts.
pub struct Bench<AB: AutodiffBackend> {
    config: ModelConfig,
    shape: String,
    lora: Option<usize>,
    learner: Learner<AB>,
}

/// The optimizer of every measurement.
pub fn optim() -> OptimConfig {
    OptimConfig { lr: 1e-5, ..OptimConfig::default() }
}

/// Adapters on every matrix.
pub fn adapters(rank: usize) -> LoraConfig {
    LoraConfig { rank, alpha: 2.0 * rank as f64, targets: Target::ALL.to_vec(), rslora: false }
}

impl<AB: AutodiffBackend + Kernels> Bench<AB> {
    /// A learner of a network of the sizes of `config`; `lora`: the rank of its adapters, if it has some.
    pub fn new(shape: &str, config: ModelConfig, learner: Learner<AB>, lora: Option<usize>) -> Self {
        Self { config, shape: shape.to_string(), lora, learner }
    }

    pub fn learner(&self) -> &Learner<AB> {
        &self.learner
    }

    /// None where the layout is not known.
    pub fn run(
        &mut self,
        wanted: &LearnerBench,
        device_gib: impl Fn() -> Option<f64>,
    ) -> Result<Option<LearnerFigures>, LearnerError> {
        let Some(lengths) = lengths(&wanted.layout) else { return Ok(None) };
        let group = if wanted.layout == "ragged" { RAGGED.group } else { 1 };
        let samples = samples(&self.config, &lengths, group);
        let loss = LossConfig { micro_batch: wanted.micro_batch, ..LossConfig::default() };
        let started = Instant::now();
        let mut report = self.learner.train_step(&samples, &loss)?;
        let (warm_up_s, first_step_s) = (started.elapsed().as_secs_f64(), since_start());
        let mut step_ms = Vec::with_capacity(wanted.steps);
        for _ in 0..wanted.steps {
            let started = Instant::now();
            report = self.learner.train_step(&samples, &loss)?;
            step_ms.push(started.elapsed().as_secs_f64() * 1e3);
        }
        let median_ms = median(&step_ms).unwrap_or(warm_up_s * 1e3);
        let tokens: usize = lengths.iter().map(|l| l.0 + l.1).sum();
        let tflops = operations(&self.config, &lengths, self.lora) / median_ms / 1e9;
        Ok(Some(LearnerFigures {
            shape: self.shape.clone(),
            parameters: self.config.num_parameters(),
            lora: self.lora,
            layout: wanted.layout.clone(),
            samples: samples.len(),
            tokens,
            first_step_s,
            warm_up_s,
            median_ms,
            tokens_per_s: tokens as f64 / median_ms * 1e3,
            tflops,
            utilisation: wanted.peak_tflops.map(|peak| tflops / peak),
            device_gib: device_gib(),
            step_ms,
            loss: report.loss,
            grad_norm: report.grad_norm,
        }))
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// Seconds since this process started, by the kernel's clock; 0 where `/proc` does not tell.
fn since_start() -> f64 {
    // proc_pid_stat(5): field 22, in ticks of 10 ms (USER_HZ is 100 on Linux); the name before it may hold spaces.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks =
        stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)).and_then(|t| t.parse::<f64>().ok());
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let now = uptime.split_whitespace().next().and_then(|s| s.parse::<f64>().ok());
    now.zip(ticks).map_or(0.0, |(now, ticks)| (now - ticks / 100.0).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::learner::Execution;

    #[test]
    fn layouts_and_shapes_are_what_their_names_say() {
        let parameters = |shape| config(shape, None).expect("known").num_parameters();
        assert_eq!(SHAPES.map(parameters), [1_771_456, 134_515_008, 596_049_920, 8_190_735_360]);
        assert!(LAYOUTS.iter().all(|l| lengths(l).is_some()) && lengths("3x7").is_none());
        let mut answers: Vec<usize> = lengths("ragged").expect("known").iter().map(|l| l.1).collect();
        answers.sort_unstable();
        assert_eq!((answers.len(), answers[0], answers[31]), (32, 62, 1792));
        assert!((answers[15] as f64 - 340.0).abs() < 15.0, "{answers:?}");
        assert!((quantile(0.975) - 1.96).abs() < 1e-3 && (quantile(0.5)).abs() < 1e-3);
    }

    /// By hand, for one token of one layer: 6 or 4 operations a weight, 12 a pair of attention, 4 an adapter's weight.
    #[test]
    fn operations_are_counted_by_what_is_trained() {
        let config = config("tiny", Some(1)).expect("known");
        let (d, q, kv, ff, vocab) = (192.0, 192.0, 64.0, 512.0, 1024.0);
        let layer: f64 = d * (q + 2.0 * kv) + q * d + 3.0 * d * ff;
        let all = operations(&config, &[(1, 1)], None);
        assert_eq!(all, 6.0 * (layer + d * vocab) + 12.0 * q);
        let adapters = 8.0 * (2.0 * (d + q) + 2.0 * (d + kv) + 3.0 * (d + ff));
        assert_eq!(operations(&config, &[(1, 1)], Some(8)), 4.0 * (layer + d * vocab) + 12.0 * q + 4.0 * adapters);
    }

    #[test]
    fn a_tiny_network_is_measured_on_a_processor() {
        let config = config("tiny", Some(1)).expect("known");
        let network = config.init_cheap::<model::Cpu>(1, &Default::default());
        let learner = Learner::new(network, optim()).with_execution(Execution::Host, 1);
        let mut bench = Bench::new("tiny", config, learner, None);
        let wanted = LearnerBench {
            shape: "tiny".into(),
            layers: Some(1),
            layout: "2x2048".into(),
            steps: 1,
            micro_batch: 2,
            peak_tflops: Some(1.0),
        };
        let found = bench.run(&wanted, || None).expect("runs").expect("known");
        assert_eq!((found.tokens, found.samples, found.step_ms.len()), (2 * 2049, 2, 1));
        assert!(found.first_step_s >= found.warm_up_s && found.warm_up_s > 0.0 && found.grad_norm > 0.0, "{found:?}");
        assert!((found.tokens_per_s - 4098.0 / found.median_ms * 1e3).abs() < 1e-6);
        assert_eq!(found.utilisation, Some(found.tflops));
    }
}
