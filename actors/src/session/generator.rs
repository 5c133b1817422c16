//! Which sampler a run has: our engine in this process, or a server that is asked over HTTP.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::backend::Backend;
use model::learner::GpuType;
use model::lora::LoraConfig;
use model::{ModelConfig, Tokenizer};
use sandbox::device::{Kind, Tenant};

use super::{longest_text, sampling};
use crate::cluster::recipe::Recipe;
use crate::config::{Config, Device};
use crate::crew::{SamplerFactory, TaskEntry};
use crate::openai::{self, ServerSettings};
use crate::policy;
use crate::run::RunError;

/// The devices that the model itself works on: candidates are timed there only while it rests.
pub fn homes(config: &Config) -> Vec<Kind> {
    match config.model.device {
        Device::Cpu => vec![Kind::Processor(None)],
        Device::Cuda => on_gpus(config.learner.gpus),
    }
}

#[cfg(feature = "cuda")]
fn on_gpus(count: usize) -> Vec<Kind> {
    let name = |ordinal| match model::device::uuid(ordinal) {
        Ok(uuid) => Some(Kind::Cuda(uuid)),
        Err(e) => {
            tracing::warn!(
                "which GPU {ordinal} is, is not known, so that no other use of it will wait for the model: {e}"
            );
            None
        }
    };
    (0..count.max(1)).filter_map(name).collect()
}

#[cfg(not(feature = "cuda"))]
fn on_gpus(_count: usize) -> Vec<Kind> {
    Vec::new()
}

/// How our engine samples in this run, here or on another machine. `run`: what tells this run from others.
pub fn recipe(
    config: &Config,
    model: &ModelConfig,
    tokenizer: &Tokenizer,
    entries: &[Arc<TaskEntry>],
    lora: Option<LoraConfig>,
    run: String,
) -> Recipe {
    Recipe {
        run,
        device: config.model.device,
        single_precision: config.learner.gpu_type == GpuType::Fp32,
        cache_bytes: config.generator.cache_mb << 20,
        gpu_wait_s: config.model.gpu_wait_s,
        max_batch: config.generator.max_batch,
        max_seq_len: longest_text(config, entries, model.max_position_embeddings),
        sampling: sampling(config),
        max_new_tokens: config.sampling.max_new_tokens,
        stop_at_code: config.generator.stop_at_code,
        eos: tokenizer.eos_token_ids().to_vec(),
        lora: lora.map(|lora| (lora, config.run.seed)),
        prompts: entries.iter().map(|entry| (entry.spec.id.clone(), entry.prompt.tokens.clone())).collect(),
        files: Vec::new(),
        tagged: false,
    }
}

/// `model`: the policy's shape and tokenizer. A server that cannot serve the run is found here, unless the run is `complete`
/// and asks for nothing any more.
pub fn sampler<B: Backend>(
    config: &Config,
    run_dir: &Path,
    (model, tokenizer): (&ModelConfig, &Arc<Tokenizer>),
    entries: &[Arc<TaskEntry>],
    tenant: &Tenant,
    complete: bool,
) -> Result<SamplerFactory, RunError> {
    let (sampling, max_new_tokens) = (sampling(config), config.sampling.max_new_tokens);
    let Some(server) = openai::Setup::new(config, run_dir)? else {
        let recipe = recipe(config, model, tokenizer, entries, None, String::new());
        return Ok(policy::sampler_factory::<B>(recipe.settings(recipe.max_batch, tokenizer.clone(), tenant.clone())));
    };
    if !complete {
        let no_runtime =
            |source| RunError::Io { doing: "cannot start threads for", path: "the generator".into(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_runtime)?;
        let prompt = entries.iter().map(|entry| entry.prompt.tokens.len()).max().unwrap_or(0);
        runtime.block_on(server.probe(prompt + max_new_tokens, &sampling))?;
    }
    let settings = ServerSettings { sampling, max_new_tokens, tokenizer: tokenizer.clone(), vocab: model.vocab_size };
    let writer = policy::folder_writer::<B>(model.clone(), tokenizer.clone());
    Ok(openai::sampler_factory(server, settings, writer))
}
