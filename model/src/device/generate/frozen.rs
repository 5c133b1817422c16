//! A network's parameters for generation: one piece of device memory, filled anew for each policy version.
//!
//! Matrices have the type of the products' factors, norms and biases are fp32. The memory stays where it is, so that a recorded
//! step goes on with new weights.

use std::any::Any;

use burn::module::Param;
use burn::tensor::{Tensor, backend::Backend, bf16};
use cudarc::driver::CudaSlice;

use crate::GpuInner;
use crate::device::{DeviceError, Element, Result, Runtime, Span};
use crate::host::weights::to_vec;
use crate::kernels::Kernels;
use crate::kernels::memory::{Memory, addresses};
use crate::network::{Linear, Transformer};

/// `[in, out]` and `[out]`; no bias is [`Span::NONE`].
#[derive(Clone, Copy, Debug)]
pub struct FrozenLinear {
    pub weight: Span,
    pub bias: Span,
}

#[derive(Clone, Debug)]
pub struct FrozenLayer {
    pub attention_norm: Span,
    pub qkv: FrozenLinear,
    pub q_norm: Span,
    pub k_norm: Span,
    pub output: FrozenLinear,
    pub mlp_norm: Span,
    pub gate_up: FrozenLinear,
    pub down: FrozenLinear,
}

#[derive(Debug)]
pub struct Frozen {
    pub element: Element,
    /// `[vocab, hidden]`
    pub embed: Span,
    pub layers: Vec<FrozenLayer>,
    pub norm: Span,
    /// `[hidden, vocab]`; none where the embedding is the head.
    pub head: Option<Span>,
    bytes: usize,
    /// Owns what the spans point to.
    _memory: CudaSlice<u8>,
}

/// Addresses that products like best.
const ALIGNMENT: usize = 256;

/// Hands out pieces; first only to count them, then of real memory.
struct Carver {
    base: u64,
    used: usize,
}

impl Carver {
    fn take(&mut self, elements: usize, bytes: usize) -> Span {
        let span = Span { address: self.base + self.used as u64, bytes: elements * bytes };
        self.used = (self.used + span.bytes).next_multiple_of(ALIGNMENT);
        span
    }

    fn matrix<B: Backend>(&mut self, element: Element, weight: &Param<Tensor<B, 2>>) -> Span {
        let [rows, columns] = weight.dims();
        self.take(rows * columns, element.bytes())
    }

    fn vector<B: Backend>(&mut self, weight: &Param<Tensor<B, 1>>) -> Span {
        self.take(weight.dims()[0], size_of::<f32>())
    }

    fn linear<B: Backend>(&mut self, element: Element, linear: &Linear<B>) -> FrozenLinear {
        let weight = self.matrix(element, &linear.weight);
        FrozenLinear { weight, bias: linear.bias.as_ref().map_or(Span::NONE, |b| self.vector(b)) }
    }
}

/// Every parameter of a network with its place, always in the same order.
struct Visit<'a, B: Backend> {
    matrix: &'a mut dyn FnMut(Tensor<B, 2>, Span) -> Result<()>,
    vector: &'a mut dyn FnMut(Tensor<B, 1>, Span) -> Result<()>,
}

impl<B: Backend> Visit<'_, B> {
    fn linear(&mut self, from: &Linear<B>, to: FrozenLinear) -> Result<()> {
        (self.matrix)(from.weight.val(), to.weight)?;
        from.bias.as_ref().map_or(Ok(()), |bias| (self.vector)(bias.val(), to.bias))
    }
}

impl Frozen {
    /// Memory for `network`'s parameters, not yet filled.
    pub fn new<B: Backend>(runtime: &Runtime, network: &Transformer<B>, element: Element) -> Result<Self> {
        let carve = |carver: &mut Carver| {
            let embed = carver.matrix(element, &network.embed);
            let layers: Vec<FrozenLayer> = network
                .layers
                .iter()
                .map(|layer| FrozenLayer {
                    attention_norm: carver.vector(&layer.attention_norm.weight),
                    qkv: carver.linear(element, &layer.attention.qkv),
                    q_norm: layer.attention.q_norm.as_ref().map_or(Span::NONE, |n| carver.vector(&n.weight)),
                    k_norm: layer.attention.k_norm.as_ref().map_or(Span::NONE, |n| carver.vector(&n.weight)),
                    output: carver.linear(element, &layer.attention.output),
                    mlp_norm: carver.vector(&layer.mlp_norm.weight),
                    gate_up: carver.linear(element, &layer.mlp.gate_up),
                    down: carver.linear(element, &layer.mlp.down),
                })
                .collect();
            let norm = carver.vector(&network.norm.weight);
            (embed, layers, norm, network.head.as_ref().map(|head| carver.matrix(element, head)))
        };
        let mut counter = Carver { base: 0, used: 0 };
        carve(&mut counter);
        let memory = runtime.alloc("the generator's weights", counter.used)?;
        let (embed, layers, norm, head) = carve(&mut Carver { base: runtime.whole(&memory).address, used: 0 });
        Ok(Self { element, embed, layers, norm, head, bytes: counter.used, _memory: memory })
    }

    /// Bytes of all parameters.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies `network`'s parameters, which must have the shapes of the first: on the GPU where they are there (`take(from, to,
    /// elements, is a matrix)` submits one copy), else through the host. To be waited for.
    pub fn fill<B: Backend>(
        &self,
        runtime: &Runtime,
        network: &Transformer<B>,
        take: &dyn Fn(Span, Span, usize, bool) -> Result<()>,
    ) -> Result<()> {
        let here = (network as &dyn Any).downcast_ref::<Transformer<GpuInner>>();
        if let Some(moves) = here.map(|network| self.moves(runtime, network)).transpose()?.flatten() {
            let sources: Vec<Memory> = moves.iter().map(|(memory, ..)| memory.clone()).collect();
            let found = addresses(&sources)?;
            // What burn has still to do with them comes first.
            if let Some(network) = here {
                let waited = GpuInner::sync(&network.embed.val().device());
                waited.map_err(|e| DeviceError::Unsupported { what: format!("burn failed before: {e:?}") })?;
            }
            for ((address, bytes), (memory, to, matrix)) in found.into_iter().zip(&moves) {
                take(Span { address, bytes }, *to, memory.elements(), *matrix)?;
            }
            // Until then the tensors are held by `network`.
            return runtime.synchronize();
        }
        self.visit(
            network,
            Visit {
                matrix: &mut |tensor, to| upload(runtime, tensor, to, self.element),
                vector: &mut |tensor, to| upload(runtime, tensor, to, Element::F32 { tf32: false }),
            },
        )?;
        runtime.synchronize()
    }

    /// All parameters with their places; none where one is not dense fp32 on this GPU.
    fn moves(&self, runtime: &Runtime, network: &Transformer<GpuInner>) -> Result<Option<Vec<(Memory, Span, bool)>>> {
        let ordinal = runtime.context().ordinal();
        let moves = std::cell::RefCell::new(Some(Vec::new()));
        let note = |memory: Option<Memory>, to: Span, matrix: bool| {
            let bytes = if matrix { self.element.bytes() } else { size_of::<f32>() };
            let mut moves = moves.borrow_mut();
            match memory.filter(|m| m.ordinal() == ordinal && m.dense()) {
                Some(memory) if memory.elements() * bytes != to.bytes => {
                    let (found, expected) = (memory.elements() * bytes, to.bytes);
                    return Err(DeviceError::Extent { what: "a parameter of the new weights", found, expected });
                }
                Some(memory) => moves.iter_mut().for_each(|list| list.push((memory.clone(), to, matrix))),
                None => *moves = None,
            }
            Ok(())
        };
        self.visit(
            network,
            Visit {
                matrix: &mut |tensor, to| note(GpuInner::memory(&tensor.into_primitive().tensor()), to, true),
                vector: &mut |tensor, to| note(GpuInner::memory(&tensor.into_primitive().tensor()), to, false),
            },
        )?;
        Ok(moves.into_inner())
    }

    fn visit<B: Backend>(&self, network: &Transformer<B>, mut visit: Visit<B>) -> Result<()> {
        if network.layers.len() != self.layers.len() || network.head.is_some() != self.head.is_some() {
            let what = format!("new weights have {} layers, the first had {}", network.layers.len(), self.layers.len());
            return Err(DeviceError::Unsupported { what });
        }
        (visit.matrix)(network.embed.val(), self.embed)?;
        for (from, to) in network.layers.iter().zip(&self.layers) {
            (visit.vector)(from.attention_norm.weight.val(), to.attention_norm)?;
            visit.linear(&from.attention.qkv, to.qkv)?;
            if let (Some(q), Some(k)) = (&from.attention.q_norm, &from.attention.k_norm) {
                (visit.vector)(q.weight.val(), to.q_norm)?;
                (visit.vector)(k.weight.val(), to.k_norm)?;
            }
            visit.linear(&from.attention.output, to.output)?;
            (visit.vector)(from.mlp_norm.weight.val(), to.mlp_norm)?;
            visit.linear(&from.mlp.gate_up, to.gate_up)?;
            visit.linear(&from.mlp.down, to.down)?;
        }
        (visit.vector)(network.norm.weight.val(), self.norm)?;
        match (&network.head, self.head) {
            (Some(head), Some(to)) => (visit.matrix)(head.val(), to),
            _ => Ok(()),
        }
    }
}

/// Through the host.
fn upload<B: Backend, const D: usize>(
    runtime: &Runtime,
    tensor: Tensor<B, D>,
    to: Span,
    element: Element,
) -> Result<()> {
    let values = to_vec(tensor.into_data());
    let expected = values.len() * element.bytes();
    if expected != to.bytes {
        return Err(DeviceError::Extent {
            what: "a parameter of the new weights",
            found: expected,
            expected: to.bytes,
        });
    }
    match element {
        Element::Bf16 => {
            let rounded: Vec<u16> = values.iter().map(|x| bf16::from_f32(*x).to_bits()).collect();
            runtime.upload(&rounded, to)
        }
        _ => runtime.upload(&values, to),
    }
}
