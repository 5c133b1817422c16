//! A network's parameters in the executor's order, and their memory laid densely.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Tensor, backend::AutodiffBackend};

use super::memory;
use crate::device::weights::{LayerAt, LinearAt, WeightsAt};
use crate::device::{Result, Span};
use crate::kernels::Kernels;
use crate::kernels::memory::Memory;
use crate::network::{Linear, RmsNorm, Transformer};

/// What a parameter is to the executor, in the order of `for_each`.
pub(super) enum Shape {
    Matrix([usize; 2]),
    Vector(usize),
}

/// Copies parameters whose rows are padded on a GPU; others, and those of other backends, stay as they are. `hollow` makes what
/// stands in the module's place meanwhile.
pub(super) fn lay_dense<AB: AutodiffBackend + Kernels, M: Module<AB>>(module: &mut M, hollow: impl FnOnce(&M) -> M) {
    let mut look = Look { padded: false };
    module.visit(&mut look);
    if look.padded {
        let empty = hollow(module);
        *module = std::mem::replace(module, empty).map(&mut Flatten);
    }
}

struct Look {
    padded: bool,
}

impl<AB: AutodiffBackend + Kernels> ModuleVisitor<AB> for Look {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<AB, D>>) {
        self.padded |= AB::memory(&param.val().into_primitive().tensor()).is_some_and(|m| !m.dense());
    }
}

struct Flatten;

impl<AB: AutodiffBackend + Kernels> ModuleMapper<AB> for Flatten {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<AB, D>>) -> Param<Tensor<AB, D>> {
        let (id, tensor, mapper) = param.consume();
        let (shape, tracked) = (tensor.dims(), tensor.is_require_grad());
        let flat = tensor.inner().reshape([shape.iter().product::<usize>()]);
        let tensor = Tensor::from_inner(flat.reshape(shape)).set_require_grad(tracked);
        Param::from_mapped_value(id, tensor, mapper)
    }
}

/// Every parameter in the order of `tree`, which is that of `host::HostWeights::for_each_mut`.
fn for_each<AB: AutodiffBackend>(
    network: &Transformer<AB>,
    matrix: &mut dyn FnMut(&Param<Tensor<AB, 2>>),
    vector: &mut dyn FnMut(&Param<Tensor<AB, 1>>),
) {
    let linear = |l: &Linear<AB>,
                  matrix: &mut dyn FnMut(&Param<Tensor<AB, 2>>),
                  vector: &mut dyn FnMut(&Param<Tensor<AB, 1>>)| {
        matrix(&l.weight);
        l.bias.iter().for_each(vector);
    };
    let norm = |n: &RmsNorm<AB>, vector: &mut dyn FnMut(&Param<Tensor<AB, 1>>)| vector(&n.weight);
    matrix(&network.embed);
    for layer in &network.layers {
        norm(&layer.attention_norm, vector);
        linear(&layer.attention.qkv, matrix, vector);
        layer.attention.q_norm.iter().for_each(|n| norm(n, vector));
        layer.attention.k_norm.iter().for_each(|n| norm(n, vector));
        linear(&layer.attention.output, matrix, vector);
        norm(&layer.mlp_norm, vector);
        linear(&layer.mlp.gate_up, matrix, vector);
        linear(&layer.mlp.down, matrix, vector);
    }
    norm(&network.norm, vector);
    network.head.iter().for_each(matrix);
}

pub(super) fn shapes<AB: AutodiffBackend>(network: &Transformer<AB>) -> Vec<(ParamId, Shape)> {
    let list = std::cell::RefCell::new(Vec::new());
    for_each(network, &mut |p| list.borrow_mut().push((p.id, Shape::Matrix(p.val().dims()))), &mut |p| {
        list.borrow_mut().push((p.id, Shape::Vector(p.val().dims()[0])))
    });
    list.into_inner()
}

pub(super) fn memories<AB: AutodiffBackend + Kernels>(network: &Transformer<AB>) -> Result<Vec<Memory>> {
    let list = std::cell::RefCell::new(Vec::new());
    for_each(network, &mut |p| list.borrow_mut().push(memory(p.val())), &mut |p| {
        list.borrow_mut().push(memory(p.val()))
    });
    list.into_inner().into_iter().collect()
}

/// Spans in the order of `for_each`, by name.
pub(super) fn tree<AB: AutodiffBackend>(network: &Transformer<AB>, spans: &[Span]) -> WeightsAt {
    let mut spans = spans.iter().copied();
    let mut next = || spans.next().unwrap_or(Span::NONE);
    let linear = |l: &Linear<AB>, next: &mut dyn FnMut() -> Span| LinearAt {
        weight: next(),
        bias: l.bias.is_some().then(&mut *next),
    };
    WeightsAt {
        embed: next(),
        layers: network
            .layers
            .iter()
            .map(|layer| LayerAt {
                attention_norm: next(),
                qkv: linear(&layer.attention.qkv, &mut next),
                q_norm: layer.attention.q_norm.is_some().then(&mut next),
                k_norm: layer.attention.k_norm.is_some().then(&mut next),
                output: linear(&layer.attention.output, &mut next),
                mlp_norm: next(),
                gate_up: linear(&layer.mlp.gate_up, &mut next),
                down: linear(&layer.mlp.down, &mut next),
            })
            .collect(),
        norm: next(),
        head: network.head.is_some().then(&mut next),
    }
}
