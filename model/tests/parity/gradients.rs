//! burn's gradients of the network against central differences, for every parameter tensor of a toy of each kind.
//!
//! Planted once and seen to fail: keys cut off from the gradient.

use burn::backend::Autodiff;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Tensor, TensorData};
use model::load_weights;
use model::network::Transformer;

use crate::*;

type Ad = Autodiff<B>;

/// Length of the step along a random direction.
const STEP: f32 = 4e-3;
/// Relative to the slope itself, plus what single precision leaves of a slope that is small beside its neighbours.
const RELATIVE: f64 = 0.02;

/// `-sum_t w_t log p(token_t | before)`, with fixed uneven weights; the sum is taken in double precision.
fn weights(count: usize) -> Vec<f32> {
    (0..count).map(|i| 0.2 + 0.1 * (i % 7) as f32).collect()
}

fn log_probs<C: model::kernels::Kernels>(network: &Transformer<C>, rows: &[Vec<u32>]) -> Tensor<C, 1> {
    let device = Default::default();
    let (batch, seq) = (rows.len(), rows[0].len());
    let flat: Vec<i64> = rows.iter().flatten().map(|id| i64::from(*id)).collect();
    let tokens = Tensor::<C, 2, burn::tensor::Int>::from_data(TensorData::new(flat, [batch, seq]), &device);
    let positions = Tensor::<C, 1, burn::tensor::Int>::arange(0..seq as i64, &device).reshape([1, seq]);
    let hidden = network.forward(tokens.clone(), positions.repeat_dim(0, batch), None);
    let logits = network.logits(hidden.narrow(1, 0, seq - 1));
    let next = tokens.narrow(1, 1, seq - 1).reshape([batch, seq - 1, 1]);
    log_softmax(logits, 2).gather(2, next).reshape([batch * (seq - 1)])
}

fn loss(network: &Transformer<B>, rows: &[Vec<u32>]) -> f64 {
    let found: Vec<f32> = log_probs(network, rows).into_data().iter::<f32>().collect();
    -found.iter().zip(weights(found.len())).map(|(p, w)| f64::from(*p) * f64::from(w)).sum::<f64>()
}

fn pseudo_random(count: usize, salt: u64) -> Vec<f32> {
    let mut state = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// Every parameter with its gradient, in the module's order.
struct Collect<'a> {
    gradients: &'a GradientsParams,
    found: Vec<(ParamId, String, Vec<f32>)>,
    path: Vec<String>,
}

impl ModuleVisitor<Ad> for Collect<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }
    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<Ad, D>>) {
        let gradient = self.gradients.get::<B, D>(param.id).expect("every parameter has a gradient");
        self.found.push((param.id, self.path.join("."), gradient.into_data().iter::<f32>().collect()));
    }
}

/// Moves one parameter along a direction.
struct Move<'a> {
    id: ParamId,
    direction: &'a [f32],
    by: f32,
}

impl ModuleMapper<B> for Move<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        if param.id != self.id {
            return param;
        }
        let (direction, by) = (self.direction.to_vec(), self.by);
        param.map(|value| {
            let shape = value.dims();
            let step = Tensor::<B, D>::from_data(TensorData::new(direction, shape), &value.device());
            value + step.mul_scalar(by)
        })
    }
}

#[test]
fn gradients_equal_central_differences() {
    for case in ["llama-bias-tied", "llama-llama3", "qwen2-yarn", "qwen3-sharded"] {
        let (_, network) = load_weights::<Ad>(&fixture(case), &Default::default()).unwrap();
        let rows: Vec<Vec<u32>> = logits::expected_tokens(case).iter().map(|row| row[..10].to_vec()).collect();
        let found = log_probs(&network, &rows);
        let count = found.dims()[0];
        let scaled = found * Tensor::from_data(TensorData::new(weights(count), [count]), &Default::default());
        let gradients = GradientsParams::from_grads(scaled.sum().neg().backward(), &network);
        let mut collect = Collect { gradients: &gradients, found: Vec::new(), path: Vec::new() };
        network.visit(&mut collect);
        assert!(collect.found.len() > 10);
        let plain = burn::module::AutodiffModule::valid(&network);
        for (index, (id, path, gradient)) in collect.found.iter().enumerate() {
            // Half along the gradient's signs (a slope that is large), half random (every element counts).
            let direction: Vec<f32> = pseudo_random(gradient.len(), 1 + index as u64)
                .iter()
                .zip(gradient)
                .map(|(noise, slope)| 0.5 * noise + 0.5 * slope.signum())
                .collect();
            let norm = direction.iter().map(|x| x * x).sum::<f32>().sqrt();
            let direction: Vec<f32> = direction.iter().map(|x| x / norm).collect();
            let at = |by: f32| {
                let moved = plain.clone().map(&mut Move { id: *id, direction: &direction, by });
                loss(&moved, &rows)
            };
            // Fourth order: `(8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12 h`.
            let slope = (8.0 * (at(STEP) - at(-STEP)) - (at(2.0 * STEP) - at(-2.0 * STEP))) / (12.0 * f64::from(STEP));
            let expected: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
            let gap = (slope - expected).abs();
            assert!(
                gap < RELATIVE * expected.abs() + 5e-3,
                "{case}, {path} (parameter {index}): the slope is {slope}, the gradient says {expected}"
            );
        }
    }
}
