//! Weights as a Hugging Face folder, for servers that load it.

use std::sync::Arc;

use burn::tensor::backend::Backend;
use model::{ModelConfig, Tokenizer};

use super::network;
use crate::openai::Publish;
use crate::supervise::{SERVER_RELOAD, fault};

/// Writes f32 weights, configuration and tokenizer with `model::save_hf`: the folder appears whole or not at all.
pub fn folder_writer<B: Backend>(config: ModelConfig, tokenizer: Arc<Tokenizer>) -> Publish {
    Arc::new(move |weights, path| {
        let foreign = || fault(SERVER_RELOAD, "the weights are of another backend");
        let network = network::<B>(weights).ok_or_else(foreign)?;
        model::save_hf(path, &config, &network, &tokenizer).map_err(|e| fault(SERVER_RELOAD, e))
    })
}
