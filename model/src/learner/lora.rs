//! The learner with adapters: what is trained, and what of its gradients counts. Without them it is every weight.

use std::path::Path;

use burn::optim::GradientsParams;
use burn::tensor::backend::AutodiffBackend;

use super::{Learner, LearnerError};
use crate::error::ModelError;
use crate::host::HostWeights;
use crate::kernels::Kernels;
use crate::lora::{Lora, LoraConfig, LoraError, peft};
use crate::optim::{Optimizer, global_norm};

impl<AB: AutodiffBackend + Kernels> Learner<AB> {
    /// From here on only fresh adapters are trained, and the present network is W0: it stays as it is, and it is the reference of
    /// `kl_coef`. AdamW begins anew. `seed` decides the first A.
    ///
    /// # Errors
    /// A rank, scale or choice of targets that this network cannot have; the learner is gone with it.
    pub fn with_lora(mut self, config: &LoraConfig, seed: u64) -> Result<Self, LoraError> {
        self.adopt(Lora::fresh(config, self.network.clone(), seed)?);
        Ok(self)
    }

    /// As `with_lora`, from the adapters of a PEFT folder.
    ///
    /// # Errors
    /// A folder that cannot be read, is no plain LoRA, or is for another network.
    pub fn with_adapter(mut self, dir: &Path) -> Result<Self, ModelError> {
        let (config, adapters) = peft::read(dir, &self.network)?;
        self.adopt(Lora::of(config, self.network.clone(), adapters));
        Ok(self)
    }

    /// Base and adapters, if it has some.
    pub fn lora(&self) -> Option<&Lora<AB>> {
        self.lora.as_ref()
    }

    /// Writes the adapters as a PEFT folder; false where there are none. `base`: name or folder of W0, for PEFT.
    pub fn save_adapter(&self, dir: &Path, base: &str) -> Result<bool, ModelError> {
        let Some(lora) = &self.lora else { return Ok(false) };
        peft::write(dir, lora.config(), lora.adapters(), base)?;
        Ok(true)
    }

    fn adopt(&mut self, lora: Lora<AB>) {
        self.network = lora.merged();
        self.optimizer = Optimizer::new(&self.config);
        self.lora = Some(lora);
    }

    /// The reference of `kl_coef` where none was set: the network with its adapters off.
    pub(super) fn refer_to_base(&mut self) {
        if let (None, Some(lora)) = (&self.reference, &self.lora) {
            self.reference = Some(HostWeights::from_network(lora.base()));
        }
    }

    /// From the network's gradients to those of what is trained, and their global norm: clipping and guard see no others.
    pub(super) fn of_trained(&mut self, grads: GradientsParams) -> Result<(GradientsParams, f64), LearnerError> {
        match &self.lora {
            None => {
                let norm = self.norm(&grads)?;
                Ok((grads, norm))
            }
            Some(lora) => {
                let grads = lora.project(grads);
                let norm = global_norm(lora.adapters(), &grads);
                Ok((grads, norm))
            }
        }
    }

    /// One optimizer step of what is trained; `network` is what comes of it.
    pub(super) fn apply(&mut self, lr: f64, grads: GradientsParams, scale: f32) {
        match &mut self.lora {
            None => self.network = self.optimizer.step(lr, self.network.clone(), grads, scale),
            Some(lora) => {
                lora.adapters = self.optimizer.step(lr, lora.adapters.clone(), grads, scale);
                self.network = lora.merged();
            }
        }
    }
}
