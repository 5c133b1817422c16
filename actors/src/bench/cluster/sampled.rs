//! For the drills of generators: a tiny policy in the run directory, and what a head needs so that nodes sample from it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::config::TinyShape;
use model::sampling::Sampling;
use model::{ModelConfig, ModelError, Tokenizer};

use crate::cluster::head::Generating;
use crate::cluster::recipe::Recipe;
use crate::cluster::weights::Press;
use crate::config::Device;
use crate::crew::{TaskEntry, Weights};
use crate::policy::cpu;

const TOKENS: usize = 64;
const SAMPLE_MS: u64 = 60_000;
const SEED: u64 = 11;

/// What nodes sample from.
pub struct Sampled {
    pub generating: Generating,
    /// The folder of the policy.
    pub policy: PathBuf,
    /// Of every version: the stand-in learner changes nothing but the number.
    pub weights: Weights,
}

/// Made anew in each life of the head, the same each time.
///
/// # Errors
/// A folder that cannot be written.
pub fn sampled(run_dir: &Path, epoch: u64, tasks: &[Arc<TaskEntry>]) -> Result<Sampled, ModelError> {
    let corpus: Vec<String> = (0..40).map(|n| format!("def f{n}(x):\n    return x + {n}\n")).collect();
    let tokenizer: Tokenizer = model::train_bpe(&corpus, 300)?;
    let shape = TinyShape { hidden: 16, layers: 1, heads: 2, kv_heads: 1, ff: 32, vocab: tokenizer.vocab_size() };
    let config = ModelConfig::tiny_default(shape, 256, tokenizer.eos_token_ids().to_vec());
    let policy = run_dir.join("tiny");
    cpu::make(&policy, &config, &tokenizer, SEED)?;
    let recipe = Recipe {
        run: "drill".into(),
        device: Device::Cpu,
        single_precision: false,
        cache_bytes: 0,
        gpu_wait_s: 0,
        max_batch: 16,
        max_seq_len: 128,
        sampling: Sampling::default(),
        max_new_tokens: TOKENS,
        stop_at_code: false,
        // To the last token: there is always something under way.
        eos: Vec::new(),
        lora: None,
        prompts: tasks.iter().map(|entry| (entry.spec.id.clone(), entry.prompt.tokens.clone())).collect(),
        files: Vec::new(),
        tagged: true,
    };
    let press = Press {
        publisher: cpu::publisher(config.clone(), None),
        folder: run_dir.join("published"),
        shared: None,
        epoch,
    };
    let generating = Generating { vocab: config.vocab_size, recipe, press, places_here: 0, sample_ms: SAMPLE_MS };
    Ok(Sampled { generating, policy, weights: cpu::random(&config, SEED) })
}
