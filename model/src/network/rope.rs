//! Rotary position embedding, with the frequency scalings of the three families.
//!
//! A head's vector is halved, `(a, b)`; at position `p` the pair `i` is turned by the angle `p * f_i`:
//! `a' = a cos - b sin`, `b' = b cos + a sin`, with `f_i = theta^(-2i / head_dim)` before scaling.

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};

use crate::config::{ModelConfig, RopeScaling};

/// The frequencies of one network.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Radians per position, `head_dim / 2` of them.
    pub frequencies: Vec<f32>,
    /// Multiplies cos and sin; 1 except for YaRN.
    pub scale: f32,
    /// Positions the network is made for (`max_position_embeddings`): engine and learner refuse longer texts.
    pub positions: usize,
}

/// The cosines and sines of a batch of positions, shared by all layers.
#[derive(Clone, Debug)]
pub struct Rotation<B: Backend> {
    /// `[batch * seq, 1, head_dim / 2]`
    cos: Tensor<B, 3>,
    /// `[batch * seq, 1, head_dim / 2]`
    sin: Tensor<B, 3>,
}

impl Rope {
    pub fn new(config: &ModelConfig) -> Self {
        let (dim, theta) = (config.head_dim, f64::from(config.rope_theta));
        let base: Vec<f64> = (0..dim / 2).map(|i| theta.powf(-2.0 * i as f64 / dim as f64)).collect();
        let (frequencies, scale) = match &config.rope_scaling {
            None => (base, 1.0),
            // Plain within the window, and nothing beyond `positions` is computed.
            Some(RopeScaling::Dynamic { .. }) => (base, 1.0),
            Some(RopeScaling::Linear { factor }) => (base.iter().map(|f| f / f64::from(*factor)).collect(), 1.0),
            Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position }) => {
                let bands = Llama3Bands {
                    factor: f64::from(*factor),
                    low: f64::from(*low_freq_factor),
                    high: f64::from(*high_freq_factor),
                    original: *original_max_position as f64,
                };
                (base.iter().map(|f| bands.scale(*f)).collect(), 1.0)
            }
            Some(RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                attention_factor,
                original_max_position,
                truncate,
            }) => {
                let ramp = YarnRamp::new(dim, theta, *beta_fast, *beta_slow, *original_max_position, *truncate);
                let factor = f64::from(*factor);
                let mixed = base.iter().enumerate().map(|(i, f)| ramp.mix(i, *f, factor)).collect();
                (mixed, *attention_factor)
            }
        };
        let frequencies = frequencies.into_iter().map(|f| f as f32).collect();
        Self { frequencies, scale, positions: config.max_position_embeddings }
    }

    /// Angles of `positions` (`[batch, seq]`), row by row.
    pub fn rotation<B: Backend>(&self, positions: Tensor<B, 2, Int>) -> Rotation<B> {
        let [batch, seq] = positions.dims();
        let half = self.frequencies.len();
        let device = positions.device();
        let frequencies = Tensor::<B, 1>::from_data(TensorData::new(self.frequencies.clone(), [half]), &device);
        let angles = positions.float().reshape([batch * seq, 1]) * frequencies.reshape([1, half]);
        let angles = angles.reshape([batch * seq, 1, half]);
        let (mut cos, mut sin) = (angles.clone().cos(), angles.sin());
        if self.scale != 1.0 {
            cos = cos.mul_scalar(self.scale);
            sin = sin.mul_scalar(self.scale);
        }
        Rotation { cos, sin }
    }
}

impl<B: Backend> Rotation<B> {
    /// Turns every head: `[batch * seq, heads, head_dim]` to the same.
    pub fn apply(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let [_, _, dim] = x.dims();
        let half = dim / 2;
        let a = x.clone().narrow(2, 0, half);
        let b = x.narrow(2, half, half);
        let turned_a = a.clone() * self.cos.clone() - b.clone() * self.sin.clone();
        let turned_b = b * self.cos.clone() + a * self.sin.clone();
        Tensor::cat(vec![turned_a, turned_b], 2)
    }
}

/// Llama 3.1: with wavelength `w = 2 pi / f`, `f` stays for `w < L / high`, becomes `f / factor` for `w > L / low`, and between
/// is `(1 - s) f / factor + s f` with `s = (L / w - low) / (high - low)`.
struct Llama3Bands {
    factor: f64,
    low: f64,
    high: f64,
    original: f64,
}

impl Llama3Bands {
    fn scale(&self, f: f64) -> f64 {
        let wavelength = 2.0 * std::f64::consts::PI / f;
        if wavelength < self.original / self.high {
            f
        } else if wavelength > self.original / self.low {
            f / self.factor
        } else {
            let s = (self.original / wavelength - self.low) / (self.high - self.low);
            (1.0 - s) * f / self.factor + s * f
        }
    }
}

/// YaRN: dimension `i` is interpolated (`f / factor`) by the share `ramp(i)` and kept by the rest; the ramp rises from the
/// dimension that makes `beta_fast` turns over the pre-training length to the one that makes `beta_slow`.
struct YarnRamp {
    low: f64,
    high: f64,
}

impl YarnRamp {
    fn new(dim: usize, theta: f64, fast: f32, slow: f32, original: usize, truncate: bool) -> Self {
        let turns_at = |turns: f32| {
            let wavelength = original as f64 / (f64::from(turns) * 2.0 * std::f64::consts::PI);
            dim as f64 * wavelength.ln() / (2.0 * theta.ln())
        };
        let (mut low, mut high) = (turns_at(fast), turns_at(slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(dim as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        Self { low, high }
    }

    fn mix(&self, i: usize, f: f64, factor: f64) -> f64 {
        let ramp = ((i as f64 - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        ramp * f / factor + (1.0 - ramp) * f
    }
}
