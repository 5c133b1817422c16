//! RMSNorm: `x / sqrt(mean(x^2) + eps) * weight`, over the last axis.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, backend::Backend};

#[derive(Module, Debug)]
pub struct RmsNorm<B: Backend> {
    /// `[width]`
    pub weight: Param<Tensor<B, 1>>,
    pub eps: f64,
}

impl<B: Backend> RmsNorm<B> {
    pub fn ones(width: usize, eps: f64, device: &B::Device) -> Self {
        Self { weight: Param::from_tensor(Tensor::ones([width], device)), eps }
    }

    /// Any rank; the last axis has `width` elements.
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        let inv_rms = (x.clone() * x.clone()).mean_dim(D - 1).add_scalar(self.eps).sqrt().recip();
        x * inv_rms * self.weight.val().unsqueeze()
    }
}
