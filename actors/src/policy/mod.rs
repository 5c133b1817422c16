//! The real crew: burn's engine and learner, and the sandbox, behind the traits of `crew`.

mod checkpoint;
pub mod cpu;
mod folder;
mod gpus;
mod publish;
mod sampler;
mod trainer;
mod verifier;

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::backend::Backend;
use model::Transformer;

pub use checkpoint::{Checkpoints, Manifest, write_atomically};
pub use folder::folder_writer;
pub use gpus::{Gpus, device_config, device_limits};
pub use publish::{Adapted, BurnWorkshop, WEIGHTS, Workshop, publisher, tokenizer};
pub use sampler::{SamplerSettings, sampler_factory};
pub use trainer::{TrainerSettings, adapter_base, newest_learner, trainer_factory};
pub use verifier::{isolation_note, require_isolation, verifier_factory};

use crate::crew::Weights;

/// A network on its way to the generator. The mutex makes it shareable; nobody holds it but to copy.
struct Shared<B: Backend>(Mutex<Transformer<B>>);

/// Weights as messages carry them.
pub fn weights<B: Backend>(network: Transformer<B>) -> Weights {
    Arc::new(Shared(Mutex::new(network)))
}

/// The network in `weights`; `None` when they are of another backend.
pub fn network<B: Backend>(weights: &Weights) -> Option<Transformer<B>> {
    let shared = weights.downcast_ref::<Shared<B>>()?;
    Some(shared.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
}
