//! A fresh network from a seed: the same seed gives the same weights on every backend.

use burn::module::Param;
use burn::tensor::{Distribution, Tensor, TensorData, backend::Backend};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Attention, Layer, Linear, Mlp, RmsNorm, Rope, Transformer};
use crate::config::ModelConfig;
use crate::kernels::lasting;

/// Standard deviation of all weights but those that write to the residual stream (GPT-2).
const STD: f32 = 0.02;

impl ModelConfig {
    /// Normal weights of standard deviation 0.02; the two matrices of a layer that write to the residual stream get
    /// `0.02 / sqrt(2 * layers)`; norms 1, biases 0.
    pub fn init<B: Backend>(&self, seed: u64, device: &B::Device) -> Transformer<B> {
        let mut source = Normal { rng: ChaCha8Rng::seed_from_u64(seed), spare: None };
        self.build(&mut |shape, std| tensor(&mut source, shape, std, device), device)
    }

    /// Uniform weights of the same deviations, a hundred times cheaper to make: for measurements, where only sizes matter.
    pub fn init_cheap<B: Backend>(&self, seed: u64, device: &B::Device) -> Transformer<B> {
        let mut source = Uniform(seed | 1);
        self.build(&mut |shape, std| tensor(&mut source, shape, std, device), device)
    }

    /// As `init_cheap`, by the backend's own generator and where the network lies: nothing passes through the host. Other numbers on
    /// every backend.
    pub fn init_in_place<B: Backend>(&self, seed: u64, device: &B::Device) -> Transformer<B> {
        B::seed(device, seed);
        let make = |(shape, std): ([usize; 2], f32)| {
            let bound = f64::from(std) * 3f64.sqrt();
            Tensor::random(shape, Distribution::Uniform(-bound, bound), device)
        };
        self.build(&mut |shape, std| B::memory_persistent_allocations(device, (shape, std), make), device)
    }

    /// `matrix(shape, deviation)` makes each of the weights.
    fn build<B: Backend>(
        &self,
        matrix: &mut dyn FnMut([usize; 2], f32) -> Tensor<B, 2>,
        device: &B::Device,
    ) -> Transformer<B> {
        let (d, ff, hd) = (self.hidden_size, self.intermediate_size, self.head_dim);
        let residual = STD / (2.0 * self.num_layers.max(1) as f32).sqrt();
        let embed = Param::from_tensor(matrix([self.vocab_size, d], STD));
        let layers = (0..self.num_layers)
            .map(|_| Layer {
                attention_norm: RmsNorm::ones(d, self.rms_norm_eps, device),
                attention: Attention {
                    qkv: linear(
                        matrix,
                        [d, (self.num_heads + 2 * self.num_kv_heads) * hd],
                        STD,
                        self.qkv_bias(),
                        device,
                    ),
                    output: linear(matrix, [self.num_heads * hd, d], residual, self.o_bias(), device),
                    q_norm: self.qk_norm().then(|| RmsNorm::ones(hd, self.rms_norm_eps, device)),
                    k_norm: self.qk_norm().then(|| RmsNorm::ones(hd, self.rms_norm_eps, device)),
                    heads: self.num_heads,
                    kv_heads: self.num_kv_heads,
                    head_dim: hd,
                },
                mlp_norm: RmsNorm::ones(d, self.rms_norm_eps, device),
                mlp: Mlp {
                    gate_up: linear(matrix, [d, 2 * ff], STD, self.mlp_bias, device),
                    down: linear(matrix, [ff, d], residual, self.mlp_bias, device),
                },
            })
            .collect();
        Transformer {
            embed,
            layers,
            norm: RmsNorm::ones(d, self.rms_norm_eps, device),
            head: (!self.tie_word_embeddings).then(|| Param::from_tensor(matrix([d, self.vocab_size], STD))),
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
    lasting(TensorData::new(source.fill(shape[0] * shape[1], std), shape), device)
}

fn linear<B: Backend>(
    matrix: &mut dyn FnMut([usize; 2], f32) -> Tensor<B, 2>,
    shape: [usize; 2],
    std: f32,
    bias: bool,
    device: &B::Device,
) -> Linear<B> {
    let weight = Param::from_tensor(matrix(shape, std));
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

    #[test]
    fn numbers_made_in_place_have_the_deviation_of_their_matrix() {
        let shape = crate::config::TinyShape { hidden: 64, layers: 2, heads: 4, kv_heads: 2, ff: 96, vocab: 500 };
        let config = ModelConfig::tiny_default(shape, 64, vec![1]);
        let network = config.init_in_place::<crate::CpuInner>(3, &Default::default());
        let deviation = |t: Tensor<crate::CpuInner, 2>| {
            let values = crate::host::weights::to_vec(t.into_data());
            let (n, mean) = (values.len() as f32, values.iter().sum::<f32>() / values.len() as f32);
            assert!(mean.abs() < 2e-3, "{mean}");
            (values.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n).sqrt()
        };
        assert!((deviation(network.embed.val()) / 0.02 - 1.0).abs() < 0.02);
        // Writes to the residual stream: 0.02 / sqrt(2 * 2 layers).
        let down = deviation(network.layers[1].mlp.down.weight.val());
        assert!((down / 0.01 - 1.0).abs() < 0.03, "{down}");
    }
}
