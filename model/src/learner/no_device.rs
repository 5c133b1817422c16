//! What `device` is in a build without CUDA: there is no GPU executor to be had.

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::backend::AutodiffBackend;

use super::batch::Item;
use super::gpu::{Beside, Trained};
use super::host::Objective;
use super::{Execution, GpuCompute, LearnerError, Scored};
use crate::budget::Budget;
use crate::host::HostWeights;
use crate::lora::Adapters;
use crate::network::Transformer;
use crate::optim::{OptimConfig, Optimizer};

/// Nothing: no value of it exists.
pub enum OnDevice {}

/// Where a GPU executor would be.
pub struct Slot;

type Result<T> = std::result::Result<T, LearnerError>;

impl Slot {
    /// There is nothing to compute with.
    pub fn new(_compute: GpuCompute) -> Self {
        Self
    }

    /// There is none.
    pub fn forget_reference(&mut self) {}

    /// Nothing was looked for.
    pub fn found(&self) -> Option<std::result::Result<&OnDevice, &str>> {
        None
    }

    /// Never.
    pub fn may<AB: AutodiffBackend>(&self, _execution: Execution, _network: &Transformer<AB>) -> bool {
        false
    }

    /// An error where the executor was asked for by name.
    pub fn get<AB: AutodiffBackend>(
        &mut self,
        execution: Execution,
        _network: &mut Transformer<AB>,
        _adapters: Option<&mut Adapters<AB>>,
        _beside: Beside,
    ) -> Result<Option<&mut OnDevice>> {
        match execution {
            Execution::Device => {
                Err(LearnerError::Device { what: "this build has no CUDA (feature `cuda`)".to_string(), fatal: true })
            }
            _ => Ok(None),
        }
    }
}

impl OnDevice {
    pub fn compiled(&self) -> bool {
        match *self {}
    }

    pub fn budget(&self) -> &Budget {
        match *self {}
    }

    pub fn held(&self) -> usize {
        match *self {}
    }

    pub fn run<AB: AutodiffBackend>(
        &mut self,
        _trained: Trained<AB>,
        _items: &[Item],
        _max_items: usize,
        _temperature: f32,
        _objective: Option<Objective>,
    ) -> Result<(Vec<Scored>, GradientsParams)> {
        match *self {}
    }

    pub fn reference(
        &mut self,
        _weights: &HostWeights,
        _items: &[Item],
        _max_items: usize,
        _temperature: f32,
    ) -> Result<Vec<Scored>> {
        match *self {}
    }

    pub fn norm<AB: AutodiffBackend, M: Module<AB>>(&mut self, _module: &M, _grads: &GradientsParams) -> Result<f64> {
        match *self {}
    }

    pub fn update<AB: AutodiffBackend, M: Module<AB>>(
        &mut self,
        _optimizer: &mut Optimizer<AB>,
        _config: &OptimConfig,
        _lr: f64,
        _module: M,
        _grads: GradientsParams,
        _scale: f32,
    ) -> Result<M> {
        match *self {}
    }
}
