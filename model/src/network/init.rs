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
        self.build(&mut Normal { rng: ChaCha8Rng::seed_from_u64(seed), spare: None }, device)
    }

    /// Uniform weights of the same deviations, a hundred times cheaper to make: for measurements, where only sizes matter.
    pub fn init_cheap<B: Backend>(&self, seed: u64, device: &B::Device) -> Transformer<B> {
        self.build(&mut Uniform(seed | 1), device)
    }

    fn build<B: Backend>(&self, source: &mut dyn Source, device: &B::Device) -> Transformer<B> {
        let (d, ff, hd) = (self.hidden_size, self.intermediate_size, self.head_dim);
        let residual = STD / (2.0 * self.num_layers.max(1) as f32).sqrt();
        let embed = Param::from_tensor(tensor(source, [self.vocab_size, d], STD, device));
        let layers = (0..self.num_layers)
            .map(|_| Layer {
                attention_norm: RmsNorm::ones(d, self.rms_norm_eps, device),
                attention: Attention {
                    qkv: linear(
                        source,
                        [d, (self.num_heads + 2 * self.num_kv_heads) * hd],
                        STD,
                        self.qkv_bias(),
                        device,
                    ),
                    output: linear(source, [self.num_heads * hd, d], residual, self.o_bias(), device),
                    q_norm: self.qk_norm().then(|| RmsNorm::ones(hd, self.rms_norm_eps, device)),
                    k_norm: self.qk_norm().then(|| RmsNorm::ones(hd, self.rms_norm_eps, device)),
                    heads: self.num_heads,
                    kv_heads: self.num_kv_heads,
                    head_dim: hd,
                },
                mlp_norm: RmsNorm::ones(d, self.rms_norm_eps, device),
                mlp: Mlp {
                    gate_up: linear(source, [d, 2 * ff], STD, self.mlp_bias, device),
                    down: linear(source, [ff, d], residual, self.mlp_bias, device),
                },
            })
            .collect();
        Transformer {
            embed,
            layers,
            norm: RmsNorm::ones(d, self.rms_norm_eps, device),
            head: (!self.tie_word_embeddings)
                .then(|| Param::from_tensor(tensor(source, [d, self.vocab_size], STD, device))),
            rope: Rope::new(self),
        }
    }
}

/// Numbers of mean 0 and deviation 1.
trait Source {
    fn fill(&mut self, count: usize, std: f32) -> Vec<f32>;
}

/// Normal numbers by Box and Muller.
struct Normal {
    rng: ChaCha8Rng,
    spare: Option<f32>,
}

impl Normal {
    fn next(&mut self) -> f32 {
        if let Some(value) = self.spare.take() {
            return value;
        }
        let radius = (-2.0 * (1.0 - self.rng.random::<f32>()).ln()).sqrt();
        let angle = std::f32::consts::TAU * self.rng.random::<f32>();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

impl Source for Normal {
    fn fill(&mut self, count: usize, std: f32) -> Vec<f32> {
        (0..count).map(|_| self.next() * std).collect()
    }
}

/// Uniform numbers by xorshift.
struct Uniform(u64);

impl Source for Uniform {
    fn fill(&mut self, count: usize, std: f32) -> Vec<f32> {
        // A uniform number of [-w, w] has the deviation w / sqrt(3).
        let unit = std * 3f32.sqrt() / (1u64 << 31) as f32;
        (0..count)
            .map(|_| {
                self.0 ^= self.0 << 13;
                self.0 ^= self.0 >> 7;
                self.0 ^= self.0 << 17;
                (self.0 >> 32) as u32 as i32 as f32 * unit
            })
            .collect()
    }
}

fn tensor<B: Backend>(source: &mut dyn Source, shape: [usize; 2], std: f32, device: &B::Device) -> Tensor<B, 2> {
    Tensor::from_data(TensorData::new(source.fill(shape[0] * shape[1], std), shape), device)
}

fn linear<B: Backend>(
    source: &mut dyn Source,
    shape: [usize; 2],
    std: f32,
    bias: bool,
    device: &B::Device,
) -> Linear<B> {
    let weight = Param::from_tensor(tensor(source, shape, std, device));
    let bias = bias.then(|| Param::from_tensor(Tensor::zeros([shape[1]], device)));
    Linear { weight, bias }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cheap_numbers_have_the_deviation_and_no_mean() {
        let found = Uniform(7 | 1).fill(100_000, 0.02);
        let n = found.len() as f32;
        let mean = found.iter().sum::<f32>() / n;
        let deviation = (found.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n).sqrt();
        assert!(mean.abs() < 3e-4 && (deviation / 0.02 - 1.0).abs() < 0.01, "{mean} {deviation}");
    }
}
