//! `[lora]`: what of the policy RL trains. The rules of its keys, against each other and against the model's sizes.

use model::ModelConfig;
use model::config::TinyShape;
use model::lora::config::{LoraConfig, LoraError, Sizes, parse};
use serde::{Deserialize, Serialize};

use super::check::place;
use super::{Config, Settings};
use crate::errors::UserError;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// 0: every weight is trained.
    pub rank: usize,
    pub alpha: f64,
    /// Words of `model::lora::config::WORDS`.
    pub targets: Vec<String>,
    pub rslora: bool,
}

impl Lora {
    /// As the learner takes it; `None`: every weight is trained.
    pub fn settings(&self) -> Result<Option<LoraConfig>, LoraError> {
        if self.rank == 0 {
            return Ok(None);
        }
        let targets = parse(&self.targets)?;
        Ok(Some(LoraConfig { rank: self.rank, alpha: self.alpha, targets, rslora: self.rslora }))
    }
}

/// The keys among each other, and with the shape of the embedded policy. Of a model folder: [`adapters`].
pub fn check(config: &Config, settings: &Settings) -> Result<(), UserError> {
    let at = |key: &str| place(settings, &[key, "lora.rank"]);
    let fitting = config.lora.settings().and_then(|lora| match (lora, config.model.folder()) {
        (Some(lora), None) => lora.check(&embedded(config)),
        _ => Ok(()),
    });
    fitting.map_err(|error| user_error(&error, at))
}

/// The adapters of a model of this shape; `None`: every weight is trained.
///
/// # Errors
/// A rank that its matrices cannot have.
pub fn adapters(config: &Config, shape: &ModelConfig) -> Result<Option<LoraConfig>, UserError> {
    let fitting = config.lora.settings().and_then(|lora| match &lora {
        Some(settings) => settings.check(&Sizes::new(shape)).map(|()| lora),
        None => Ok(None),
    });
    let dir = config.model.dir.display();
    fitting.map_err(|error| user_error(&error, |key| format!("{key}; model.dir = \"{dir}\"")))
}

fn embedded(config: &Config) -> Sizes {
    let m = &config.model;
    let shape = TinyShape {
        hidden: m.hidden,
        layers: m.layers,
        heads: m.heads,
        kv_heads: m.kv_heads,
        ff: m.ff,
        vocab: m.vocab,
    };
    Sizes::new(&ModelConfig::tiny_default(shape, 0, Vec::new()))
}

/// `at` turns a key into a place.
fn user_error(error: &LoraError, at: impl Fn(&str) -> String) -> UserError {
    match error {
        LoraError::Rank { rank, target, input, output } => {
            UserError::new("the adapters' rank does not fit the model's matrices")
                .at(at("lora.rank"))
                .found(format!("lora.rank = {rank}, and {target} goes from {input} to {output}"))
                .expected(format!("lora.rank of 1 to {}, or 0 to train every weight", input.min(output)))
                .hint(format!("lower lora.rank, or leave {target} out of lora.targets"))
        }
        LoraError::Targets { found } => UserError::new("the matrices that get adapters are not clear")
            .at(at("lora.targets"))
            .found(format!("lora.targets = [{found}]"))
            .expected("[\"all-linear\"], or names of matrices, each once")
            .hint("for example lora.targets = [\"q_proj\", \"v_proj\"]; \"all-linear\" stands alone"),
        other => UserError::new("there can be no such adapters").at(at("lora.alpha")).found(other),
    }
}
