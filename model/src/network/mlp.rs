//! The SwiGLU block: `down(silu(gate(x)) * up(x))`.

use burn::module::Module;
use burn::tensor::{Tensor, activation::silu, backend::Backend};

use super::Linear;
use crate::kernels::Kernels;

#[derive(Module, Debug)]
pub struct Mlp<B: Backend> {
    /// `[hidden, 2 * ff]`: gate, then up. One product instead of two.
    pub gate_up: Linear<B>,
    /// `[ff, hidden]`
    pub down: Linear<B>,
}

impl<B: Kernels> Mlp<B> {
    /// `[rows, hidden]` to `[rows, hidden]`.
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let gate_up = self.gate_up.forward(x);
        let [_, width] = gate_up.dims();
        let ff = width / 2;
        let gate = gate_up.clone().narrow(1, 0, ff);
        let up = gate_up.narrow(1, ff, ff);
        self.down.forward(silu(gate) * up)
    }
}
