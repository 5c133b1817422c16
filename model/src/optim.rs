//! AdamW over all parameters of a network, or of its adapters (burn's own update, one tensor at a time), with state that can be saved.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::{AdamW, AdamWConfig, AdamWState, GradientsParams, SimpleOptimizer};
use burn::tensor::{Tensor, backend::AutodiffBackend};
use serde::{Deserialize, Serialize};

/// The optimizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimConfig {
    pub lr: f64,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// Decoupled; matrices only (norms and biases are never decayed).
    pub weight_decay: f32,
    /// Global norm the gradient is scaled down to in `sft_step`; 0 = off. (`train_step` has its own in `LossConfig`.)
    pub grad_clip: f32,
    pub schedule: LrSchedule,
}

impl Default for OptimConfig {
    fn default() -> Self {
        Self {
            lr: 3e-4,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.0,
            grad_clip: 1.0,
            schedule: LrSchedule::default(),
        }
    }
}

/// The learning rate as a factor of `OptimConfig::lr`, by the number of updates made so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LrSchedule {
    /// Linear rise over that many updates; update 1 gets `1 / warmup`.
    pub warmup_steps: u64,
    /// Half a cosine from the end of the warm-up to `min` at this update; 0 = constant.
    pub total_steps: u64,
    /// The factor at the end, in percent.
    pub min_percent: u32,
}

impl LrSchedule {
    pub fn constant(warmup_steps: u64) -> Self {
        Self { warmup_steps, ..Self::default() }
    }

    pub fn cosine(warmup_steps: u64, total_steps: u64, min_percent: u32) -> Self {
        Self { warmup_steps, total_steps, min_percent }
    }

    /// Factor for the update after `done` others.
    pub fn factor(&self, done: u64) -> f64 {
        if done < self.warmup_steps {
            return (done + 1) as f64 / self.warmup_steps as f64;
        }
        if self.total_steps == 0 {
            return 1.0;
        }
        let min = f64::from(self.min_percent) / 100.0;
        let span = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((done - self.warmup_steps) as f64 / span).min(1.0);
        min + (1.0 - min) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
    }
}

/// AdamW's moments per parameter, flat.
#[derive(Clone)]
pub struct Optimizer<AB: AutodiffBackend> {
    decayed: AdamW,
    plain: AdamW,
    pub(crate) state: HashMap<ParamId, AdamWState<AB::InnerBackend, 1>>,
}

impl<AB: AutodiffBackend> Optimizer<AB> {
    pub fn new(config: &OptimConfig) -> Self {
        let build = |weight_decay: f32| {
            AdamWConfig::new()
                .with_beta_1(config.beta1)
                .with_beta_2(config.beta2)
                .with_epsilon(config.eps)
                .with_weight_decay(weight_decay)
                .build()
        };
        Self { decayed: build(config.weight_decay), plain: build(0.0), state: HashMap::new() }
    }

    /// One update with gradients multiplied by `scale`. Parameters without a gradient stay as they are.
    pub fn step<M: Module<AB>>(&mut self, lr: f64, module: M, grads: GradientsParams, scale: f32) -> M {
        module.map(&mut Update { optimizer: self, lr, grads, scale })
    }
}

struct Update<'a, AB: AutodiffBackend> {
    optimizer: &'a mut Optimizer<AB>,
    lr: f64,
    grads: GradientsParams,
    scale: f32,
}

impl<AB: AutodiffBackend> ModuleMapper<AB> for Update<'_, AB> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<AB, D>>) -> Param<Tensor<AB, D>> {
        let (id, tensor, mapper) = param.consume();
        let Some(grad) = self.grads.remove::<AB::InnerBackend, D>(id) else {
            return Param::from_mapped_value(id, tensor, mapper);
        };
        let shape = tensor.dims();
        let size = shape.iter().product::<usize>();
        let flat = tensor.inner().reshape([size]);
        let mut grad = grad.reshape([size]);
        if self.scale != 1.0 {
            grad = grad.mul_scalar(self.scale);
        }
        let rule = if D >= 2 { &self.optimizer.decayed } else { &self.optimizer.plain };
        let (flat, state) = rule.step(self.lr, flat, grad, self.optimizer.state.remove(&id));
        if let Some(state) = state {
            self.optimizer.state.insert(id, state);
        }
        let tensor = Tensor::from_inner(flat.reshape(shape)).require_grad();
        Param::from_mapped_value(id, tensor, mapper)
    }
}

/// The Euclidean norm of all gradients together, f64; NaN or infinite where any of them is.
pub fn global_norm<AB: AutodiffBackend>(module: &impl Module<AB>, grads: &GradientsParams) -> f64 {
    let mut norm = Norm { grads, squares: 0.0 };
    module.visit(&mut norm);
    norm.squares.sqrt()
}

struct Norm<'a> {
    grads: &'a GradientsParams,
    squares: f64,
}

impl<AB: AutodiffBackend> ModuleVisitor<AB> for Norm<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<AB, D>>) {
        if let Some(grad) = self.grads.get::<AB::InnerBackend, D>(param.id) {
            let data = crate::host::weights::to_vec(grad.into_data());
            self.squares += data.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_rises_then_falls() {
        let s = LrSchedule::cosine(4, 14, 10);
        assert_eq!(s.factor(0), 0.25);
        assert_eq!(s.factor(3), 1.0);
        assert_eq!(s.factor(4), 1.0);
        assert!((s.factor(9) - 0.55).abs() < 1e-12);
        assert!((s.factor(14) - 0.1).abs() < 1e-12);
        assert!((s.factor(100) - 0.1).abs() < 1e-12);
        assert_eq!(LrSchedule::constant(0).factor(7), 1.0);
    }
}
