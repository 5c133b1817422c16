//! What of a learner is saved: every weight, or with LoRA the adapters and the name of their base.

use std::path::Path;

use burn::module::Module;
use burn::tensor::backend::AutodiffBackend;
use rollout::id::Digest as HexDigest;
use serde::{Deserialize, Serialize};

use super::{CheckpointError, Load, Save};
use crate::kernels::Kernels;
use crate::learner::Learner;
use crate::lora::{Adapters, LoraConfig};
use crate::network::Transformer;

/// What adapters were saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraManifest {
    #[serde(flatten)]
    pub config: LoraConfig,
    /// `weights_digest` of the base; its weights are not in the checkpoint.
    pub base: HexDigest,
}

/// What was loaded, before it is taken over.
pub(super) enum Trained<AB: AutodiffBackend> {
    All(Box<Transformer<AB>>),
    Adapters(Adapters<AB>),
}

impl<AB: AutodiffBackend + Kernels> Learner<AB> {
    pub(super) fn lora_manifest(&self) -> Option<LoraManifest> {
        self.lora.as_ref().map(|l| LoraManifest { config: l.config().clone(), base: l.base_digest().clone() })
    }

    /// Refuses the state of something else than this learner trains.
    pub(super) fn check_trained(&self, path: &Path, found: Option<&LoraManifest>) -> Result<(), CheckpointError> {
        let own = self.lora_manifest();
        let (in_file, here) = (found.map(|m| &m.config), own.as_ref().map(|m| &m.config));
        if in_file != here {
            let (found, expected) = (words(in_file), words(here));
            return Err(CheckpointError::Trained { path: path.to_path_buf(), found, expected });
        }
        match (found, own) {
            (Some(found), Some(own)) if found.base != own.base => {
                Err(CheckpointError::Base { path: path.to_path_buf(), found: found.base.clone(), expected: own.base })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn visit_trained(&self, save: &mut Save<AB>) {
        match &self.lora {
            None => self.network.visit(save),
            Some(lora) => lora.adapters().visit(save),
        }
    }

    pub(super) fn load_trained(&self, load: &mut Load<AB>) -> Trained<AB> {
        match &self.lora {
            None => Trained::All(Box::new(self.network.clone().map(load))),
            Some(lora) => Trained::Adapters(lora.adapters().clone().map(load)),
        }
    }

    pub(super) fn set_trained(&mut self, loaded: Trained<AB>) {
        match (loaded, &mut self.lora) {
            (Trained::All(network), _) => self.network = *network,
            (Trained::Adapters(adapters), Some(lora)) => {
                lora.adapters = adapters;
                self.follow_adapters();
            }
            // Adapters are only loaded into a learner that has some.
            (Trained::Adapters(_), None) => {}
        }
    }
}

fn words(config: Option<&LoraConfig>) -> String {
    match config {
        None => "every weight".into(),
        Some(c) => {
            let targets: Vec<&str> = c.targets.iter().map(|t| t.name()).collect();
            let kind = if c.rslora { "rsLoRA" } else { "LoRA" };
            format!("{kind} of rank {} and alpha {} on {}", c.rank, c.alpha, targets.join(", "))
        }
    }
}
