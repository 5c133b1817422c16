//! The policy's parts on the processor, as programs beside this library use them (tests, benches).
//!
//! They are compiled here, once. A program that names the generic ones itself compiles burn's types anew, which takes minutes.

use std::path::Path;
use std::sync::Arc;

use model::{ModelConfig, ModelError, Tokenizer};

use super::{Adapted, SamplerSettings, TrainerSettings, folder_writer, sampler_factory, trainer_factory, weights};
use crate::cluster::weights::Publisher;
use crate::crew::{SamplerFactory, TrainerFactory, Weights};
use crate::openai::Publish;

pub fn sampler(settings: SamplerSettings) -> SamplerFactory {
    sampler_factory::<model::CpuInner>(settings)
}

pub fn trainer(settings: TrainerSettings) -> TrainerFactory {
    trainer_factory::<model::Cpu>(settings, Default::default())
}

pub fn writer(config: ModelConfig, tokenizer: Arc<Tokenizer>) -> Publish {
    folder_writer::<model::CpuInner>(config, tokenizer)
}

pub fn publisher(config: ModelConfig, adapted: Option<Adapted>) -> Publisher {
    super::publisher::<model::CpuInner>(config, adapted)
}

/// Random weights of this shape.
pub fn random(config: &ModelConfig, seed: u64) -> Weights {
    weights(config.init::<model::CpuInner>(seed, &Default::default()))
}

/// The weights of a Hugging Face folder.
///
/// # Errors
/// It cannot be read, or is no model.
pub fn load(folder: &Path) -> Result<Weights, ModelError> {
    let (_, network) = model::load_weights::<model::CpuInner>(folder, &Default::default())?;
    Ok(weights(network))
}

/// A random network as a Hugging Face folder.
///
/// # Errors
/// The folder cannot be written.
pub fn make(folder: &Path, config: &ModelConfig, tokenizer: &Tokenizer, seed: u64) -> Result<(), ModelError> {
    let network = config.init::<model::CpuInner>(seed, &Default::default());
    model::save_hf(folder, config, &network, tokenizer)
}
