//! The warm start: supervised fine-tuning on plan-and-code examples, cached by a digest of all that went into it.
//!
//! For the embedded policy it also trains the tokenizer and initialises the network. The result is a Hugging Face
//! folder `<cache>/warm-start/<digest>`, written whole or not at all; the next run with the same inputs uses it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::backend::AutodiffBackend;
use model::config::TinyShape;
use model::kernels::Kernels;
use model::learner::{Execution, GpuCompute, Learner, SftSample};
use model::optim::{LrSchedule, OptimConfig};
use model::{Loaded, ModelConfig, ModelError};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rollout::task::{Split, TaskSpec};
use sha2::{Digest, Sha256};

use crate::config::{Config, Device};
use crate::errors::UserError;
use crate::observe::{Observer, Progress};
use crate::prompt::{PromptStyle, prompt_messages};
use crate::stop::StopToken;
use crate::tasks::{Example, WarmStartExamples, load_tasks, warm_start_examples};

/// Rises when the same inputs would give another policy.
const CODE_VERSION: u32 = 2;
/// Positions of the embedded policy: the longest prompt and answer together.
const MAX_POSITIONS: usize = 2048;
/// Sequences per forward and backward pass, at most.
const MICRO_BATCH: usize = 16;
/// Micro-batches a thread gets of each batch: their lengths differ, and two even that out better than one.
const MICRO_BATCHES_PER_THREAD: usize = 2;
/// The learning rate falls to this share of its peak, percent.
const FINAL_LR_PERCENT: u32 = 10;

/// Why there is no warm-started policy.
#[derive(Debug, thiserror::Error)]
pub enum WarmStartError {
    #[error("{0}")]
    User(#[from] UserError),
    #[error("{0}")]
    Model(#[from] ModelError),
    #[error("the warm start failed: {0}")]
    Learner(#[from] model::learner::LearnerError),
    #[error("the warm start's loss became non-finite at step {step}; lower sft.lr (now {lr})")]
    Diverged { step: u64, lr: f64 },
    #[error("interrupted during the warm start; nothing was kept of it")]
    Interrupted,
}

/// The style in which tasks are put to this policy.
pub fn prompt_style(config: &Config) -> PromptStyle {
    if config.model.folder().is_some() { PromptStyle::OneShot } else { PromptStyle::Compact }
}

/// The policy RL starts from: a Hugging Face folder, from the cache when it was made before.
///
/// With `sft.enabled = false` it is the user's own folder as it is.
pub fn warm_start<AB: AutodiffBackend + Kernels>(
    config: &Config,
    cache_dir: &Path,
    device: &AB::Device,
    observer: &Arc<dyn Observer>,
    stop: &StopToken,
) -> Result<PathBuf, WarmStartError> {
    if !config.sft.enabled {
        return match config.model.folder() {
            Some(folder) => Ok(folder.to_path_buf()),
            None => Err(UserError::new("the embedded policy knows nothing without a warm start")
                .at("sft.enabled")
                .found("false")
                .expected("true, or a model of your own in model.dir")
                .into()),
        };
    }
    let WarmStartExamples { examples, kept_out } = warm_start_examples(config)?;
    if kept_out > 0 {
        observer
            .on(Progress::Note(format!("warm start: {kept_out} examples left out, tasks.dir evaluates their tasks")));
    }
    let folder = cache_dir.join("warm-start").join(key(config, &examples)?);
    if folder.join("config.json").is_file() {
        observer.on(Progress::Note(format!("warm start: cached in {}", folder.display())));
        return Ok(folder);
    }
    let Loaded { config: shape, network, tokenizer } = base::<AB>(config, &examples, device)?;
    let samples = samples(config, &examples, &tokenizer, shape.max_position_embeddings)?;
    let parameters = shape.num_parameters();
    observer.on(Progress::Note(format!("warm start: {} examples, {parameters} parameters", samples.len())));

    let batches = samples.len().div_ceil(config.sft.batch.max(1)) * config.sft.epochs;
    let optim = OptimConfig {
        lr: config.sft.lr,
        beta1: config.learner.beta1 as f32,
        beta2: config.learner.beta2 as f32,
        eps: config.learner.eps as f32,
        weight_decay: config.sft.weight_decay as f32,
        grad_clip: config.sft.grad_clip as f32,
        schedule: LrSchedule::cosine(config.sft.warmup_steps as u64, batches as u64, FINAL_LR_PERCENT),
    };
    let mut learner = Learner::new(network, optim)
        .with_execution(execution(config), learner_threads(config))
        .with_gpu(GpuCompute { keeps_copy: false, ..gpu(config) });
    let mut rng = ChaCha8Rng::seed_from_u64(config.run.seed);
    let mut order: Vec<usize> = (0..samples.len()).collect();
    let mut step = 0;
    for _ in 0..config.sft.epochs {
        order.shuffle(&mut rng);
        for batch in order.chunks(config.sft.batch.max(1)) {
            if stop.asked() {
                return Err(WarmStartError::Interrupted);
            }
            let batch: Vec<SftSample> = batch.iter().map(|&n| samples[n].clone()).collect();
            let report = learner.sft_step(&batch, micro_batch(batch.len(), learner_threads(config)))?;
            step += 1;
            if !report.applied {
                return Err(WarmStartError::Diverged { step, lr: config.sft.lr });
            }
            observer.on(Progress::WarmStart { step, steps: batches as u64, loss: report.loss });
        }
    }
    model::save_hf(&folder, &shape, &learner.inference(), &tokenizer)?;
    Ok(folder)
}

/// Where the learner computes. On a GPU nothing else takes the GPU executor's place: burn's own operators would be many times slower.
pub fn execution(config: &Config) -> Execution {
    match config.model.device {
        Device::Cpu => Execution::Auto,
        Device::Cuda => Execution::Device,
    }
}

/// How a GPU computes, as the run file says.
pub fn gpu(config: &Config) -> GpuCompute {
    GpuCompute {
        element: config.learner.gpu_type,
        recompute: config.learner.gpu_recompute,
        wait_s: config.model.gpu_wait_s,
        gpus: config.learner.gpus,
        keeps_copy: config.learner.epochs > 1,
        ..GpuCompute::default()
    }
}

/// Sequences in a micro-batch, so that every thread has some. Threads share a batch by whole micro-batches.
fn micro_batch(batch: usize, threads: usize) -> usize {
    batch.div_ceil(threads.max(1) * MICRO_BATCHES_PER_THREAD).clamp(1, MICRO_BATCH)
}

/// Threads of this machine.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Threads the learner computes with.
pub fn learner_threads(config: &Config) -> usize {
    match config.learner.threads {
        0 => threads(),
        asked => asked,
    }
}

/// The user's model, or a fresh small one with a tokenizer of its own.
fn base<AB: AutodiffBackend>(
    config: &Config,
    examples: &[(TaskSpec, Example)],
    device: &AB::Device,
) -> Result<Loaded<AB>, WarmStartError> {
    if let Some(folder) = config.model.folder() {
        return Ok(model::load_hf::<AB>(folder, device)?);
    }
    let tokenizer = model::train_bpe(&corpus(config, examples)?, config.model.vocab)?;
    let m = &config.model;
    let shape = TinyShape {
        hidden: m.hidden,
        layers: m.layers,
        heads: m.heads,
        kv_heads: m.kv_heads,
        ff: m.ff,
        vocab: tokenizer.vocab_size(),
    };
    let shape = ModelConfig::tiny_default(shape, MAX_POSITIONS, tokenizer.eos_token_ids().to_vec());
    let network = shape.init::<AB>(config.run.seed, device);
    Ok(Loaded { config: shape, network, tokenizer })
}

/// What the tokenizer is trained on: the examples, their prompts, and the prompts of all training tasks.
fn corpus(config: &Config, examples: &[(TaskSpec, Example)]) -> Result<Vec<String>, WarmStartError> {
    let style = prompt_style(config);
    let prompt = |task: &TaskSpec| prompt_messages(task, style).into_iter().map(|m| m.content);
    let tasks = load_tasks(config.tasks.folder())?;
    let training = tasks.iter().filter(|t| t.split == Split::Train);
    Ok(examples
        .iter()
        .map(|(_, example)| example.text.clone())
        .chain(examples.iter().flat_map(|(task, _)| prompt(task)))
        .chain(training.flat_map(prompt))
        .collect())
}

fn samples(
    config: &Config,
    examples: &[(TaskSpec, Example)],
    tokenizer: &model::Tokenizer,
    positions: usize,
) -> Result<Vec<SftSample>, WarmStartError> {
    let style = prompt_style(config);
    let eos = tokenizer.eos_token_ids().first().copied();
    let mut samples = Vec::with_capacity(examples.len());
    for (task, example) in examples {
        let prompt = tokenizer.encode_chat(&prompt_messages(task, style), true)?;
        let mut tokens = tokenizer.encode(example.text.trim_end())?;
        tokens.extend(eos);
        if tokens.len() > config.sampling.max_new_tokens {
            return Err(UserError::new("a warm-start example is longer than the policy may answer")
                .at(format!("an example of task {}", task.id))
                .found(format!("{} tokens", tokens.len()))
                .expected(format!("at most sampling.max_new_tokens = {}", config.sampling.max_new_tokens))
                .hint("raise sampling.max_new_tokens or shorten the example")
                .into());
        }
        if prompt.len() + tokens.len() > positions {
            let origin = config.model.folder().map_or_else(
                || "the embedded policy".to_string(),
                |folder| match folder.join("config.json") {
                    file if file.is_file() => file.display().to_string(),
                    _ => folder.display().to_string(),
                },
            );
            return Err(UserError::new("a warm-start example is longer than the model's context")
                .at(format!("an example of task {}; {origin}", task.id))
                .found(format!("{} tokens of prompt and {} of answer", prompt.len(), tokens.len()))
                .expected(format!("together at most max_position_embeddings = {positions}"))
                .hint("shorten the task or the example, or choose a model with a longer context")
                .into());
        }
        samples.push(SftSample { prompt, tokens });
    }
    Ok(samples)
}

/// The cache's key: every input of the result.
fn key(config: &Config, examples: &[(TaskSpec, Example)]) -> Result<String, WarmStartError> {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    let (m, s, l) = (&config.model, &config.sft, &config.learner);
    // Threads decide how a batch is cut, and so how its gradient rounds.
    let threads = learner_threads(config);
    let cut = micro_batch(s.batch, threads);
    part(format!("warm start {CODE_VERSION}, {MAX_POSITIONS} {cut} {threads} {FINAL_LR_PERCENT}").as_bytes());
    part(format!("{} {} {:?}", config.run.seed, config.sampling.max_new_tokens, m.device).as_bytes());
    part(format!("{:?}", (s.epochs, s.batch, s.lr, s.warmup_steps, s.weight_decay, s.grad_clip)).as_bytes());
    part(format!("{:?}", (l.beta1, l.beta2, l.eps)).as_bytes());
    if m.device == Device::Cuda {
        part(format!("{:?}", l.gpu_type).as_bytes());
    }
    match m.folder() {
        None => part(format!("{:?}", (m.hidden, m.layers, m.heads, m.kv_heads, m.ff, m.vocab)).as_bytes()),
        Some(folder) => part(folder_digest(folder)?.as_bytes()),
    }
    if m.folder().is_none() {
        corpus(config, examples)?.iter().for_each(|text| part(text.as_bytes()));
    }
    for (task, example) in examples {
        for message in prompt_messages(task, prompt_style(config)) {
            part(message.content.as_bytes());
        }
        part(example.text.as_bytes());
    }
    Ok(hex(&hash.finalize())[..24].to_string())
}

/// SHA-256 over names and contents of a model folder's files, or of the one file that is the model.
fn folder_digest(folder: &Path) -> Result<String, WarmStartError> {
    let failed =
        |path: &Path, e: &std::io::Error| WarmStartError::User(UserError::io("read the model folder", path, e));
    let mut files = vec![folder.to_path_buf()];
    if !folder.is_file() {
        files = std::fs::read_dir(folder)
            .map_err(|e| failed(folder, &e))?
            .filter_map(|entry| entry.ok().map(|e| e.path()))
            .filter(|path| path.is_file())
            .collect();
        files.sort();
    }
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        let mut reader = std::fs::File::open(&file).map_err(|e| failed(&file, &e))?;
        std::io::copy(&mut reader, &mut HashWriter(&mut hash)).map_err(|e| failed(&file, &e))?;
    }
    Ok(hex(&hash.finalize()))
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Planted and seen to fail: one micro-batch of 16 whatever the threads (the second thread had nothing to do).
    #[test]
    fn every_thread_gets_a_share_of_the_default_batch() {
        let batch = Config::builtin().unwrap().sft.batch;
        for threads in [1, 2, 3, 4, 8] {
            assert!(batch.div_ceil(micro_batch(batch, threads)) >= threads, "{threads} threads, {batch} examples");
        }
        assert_eq!((micro_batch(0, 2), micro_batch(16, 64), micro_batch(4096, 2)), (1, 1, MICRO_BATCH));
    }

    /// Planted and seen to fail: only the answer's length checked.
    #[test]
    fn an_example_beyond_the_models_context_is_one_clear_error() {
        let mut config = Config::builtin().unwrap();
        config.sampling.max_new_tokens = 10_000;
        let mut examples = warm_start_examples(&config).unwrap().examples;
        examples.truncate(3);
        let tokenizer = model::train_bpe(&corpus(&config, &examples).unwrap(), 600).unwrap();
        let all = samples(&config, &examples, &tokenizer, MAX_POSITIONS).unwrap();
        let longest = all.iter().map(|s| s.prompt.len() + s.tokens.len()).max().unwrap();
        assert!(samples(&config, &examples, &tokenizer, longest).is_ok());
        let error = samples(&config, &examples, &tokenizer, longest - 1).unwrap_err().to_string();
        for part in ["max_position_embeddings", "of prompt and", "an example of task", "hint:"] {
            assert!(error.contains(part), "`{part}` is missing in:\n{error}");
        }
    }
}
