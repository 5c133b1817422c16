//! What a learner's GPU executor is told, and what it says of itself.

use burn::tensor::backend::AutodiffBackend;

use super::{GpuCompute, Learner, LearnerError, device};
use crate::budget::Budget;
use crate::kernels::Kernels;
use crate::lora::Lora;
use crate::network::Transformer;

/// What else of the learner's is on the GPU, or will be.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(super) struct Beside {
    /// The optimizer's moments are there already.
    pub moments_held: bool,
    /// A reference network comes.
    pub reference: bool,
}

/// What a pass trains.
pub(super) enum Trained<'a, AB: AutodiffBackend> {
    /// Every weight.
    All(&'a Transformer<AB>),
    /// Adapters beside a base.
    Adapters(&'a Lora<AB>),
}

#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
impl<'a, AB: AutodiffBackend> Trained<'a, AB> {
    /// The network, or the base.
    pub fn network(&self) -> &'a Transformer<AB> {
        match self {
            Self::All(network) => network,
            Self::Adapters(lora) => lora.base(),
        }
    }
}

impl<AB: AutodiffBackend + Kernels> Learner<AB> {
    /// How the GPU executor computes, where it is used.
    pub fn with_gpu(mut self, compute: GpuCompute) -> Self {
        self.device = device::Slot::new(compute);
        self
    }

    /// After the first step or score: whether kernels had to be compiled for the GPU executor, or why burn's autodiff computes in its
    /// place. None where neither was needed.
    pub fn gpu_found(&self) -> Option<Result<bool, &str>> {
        self.device.found().map(|found| found.map(|ready| ready.compiled()))
    }

    /// After the first step or score on the GPU executor: what its memory was planned to be, and the bytes of its own buffers now.
    pub fn gpu_memory(&self) -> Option<(&Budget, usize)> {
        let ready = self.device.found()?.ok()?;
        Some((ready.budget(), ready.held()))
    }

    /// The GPU executor and what it is to train, where it computes for this learner. Where it cannot be had after all, `network` has
    /// its adapters merged from then on.
    pub(super) fn on_device(&mut self) -> Result<Option<(&mut device::OnDevice, Trained<'_, AB>)>, LearnerError> {
        let beside = self.beside();
        let Some(lora) = &mut self.lora else {
            let found = self.device.get(self.execution, &mut self.network, None, beside)?;
            return Ok(found.map(|device| (device, Trained::All(&self.network))));
        };
        let (base, adapters) = lora.parts_mut();
        match self.device.get(self.execution, base, Some(adapters), beside)? {
            Some(device) => Ok(Some((device, Trained::Adapters(lora)))),
            None => {
                if self.unmerged {
                    self.network = lora.merged();
                    self.unmerged = false;
                }
                Ok(None)
            }
        }
    }

    pub(super) fn beside(&self) -> Beside {
        Beside { moments_held: !self.optimizer.state.is_empty(), reference: self.reference.is_some() }
    }

    /// `network` follows its adapters; not where the GPU executor adds them as it goes, and the base stands in for it.
    pub(crate) fn follow_adapters(&mut self) {
        let Some(lora) = &self.lora else { return };
        self.unmerged = self.device.may(self.execution, lora.base());
        self.network = if self.unmerged { lora.base().clone() } else { lora.merged() };
    }
}
