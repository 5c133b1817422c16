//! The trained matrices, one pair for each target of each layer, and where in the network's fused matrices they belong.

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData, backend::Backend};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::config::{LoraConfig, Sizes, Target};
use crate::network::{Layer, Transformer};

/// `B A`, with PEFT's shapes.
#[derive(Module, Debug)]
pub struct Adapter<B: Backend> {
    /// `[rank, in]`
    pub lora_a: Param<Tensor<B, 2>>,
    /// `[out, rank]`
    pub lora_b: Param<Tensor<B, 2>>,
}

/// The adapters of one decoder layer; fields by their target's name, so that a checkpoint's tensors have it too.
#[derive(Module, Debug)]
pub struct LayerAdapters<B: Backend> {
    pub q_proj: Option<Adapter<B>>,
    pub k_proj: Option<Adapter<B>>,
    pub v_proj: Option<Adapter<B>>,
    pub o_proj: Option<Adapter<B>>,
    pub gate_proj: Option<Adapter<B>>,
    pub up_proj: Option<Adapter<B>>,
    pub down_proj: Option<Adapter<B>>,
}

/// All adapters of a network: what LoRA trains, and all that it trains.
#[derive(Module, Debug)]
pub struct Adapters<B: Backend> {
    pub layers: Vec<LayerAdapters<B>>,
}

impl<B: Backend> LayerAdapters<B> {
    pub fn get(&self, target: Target) -> Option<&Adapter<B>> {
        match target {
            Target::QProj => self.q_proj.as_ref(),
            Target::KProj => self.k_proj.as_ref(),
            Target::VProj => self.v_proj.as_ref(),
            Target::OProj => self.o_proj.as_ref(),
            Target::GateProj => self.gate_proj.as_ref(),
            Target::UpProj => self.up_proj.as_ref(),
            Target::DownProj => self.down_proj.as_ref(),
        }
    }
}

impl<B: Backend> Adapters<B> {
    /// One adapter for each target of each layer, made by `make(layer, target)`.
    pub fn build<E>(
        config: &LoraConfig,
        layers: usize,
        mut make: impl FnMut(usize, Target) -> Result<Adapter<B>, E>,
    ) -> Result<Self, E> {
        let mut all = Vec::with_capacity(layers);
        for layer in 0..layers {
            let mut of = |target: Target| config.targets.contains(&target).then(|| make(layer, target)).transpose();
            all.push(LayerAdapters {
                q_proj: of(Target::QProj)?,
                k_proj: of(Target::KProj)?,
                v_proj: of(Target::VProj)?,
                o_proj: of(Target::OProj)?,
                gate_proj: of(Target::GateProj)?,
                up_proj: of(Target::UpProj)?,
                down_proj: of(Target::DownProj)?,
            });
        }
        Ok(Self { layers: all })
    }

    /// Fresh ones: A uniform in `+-1 / sqrt(in)` (PyTorch's Kaiming with `a = sqrt 5`), B zero, so that they change nothing.
    ///
    /// Each A has a stream of its own: the choice of other targets does not change it.
    pub fn fresh(config: &LoraConfig, sizes: &Sizes, layers: usize, seed: u64, device: &B::Device) -> Self {
        let make = |layer: usize, target: Target| -> Result<Adapter<B>, std::convert::Infallible> {
            let [input, output] = sizes.of(target);
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream((layer * Target::ALL.len() + target as usize) as u64);
            let bound = 1.0 / (input as f32).sqrt();
            let a = (0..config.rank * input).map(|_| bound * (2.0 * rng.random::<f32>() - 1.0)).collect();
            Ok(Adapter::new(a, vec![0.0; output * config.rank], config.rank, [input, output], device))
        };
        match Self::build(config, layers, make) {
            Ok(adapters) => adapters,
            Err(never) => match never {},
        }
    }
}

impl<B: Backend> Adapter<B> {
    /// From row-major elements.
    pub fn new(a: Vec<f32>, b: Vec<f32>, rank: usize, [input, output]: [usize; 2], device: &B::Device) -> Self {
        let param = |values: Vec<f32>, shape: [usize; 2]| {
            Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device))
        };
        Self { lora_a: param(a, [rank, input]), lora_b: param(b, [output, rank]) }
    }
}

/// The network's linear layers, which hold several targets side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fused {
    Qkv,
    Output,
    GateUp,
    Down,
}

impl Fused {
    pub const ALL: [Self; 4] = [Self::Qkv, Self::Output, Self::GateUp, Self::Down];

    /// Its matrix, `[in, out of all its targets]`.
    pub fn weight<B: Backend>(self, layer: &Layer<B>) -> &Param<Tensor<B, 2>> {
        match self {
            Self::Qkv => &layer.attention.qkv.weight,
            Self::Output => &layer.attention.output.weight,
            Self::GateUp => &layer.mlp.gate_up.weight,
            Self::Down => &layer.mlp.down.weight,
        }
    }

    pub fn set_weight<B: Backend>(self, layer: &mut Layer<B>, weight: Param<Tensor<B, 2>>) {
        match self {
            Self::Qkv => layer.attention.qkv.weight = weight,
            Self::Output => layer.attention.output.weight = weight,
            Self::GateUp => layer.mlp.gate_up.weight = weight,
            Self::Down => layer.mlp.down.weight = weight,
        }
    }

    /// Its targets, with their columns.
    pub fn parts(self, sizes: &Sizes) -> Vec<(Target, Range<usize>)> {
        let targets: &[Target] = match self {
            Self::Qkv => &[Target::QProj, Target::KProj, Target::VProj],
            Self::Output => &[Target::OProj],
            Self::GateUp => &[Target::GateProj, Target::UpProj],
            Self::Down => &[Target::DownProj],
        };
        let mut start = 0;
        targets
            .iter()
            .map(|target| {
                let columns = start..start + sizes.of(*target)[1];
                start = columns.end;
                (*target, columns)
            })
            .collect()
    }
}

impl Sizes {
    /// Of a network that is there; zero without layers.
    pub fn of_network<B: Backend>(network: &Transformer<B>) -> Self {
        let Some(layer) = network.layers.first() else { return Self { hidden: 0, q: 0, kv: 0, ff: 0 } };
        let a = &layer.attention;
        Self {
            hidden: network.hidden_size(),
            q: a.heads * a.head_dim,
            kv: a.kv_heads * a.head_dim,
            ff: layer.mlp.down.weight.dims()[0],
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::CpuInner;
    use crate::host::weights::to_vec;
    use crate::lora::config::parse;

    fn a(words: &[&str], seed: u64, layer: usize, target: Target) -> Vec<f32> {
        let config = LoraConfig { rank: 3, alpha: 1.0, targets: parse(words).unwrap(), rslora: false };
        let sizes = Sizes { hidden: 400, q: 8, kv: 4, ff: 100 };
        let adapters = Adapters::<CpuInner>::fresh(&config, &sizes, 2, seed, &Default::default());
        let adapter = adapters.layers[layer].get(target).unwrap();
        assert!(to_vec(adapter.lora_b.val().into_data()).iter().all(|x| x.to_bits() == 0));
        to_vec(adapter.lora_a.val().into_data())
    }

    #[test]
    fn a_follows_from_its_seed_and_place_alone_and_fills_its_range() {
        let one = a(&["all-linear"], 5, 1, Target::QProj);
        assert_eq!(one, a(&["q_proj"], 5, 1, Target::QProj));
        assert_ne!(one, a(&["q_proj"], 6, 1, Target::QProj));
        assert_ne!(one, a(&["q_proj"], 5, 0, Target::QProj));
        assert_ne!(one, a(&["k_proj"], 5, 1, Target::KProj));
        let (bound, n) = (1.0 / 20.0, one.len() as f32);
        assert!(one.iter().all(|x| x.abs() <= bound) && one.iter().any(|x| x.abs() > 0.99 * bound));
        // Mean 0 and variance bound^2 / 3 of a uniform distribution, within four standard errors.
        let mean = one.iter().sum::<f32>() / n;
        let variance = one.iter().map(|x| x * x).sum::<f32>() / n;
        assert!(mean.abs() < 4.0 * bound / (3.0 * n).sqrt(), "{mean}");
        assert!((variance / (bound * bound / 3.0) - 1.0).abs() < 4.0 * (0.8 / n).sqrt(), "{variance}");
    }
}
