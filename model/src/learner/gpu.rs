//! What a learner's GPU executor is told, and what it says of itself.

use burn::tensor::backend::AutodiffBackend;

use super::{GpuCompute, Learner, device};
use crate::budget::Budget;
use crate::kernels::Kernels;

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
}
