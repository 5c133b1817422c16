//! What a learner's GPU executor is told, and what it says of itself.

use burn::tensor::backend::AutodiffBackend;
use serde::{Deserialize, Serialize};

use super::{Learner, LearnerError, device};
use crate::budget::{Budget, Copies};
use crate::kernels::Kernels;
use crate::lora::Lora;
use crate::network::Transformer;

/// What the GPU executor computes with. Master weights, gradients of parameters, statistics and log-probs are fp32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuType {
    #[default]
    Bf16,
    /// Without TF32: for parity, not for speed.
    Fp32,
}

/// How the GPU executor computes, where it is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GpuCompute {
    pub element: GpuType,
    /// Keep only the layers' inputs for the backward pass and compute the rest again: a third more work, a tenth of the memory.
    pub recompute: bool,
    /// Attention without tensor cores, whatever the shape.
    pub plain_attention: bool,
    /// Whether bf16 copies of all weights are kept.
    pub copies: Copies,
    /// Seconds that any wait for the GPU may take; 0: `device::WAIT`.
    pub wait_s: u64,
    /// Steps of several passes keep weights and moments to go back to; planned for where this is said.
    pub keeps_copy: bool,
    /// GPUs of this host that share the micro-batches, the network's own included; 0 is 1.
    pub gpus: usize,
    /// Versions of the whole policy that others hold while an update makes the next; planned for.
    pub published: usize,
    /// Tokens of the longest prompt with its answer; 0 where that is not known.
    pub longest: usize,
}

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

    /// Makes what computes, where that is the GPU executor: whatever it lacks is told now and not at the first step.
    ///
    /// # Errors
    /// As of the first step.
    pub fn prepare(&mut self) -> Result<(), LearnerError> {
        if !self.on_host() {
            self.on_device()?;
        }
        Ok(())
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
