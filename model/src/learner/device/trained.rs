//! What a pass reads and writes of burn's tensors: the weights, and a gradient for everything that is trained.

use burn::optim::GradientsParams;
use burn::tensor::{Tensor, backend::AutodiffBackend};

use super::parameters::{Shape, memories, shapes, tree};
use super::{empty, memory, spans};
use crate::device::adapters::{AdaptersAt, LayerAdaptersAt, PartAt};
use crate::device::weights::WeightsAt;
use crate::device::{Executor, Result, Sink, Span};
use crate::kernels::Kernels;
use crate::kernels::memory::Memory;
use crate::learner::gpu::Trained;
use crate::lora::Lora;
use crate::lora::adapters::Fused;

/// Memory of a pass, held until it has ended.
pub struct Held {
    _memory: Vec<Memory>,
    weights: WeightsAt,
    what: What,
}

enum What {
    All(Option<WeightsAt>),
    Adapters(AdaptersAt, bool),
}

impl Held {
    /// With `backward`, also new tensors for the gradients, which are registered by their parameters' ids; they are written before they
    /// are read.
    pub fn new<AB: AutodiffBackend + Kernels>(
        trained: &Trained<AB>,
        backward: bool,
        params: &mut GradientsParams,
    ) -> Result<Self> {
        match trained {
            Trained::All(network) => {
                let device = network.embed.val().device();
                let mut held = memories(network)?;
                let masters = held.len();
                for (id, shape) in if backward { shapes(network) } else { Vec::new() } {
                    match shape {
                        Shape::Matrix(dims) => {
                            let tensor = empty::<AB>(dims[0] * dims[1], &device).reshape(dims);
                            held.push(memory::<AB, 2>(Tensor::from_inner(tensor.clone()))?);
                            params.register(id, tensor);
                        }
                        Shape::Vector(width) => {
                            let tensor = empty::<AB>(width, &device);
                            held.push(memory::<AB, 1>(Tensor::from_inner(tensor.clone()))?);
                            params.register(id, tensor);
                        }
                    }
                }
                let at = spans(&held)?;
                let grads = backward.then(|| tree(network, &at[masters..]));
                Ok(Self { weights: tree(network, &at[..masters]), what: What::All(grads), _memory: held })
            }
            Trained::Adapters(lora) => Self::of_adapters(lora, backward, params),
        }
    }

    fn of_adapters<AB: AutodiffBackend + Kernels>(
        lora: &Lora<AB>,
        backward: bool,
        params: &mut GradientsParams,
    ) -> Result<Self> {
        let base = lora.base();
        let device = base.embed.val().device();
        let mut held = memories(base)?;
        let masters = held.len();
        // Four a part: A, B and, with `backward`, their gradients.
        let mut layers: Vec<[Vec<PartAt>; 4]> = Vec::new();
        for adapters in &lora.adapters().layers {
            let mut all: [Vec<PartAt>; 4] = Default::default();
            for (list, fused) in all.iter_mut().zip(Fused::ALL) {
                for (target, columns) in fused.parts(lora.sizes()) {
                    let Some(adapter) = adapters.get(target) else { continue };
                    let params_of = [&adapter.lora_a, &adapter.lora_b];
                    for param in params_of {
                        held.push(memory(param.val())?);
                    }
                    for param in params_of.into_iter().filter(|_| backward) {
                        let dims = param.dims();
                        let tensor = empty::<AB>(dims[0] * dims[1], &device).reshape(dims);
                        held.push(memory::<AB, 2>(Tensor::from_inner(tensor.clone()))?);
                        params.register(param.id, tensor);
                    }
                    let rank = adapter.lora_a.dims()[0];
                    let none = Span::NONE;
                    list.push(PartAt {
                        start: columns.start,
                        len: columns.len(),
                        rank,
                        a: none,
                        b: none,
                        grads: [none; 2],
                        elements: [none; 2],
                    });
                }
            }
            layers.push(all);
        }
        let at = spans(&held)?;
        let weights = tree(base, &at[..masters]);
        let mut rest = at[masters..].iter().copied();
        let mut next = || rest.next().unwrap_or(Span::NONE);
        for part in layers.iter_mut().flatten().flatten() {
            (part.a, part.b) = (next(), next());
            if backward {
                part.grads = [next(), next()];
            }
        }
        let layers =
            layers.into_iter().map(|[qkv, output, gate_up, down]| LayerAdaptersAt { qkv, output, gate_up, down });
        let adapters = AdaptersAt { layers: layers.collect(), scale: lora.config().scale() as f32 };
        Ok(Self { weights, what: What::Adapters(adapters, backward), _memory: held })
    }

    /// Gives the executor its weights.
    pub fn prepare(&self, executor: &mut Executor) -> Result<()> {
        match &self.what {
            What::All(_) => executor.prepare(&self.weights),
            What::Adapters(adapters, _) => executor.prepare_adapters(&self.weights, adapters.clone()),
        }
    }

    /// The masters, or the base.
    pub fn masters(&self) -> &WeightsAt {
        &self.weights
    }

    /// The adapters, where those are trained.
    pub fn adapters(&self) -> Option<&AdaptersAt> {
        match &self.what {
            What::All(_) => None,
            What::Adapters(adapters, _) => Some(adapters),
        }
    }

    /// The gradients of what is trained: of every parameter in the order of `WeightsAt::map`, or of each adapter's A and B
    /// ([`AdaptersAt::parts`]).
    pub fn gradients(&self) -> Vec<Span> {
        let mut list = Vec::new();
        match &self.what {
            What::All(Some(grads)) => {
                let _ = grads.each::<std::convert::Infallible>(&mut |span, _| {
                    list.push(span);
                    Ok(())
                });
            }
            What::Adapters(adapters, true) => list.extend(adapters.parts().flat_map(|p| p.grads)),
            _ => {}
        }
        list
    }

    /// Where gradients go, if there are to be some.
    pub fn sink(&self) -> Option<Sink<'_>> {
        match &self.what {
            What::All(grads) => grads.as_ref().map(Sink::All),
            What::Adapters(_, backward) => backward.then_some(Sink::Adapters),
        }
    }
}
