//! AdamW on the GPU over burn's tensors: in place where nobody else holds the memory, else into new memory.

use burn::module::{ModuleMapper, Param, ParamId};
use burn::optim::{AdamWState, AdaptiveMomentumState, GradientsParams};
use burn::tensor::{Tensor, backend::AutodiffBackend};

use super::{empty, not_dense};
use crate::device::update::Moved;
use crate::device::{DeviceError, Result, Span};
use crate::kernels::Kernels;
use crate::kernels::memory::Memory;
use crate::optim::Optimizer;

/// Indices into the list of held memories.
pub(super) struct Entry {
    weights: usize,
    moments: Option<[usize; 2]>,
    gradient: usize,
    new_weights: usize,
    new_moments: [usize; 2],
    decays: bool,
    pub time: i32,
}

impl Entry {
    pub fn moved(&self, spans: &[Span]) -> Moved {
        Moved {
            weights: spans[self.weights],
            moments: self.moments.map(|pair| pair.map(|i| spans[i])),
            gradient: spans[self.gradient],
            new_weights: spans[self.new_weights],
            new_moments: self.new_moments.map(|i| spans[i]),
            decays: self.decays,
        }
    }
}

/// Walks over a network and notes what is to be moved; every tensor it gives back is written by the update that follows.
pub(super) struct Moving<'a, AB: AutodiffBackend> {
    pub optimizer: &'a mut Optimizer<AB>,
    pub grads: GradientsParams,
    pub list: Vec<Entry>,
    pub held: Vec<Memory>,
    pub failed: Option<DeviceError>,
}

impl<AB: AutodiffBackend + Kernels> Moving<'_, AB> {
    /// Holds the tensor's memory; gives the tensor back, whether it may be written in place, and its number.
    fn hold(&mut self, tensor: Tensor<AB::InnerBackend, 1>) -> Result<(Tensor<AB::InnerBackend, 1>, bool, usize)> {
        let primitive = Tensor::<AB, 1>::from_inner(tensor).into_primitive().tensor();
        let memory = AB::memory(&primitive).filter(Memory::dense).ok_or_else(not_dense)?;
        let unique = memory.unique();
        self.held.push(memory);
        let tensor = Tensor::<AB, 1>::from_primitive(burn::tensor::TensorPrimitive::Float(primitive)).inner();
        Ok((tensor, unique, self.held.len() - 1))
    }

    /// The tensor itself where it may be written in place, else a new one.
    fn target(&mut self, tensor: Tensor<AB::InnerBackend, 1>) -> Result<(Tensor<AB::InnerBackend, 1>, usize, usize)> {
        let (tensor, unique, old) = self.hold(tensor)?;
        if unique {
            return Ok((tensor, old, old));
        }
        let fresh = empty::<AB>(tensor.dims()[0], &tensor.device());
        let (fresh, _, new) = self.hold(fresh)?;
        Ok((fresh, old, new))
    }

    fn enter(
        &mut self,
        id: ParamId,
        flat: Tensor<AB::InnerBackend, 1>,
        grad: Tensor<AB::InnerBackend, 1>,
        decays: bool,
    ) -> Result<Tensor<AB::InnerBackend, 1>> {
        let ([size], device) = (flat.dims(), flat.device());
        let (_, _, gradient) = self.hold(grad)?;
        let (flat, weights, new_weights) = self.target(flat)?;
        let old = self.optimizer.state.remove(&id).map(|s| s.momentum);
        let time = old.as_ref().map_or(0, |m| m.time) + 1;
        let (moments, new_moments, [first, second]) = match old {
            Some(m) => {
                let (first, a, new_a) = self.target(m.moment_1)?;
                let (second, b, new_b) = self.target(m.moment_2)?;
                (Some([a, b]), [new_a, new_b], [first, second])
            }
            None => {
                let (first, _, a) = self.hold(empty::<AB>(size, &device))?;
                let (second, _, b) = self.hold(empty::<AB>(size, &device))?;
                (None, [a, b], [first, second])
            }
        };
        let state = AdamWState::new(AdaptiveMomentumState::new(time, first, second));
        self.optimizer.state.insert(id, state);
        let time = i32::try_from(time).unwrap_or(i32::MAX);
        self.list.push(Entry { weights, moments, gradient, new_weights, new_moments, decays, time });
        Ok(flat)
    }
}

impl<AB: AutodiffBackend + Kernels> ModuleMapper<AB> for Moving<'_, AB> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<AB, D>>) -> Param<Tensor<AB, D>> {
        let (id, tensor, mapper) = param.consume();
        if self.failed.is_some() {
            return Param::from_mapped_value(id, tensor, mapper);
        }
        let Some(grad) = self.grads.remove::<AB::InnerBackend, D>(id) else {
            return Param::from_mapped_value(id, tensor, mapper);
        };
        let shape = tensor.dims();
        let size = [shape.iter().product::<usize>()];
        let device = tensor.device();
        let flat = tensor.inner().reshape(size);
        match self.enter(id, flat, grad.reshape(size), D >= 2) {
            Ok(flat) => {
                let tensor = Tensor::from_inner(flat.reshape(shape)).require_grad();
                Param::from_mapped_value(id, tensor, mapper)
            }
            Err(error) => {
                // The learner is not used after this: the error ends the run.
                self.failed = Some(error);
                Param::from_mapped_value(id, Tensor::empty(shape, &device), mapper)
            }
        }
    }
}
