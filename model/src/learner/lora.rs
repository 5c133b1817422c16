//! The learner with adapters: what is trained, and what of its gradients counts. Without them it is every weight.

use std::path::Path;

use burn::optim::GradientsParams;
use burn::tensor::backend::AutodiffBackend;

use super::batch::Item;
use super::gpu::Trained;
use super::{Learner, LearnerError, Scored};
use crate::error::ModelError;
use crate::host::HostWeights;
use crate::kernels::Kernels;
use crate::lora::{Adapters, Lora, LoraConfig, LoraError, peft};
use crate::loss::LossConfig;
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
        self.optimizer = Optimizer::new(&self.config);
        self.lora = Some(lora);
        self.follow_adapters();
    }

    /// The reference of `kl_coef` where none was set: the network with its adapters off. On the GPU executor it is there already.
    pub(super) fn refer_to_base(&mut self) -> Result<(), LearnerError> {
        if self.reference.is_some() || self.lora.is_none() || (!self.on_host() && self.on_device()?.is_some()) {
            return Ok(());
        }
        self.reference = self.lora.as_ref().map(|lora| HostWeights::from_network(lora.base()));
        Ok(())
    }

    /// Scores under the base, where the GPU executor has it.
    pub(super) fn scored_by_base(&mut self, items: &[Item], loss: &LossConfig) -> Result<Vec<Scored>, LearnerError> {
        match self.on_device()? {
            Some((device, Trained::Adapters(lora))) => {
                let base = Trained::All(lora.base());
                Ok(device.run(base, items, loss.micro_batch, loss.temperature, None)?.0)
            }
            _ => Err(LearnerError::NoReference),
        }
    }

    /// From the gradients of a pass to those of what is trained, and their global norm: clipping and guard see no others.
    pub(super) fn of_trained(&mut self, grads: GradientsParams) -> Result<(GradientsParams, f64), LearnerError> {
        if !self.on_host()
            && let Some((device, trained)) = self.on_device()?
        {
            // The executor's are of what is trained already.
            let norm = match trained {
                Trained::All(network) => device.norm(network, &grads)?,
                Trained::Adapters(lora) => device.norm(lora.adapters(), &grads)?,
            };
            return Ok((grads, norm));
        }
        match &self.lora {
            None => {
                let norm = global_norm(&self.network, &grads);
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
    ///
    /// # Panics
    /// As `update`.
    pub(super) fn apply(&mut self, lr: f64, grads: GradientsParams, scale: f32) -> Result<(), LearnerError> {
        let on_device = !self.on_host() && self.on_device()?.is_some();
        let beside = self.beside();
        let (optimizer, config) = (&mut self.optimizer, &self.config);
        let whole = "an update on the GPU failed halfway";
        match &mut self.lora {
            // What is updated is taken out of `self`, so that nobody shares its memory without need.
            None if on_device => {
                let Some(device) = self.device.get(self.execution, &mut self.network, None, beside)? else {
                    return Ok(());
                };
                let hollow = self.network.hollow();
                let network = std::mem::replace(&mut self.network, hollow);
                let updated = device.update(optimizer, config, lr, network, grads, scale);
                self.network = updated.unwrap_or_else(|e| panic!("{whole}: {e}"));
            }
            Some(lora) if on_device => {
                let (base, adapters) = lora.parts_mut();
                let Some(device) = self.device.get(self.execution, base, Some(adapters), beside)? else {
                    return Ok(());
                };
                let adapters = std::mem::replace(&mut lora.adapters, Adapters { layers: Vec::new() });
                let updated = device.update(optimizer, config, lr, adapters, grads, scale);
                lora.adapters = updated.unwrap_or_else(|e| panic!("{whole}: {e}"));
            }
            None => self.network = optimizer.step(lr, self.network.clone(), grads, scale),
            Some(lora) => {
                lora.adapters = optimizer.step(lr, lora.adapters.clone(), grads, scale);
                self.network = lora.merged();
            }
        }
        Ok(())
    }
}
