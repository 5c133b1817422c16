//! A policy version as files for generators of other machines, and back into weights there.
//!
//! Where every weight is trained, a version is one safetensors file, written tensor by tensor. Where adapters are trained it is the
//! learner's checkpoint, which holds the adapters alone; their base is the run's first policy, and merging them there is the same
//! computation as here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::backend::{AutodiffBackend, Backend};
use model::kernels::Kernels;
use model::learner::Learner;
use model::lora::LoraConfig;
use model::optim::OptimConfig;
use model::{ModelConfig, Tokenizer, Transformer};
use rollout::id::PolicyVersion;
use rollout::outcome::Fault;

use super::{Checkpoints, network, weights};
use crate::cluster::weights::{Publisher, Shape, Written};
use crate::crew::Weights;
use crate::supervise::{CHECKPOINT, fault};

/// The file of a whole version.
pub const WEIGHTS: &str = "model.safetensors";

/// For runs that train adapters: where they and their base are.
#[derive(Clone)]
pub struct Adapted {
    pub checkpoints: Checkpoints,
    /// The policy that RL began with, a Hugging Face folder.
    pub start: PathBuf,
}

/// Writes versions of a policy of this shape. `adapted`: only the adapters.
pub fn publisher<B: Backend>(config: ModelConfig, adapted: Option<Adapted>) -> Publisher {
    Arc::new(move |weights, policy, folder| match &adapted {
        None => {
            let network =
                network::<B>(weights).ok_or_else(|| fault(CHECKPOINT, "the weights are of another backend"))?;
            let path = folder.join(WEIGHTS);
            model::save_weights(&path, &config, &network).map_err(|e| fault(CHECKPOINT, e))?;
            Ok(Written { shape: Shape::Whole, files: vec![path], base: Vec::new() })
        }
        Some(adapted) => adapted.written(policy, folder).map_err(|e| fault(CHECKPOINT, e)),
    })
}

impl Adapted {
    fn written(&self, policy: PolicyVersion, folder: &Path) -> io::Result<Written> {
        let mut base = Vec::new();
        for entry in std::fs::read_dir(&self.start)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") {
                base.push(path);
            }
        }
        base.sort();
        let mut files = Vec::new();
        // Version 0 is the base itself.
        if policy.0 > 0 {
            for entry in std::fs::read_dir(self.checkpoints.path(policy))? {
                let from = entry?.path();
                let to = folder.join(from.file_name().unwrap_or_default());
                // A checkpoint is never written to again, but it is removed when it is old.
                if std::fs::hard_link(&from, &to).is_err() {
                    std::fs::copy(&from, &to)?;
                }
                files.push(to);
            }
            files.sort();
        }
        Ok(Written { shape: Shape::Adapters, files, base })
    }
}

/// Turns a version's files into weights, on the machine that samples.
pub trait Workshop: Send {
    /// `base`: the Hugging Face folder of the run's first policy, without weights unless adapters are trained; `version`: a folder with
    /// the version's files. Not for an async thread.
    ///
    /// # Errors
    /// Files that are not what the run's policy needs.
    fn load(&mut self, shape: Shape, base: &Path, version: &Path) -> Result<Weights, Fault>;
}

/// On a backend. `lora`: what the run trains, and the seed of its first adapters.
pub struct BurnWorkshop<AB: AutodiffBackend> {
    lora: Option<(LoraConfig, u64)>,
    device: AB::Device,
    /// Read once.
    base: Option<Transformer<AB>>,
}

impl<AB: AutodiffBackend> BurnWorkshop<AB> {
    pub fn new(lora: Option<(LoraConfig, u64)>, device: AB::Device) -> Self {
        BurnWorkshop { lora, device, base: None }
    }
}

impl<AB: AutodiffBackend + Kernels> Workshop for BurnWorkshop<AB>
where
    AB::Device: Sync,
{
    fn load(&mut self, shape: Shape, base: &Path, version: &Path) -> Result<Weights, Fault> {
        let unreadable = |e: model::ModelError| fault(CHECKPOINT, e);
        if shape == Shape::Whole {
            let (_, network) = model::load_weights::<AB::InnerBackend>(version, &self.device).map_err(unreadable)?;
            return Ok(weights(network));
        }
        let network = match &self.base {
            Some(network) => network.clone(),
            None => {
                let (_, network) = model::load_weights::<AB>(base, &self.device).map_err(unreadable)?;
                self.base.insert(network).clone()
            }
        };
        let (lora, seed) = self.lora.as_ref().ok_or_else(|| fault(CHECKPOINT, "adapters of a run that has none"))?;
        let learner = Learner::new(network, OptimConfig::default());
        let mut learner = learner.with_lora(lora, *seed).map_err(|e| fault(CHECKPOINT, e))?;
        if version.join("manifest.json").is_file() {
            learner.load_checkpoint(version).map_err(|e| fault(CHECKPOINT, e))?;
        }
        Ok(weights(learner.inference()))
    }
}

/// The tokenizer of a run's first policy, with every token that ends its answers.
///
/// # Errors
/// Files that are missing or damaged.
pub fn tokenizer(base: &Path, eos: &[u32]) -> Result<Arc<Tokenizer>, Fault> {
    let mut tokenizer = Tokenizer::from_dir(base).map_err(|e| fault(CHECKPOINT, e))?;
    tokenizer.set_eos_token_ids(eos.to_vec());
    Ok(Arc::new(tokenizer))
}
