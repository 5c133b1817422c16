//! The parameters of a network as plain vectors, read from the burn module once per policy version.

use burn::module::{Param, ParamId};
use burn::tensor::{Tensor, TensorData, backend::Backend};

use crate::network::{Linear, RmsNorm, Transformer};

/// One parameter tensor, row-major.
#[derive(Clone, Debug)]
pub struct Weight {
    /// The burn parameter it was read from.
    pub id: ParamId,
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

/// Sizes shared by all layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Dims {
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ff: usize,
    pub vocab: usize,
    pub eps: f32,
    /// Radians per position, `head_dim / 2` of them.
    pub frequencies: Vec<f32>,
    /// Multiplies cos and sin.
    pub rope_scale: f32,
}

impl Dims {
    pub fn of<B: Backend>(network: &Transformer<B>) -> Self {
        let [vocab, hidden] = network.embed.dims();
        let attention = network.layers.first().map(|l| &l.attention);
        Self {
            hidden,
            vocab,
            heads: attention.map_or(1, |a| a.heads),
            kv_heads: attention.map_or(1, |a| a.kv_heads),
            head_dim: attention.map_or(2, |a| a.head_dim),
            ff: network.layers.first().map_or(0, |l| l.mlp.down.weight.dims()[0]),
            eps: network.norm.eps as f32,
            frequencies: network.rope.frequencies.clone(),
            rope_scale: network.rope.scale,
        }
    }

    /// Columns of the fused q, k and v projection.
    pub fn qkv(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Columns of q, and of the attention's output before its projection.
    pub fn q(&self) -> usize {
        self.heads * self.head_dim
    }

    pub fn kv(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

#[derive(Clone, Debug)]
pub struct HostLinear {
    /// `[in, out]`
    pub weight: Weight,
    /// `[out]`
    pub bias: Option<Weight>,
}

#[derive(Clone, Debug)]
pub struct HostLayer {
    pub attention_norm: Weight,
    pub qkv: HostLinear,
    pub q_norm: Option<Weight>,
    pub k_norm: Option<Weight>,
    pub output: HostLinear,
    pub mlp_norm: Weight,
    pub gate_up: HostLinear,
    pub down: HostLinear,
}

/// All parameters; gradients have the same shape.
#[derive(Clone, Debug)]
pub struct HostWeights {
    pub dims: Dims,
    /// `[vocab, hidden]`
    pub embed: Weight,
    pub layers: Vec<HostLayer>,
    pub norm: Weight,
    /// `[hidden, vocab]`; none where the embedding is the head.
    pub head: Option<Weight>,
}

impl HostWeights {
    /// Copies every parameter to the host.
    pub fn from_network<B: Backend>(network: &Transformer<B>) -> Self {
        let layers: Vec<HostLayer> = network
            .layers
            .iter()
            .map(|layer| HostLayer {
                attention_norm: norm(&layer.attention_norm),
                qkv: linear(&layer.attention.qkv),
                q_norm: layer.attention.q_norm.as_ref().map(norm),
                k_norm: layer.attention.k_norm.as_ref().map(norm),
                output: linear(&layer.attention.output),
                mlp_norm: norm(&layer.mlp_norm),
                gate_up: linear(&layer.mlp.gate_up),
                down: linear(&layer.mlp.down),
            })
            .collect();
        let dims = Dims::of(network);
        Self {
            dims,
            embed: weight(&network.embed),
            layers,
            norm: norm(&network.norm),
            head: network.head.as_ref().map(weight),
        }
    }

    /// The same shapes and ids, all zero: a place for gradients.
    pub fn zeros_like(&self) -> Self {
        let mut zeros = self.clone();
        zeros.for_each_mut(&mut |w| w.data.fill(0.0));
        zeros
    }

    /// Every tensor, always in the same order.
    pub fn for_each_mut(&mut self, f: &mut dyn FnMut(&mut Weight)) {
        f(&mut self.embed);
        for layer in &mut self.layers {
            f(&mut layer.attention_norm);
            layer.qkv.for_each_mut(f);
            layer.q_norm.iter_mut().for_each(&mut *f);
            layer.k_norm.iter_mut().for_each(&mut *f);
            layer.output.for_each_mut(f);
            f(&mut layer.mlp_norm);
            layer.gate_up.for_each_mut(f);
            layer.down.for_each_mut(f);
        }
        f(&mut self.norm);
        self.head.iter_mut().for_each(f);
    }

    /// Adds another set of gradients, element by element.
    pub fn add(&mut self, other: &mut Self) {
        let mut parts: Vec<Vec<f32>> = Vec::new();
        other.for_each_mut(&mut |w| parts.push(std::mem::take(&mut w.data)));
        let mut parts = parts.into_iter();
        self.for_each_mut(&mut |w| {
            for (sum, x) in w.data.iter_mut().zip(parts.next().unwrap_or_default()) {
                *sum += x;
            }
        });
    }
}

impl HostLinear {
    fn for_each_mut(&mut self, f: &mut dyn FnMut(&mut Weight)) {
        f(&mut self.weight);
        self.bias.iter_mut().for_each(f);
    }
}

fn weight<B: Backend, const D: usize>(param: &Param<Tensor<B, D>>) -> Weight {
    let tensor = param.val();
    let shape = tensor.dims().to_vec();
    Weight { id: param.id, shape, data: to_vec(tensor.into_data()) }
}

/// The elements as f32, whatever the backend keeps.
pub fn to_vec(data: TensorData) -> Vec<f32> {
    let data = data.convert::<f32>();
    data.as_slice::<f32>().map(<[f32]>::to_vec).unwrap_or_else(|_| data.iter::<f32>().collect())
}

fn norm<B: Backend>(norm: &RmsNorm<B>) -> Weight {
    weight(&norm.weight)
}

fn linear<B: Backend>(linear: &Linear<B>) -> HostLinear {
    HostLinear { weight: weight(&linear.weight), bias: linear.bias.as_ref().map(weight) }
}
