//! A fresh network from a seed: the same seed gives the same weights on every backend.

use burn::module::Param;
use burn::tensor::{Tensor, TensorData, backend::Backend};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Attention, Layer, Linear, Mlp, RmsNorm, Rope, Transformer};
use crate::config::ModelConfig;

/// Standard deviation of all weights but those that write to the residual stream (GPT-2).
const STD: f32 = 0.02;

impl ModelConfig {
    /// Normal weights of standard deviation 0.02; the two matrices of a layer that write to the residual stream get
    /// `0.02 / sqrt(2 * layers)`; norms 1, biases 0.
    pub fn init<B: Backend>(&self, seed: u64, device: &B::Device) -> Transformer<B> {
        self.init_from(Normal::new(seed), device)
    }

    /// The same distribution from a million numbers over and over: for measurements, where drawing half a billion takes longer
    /// than all the rest.
    pub fn init_repeating<B: Backend>(&self, seed: u64, device: &B::Device) -> Transformer<B> {
        // A prime, so that no two rows of a matrix are equal.
        const COUNT: usize = 1_048_573;
        let mut source = Normal::new(seed);
        source.pool = (0..COUNT).map(|_| source.next()).collect();
        self.init_from(source, device)
    }

    fn init_from<B: Backend>(&self, mut source: Normal, device: &B::Device) -> Transformer<B> {
        let (d, ff, hd) = (self.hidden_size, self.intermediate_size, self.head_dim);
        let residual = STD / (2.0 * self.num_layers.max(1) as f32).sqrt();
        let embed = Param::from_tensor(source.tensor([self.vocab_size, d], STD, device));
        let layers = (0..self.num_layers)
            .map(|_| Layer {
                attention_norm: RmsNorm::ones(d, self.rms_norm_eps, device),
                attention: Attention {
                    qkv: source.linear(
                        [d, (self.num_heads + 2 * self.num_kv_heads) * hd],
                        STD,
                        self.qkv_bias(),
                        device,
                    ),
                    output: source.linear([self.num_heads * hd, d], residual, self.o_bias(), device),
                    q_norm: self.qk_norm().then(|| RmsNorm::ones(hd, self.rms_norm_eps, device)),
                    k_norm: self.qk_norm().then(|| RmsNorm::ones(hd, self.rms_norm_eps, device)),
                    heads: self.num_heads,
                    kv_heads: self.num_kv_heads,
                    head_dim: hd,
                },
                mlp_norm: RmsNorm::ones(d, self.rms_norm_eps, device),
                mlp: Mlp {
                    gate_up: source.linear([d, 2 * ff], STD, self.mlp_bias, device),
                    down: source.linear([ff, d], residual, self.mlp_bias, device),
                },
            })
            .collect();
        Transformer {
            embed,
            layers,
            norm: RmsNorm::ones(d, self.rms_norm_eps, device),
            head: (!self.tie_word_embeddings)
                .then(|| Param::from_tensor(source.tensor([d, self.vocab_size], STD, device))),
            rope: Rope::new(self),
        }
    }
}

/// Normal numbers by Box and Muller.
struct Normal {
    rng: ChaCha8Rng,
    spare: Option<f32>,
    /// Where not empty, these in turn instead of new ones.
    pool: Vec<f32>,
    at: usize,
}

impl Normal {
    fn new(seed: u64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed), spare: None, pool: Vec::new(), at: 0 }
    }

    fn next(&mut self) -> f32 {
        if let Some(value) = self.pool.get(self.at) {
            self.at = (self.at + 1) % self.pool.len();
            return *value;
        }
        if let Some(value) = self.spare.take() {
            return value;
        }
        let radius = (-2.0 * (1.0 - self.rng.random::<f32>()).ln()).sqrt();
        let angle = std::f32::consts::TAU * self.rng.random::<f32>();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }

    fn tensor<B: Backend>(&mut self, shape: [usize; 2], std: f32, device: &B::Device) -> Tensor<B, 2> {
        let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| self.next() * std).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    fn linear<B: Backend>(&mut self, shape: [usize; 2], std: f32, bias: bool, device: &B::Device) -> Linear<B> {
        let weight = Param::from_tensor(self.tensor(shape, std, device));
        let bias = bias.then(|| Param::from_tensor(Tensor::zeros([shape[1]], device)));
        Linear { weight, bias }
    }
}
