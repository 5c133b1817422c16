//! Grouped-query attention: `softmax(q k^T / sqrt(head_dim)) v`, queries and keys rotated, and normed first for Qwen3.
//!
//! Keys and values are never repeated: the `group` query heads of one key head lie along the query axis, so one matrix
//! product serves them all.

use burn::module::Module;
use burn::tensor::{Bool, Tensor, activation::softmax, backend::Backend};

use super::cache::Step;
use super::{KvCache, Linear, RmsNorm, Rotation};
use crate::kernels::Kernels;

#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    /// `[hidden, (heads + 2 * kv_heads) * head_dim]`: q, then k, then v. One product instead of three.
    pub qkv: Linear<B>,
    /// `[heads * head_dim, hidden]`
    pub output: Linear<B>,
    pub q_norm: Option<RmsNorm<B>>,
    pub k_norm: Option<RmsNorm<B>>,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl<B: Kernels> Attention<B> {
    /// # Shapes
    /// - x: `[batch * seq, hidden]`
    /// - mask: `[batch or 1, 1, seq, seq]`, true = may not attend
    /// - returns `[batch * seq, hidden]`
    pub fn forward(
        &self,
        x: Tensor<B, 2>,
        batch: usize,
        rotation: &Rotation<B>,
        mask: &Tensor<B, 4, Bool>,
    ) -> Tensor<B, 2> {
        let (q, k, v) = self.project(x, batch, rotation);
        self.attend(q, k, v, mask)
    }

    /// The same for new tokens of cached rows; see `Transformer::forward_cached`.
    pub(super) fn forward_cached(
        &self,
        x: Tensor<B, 2>,
        rotation: &Rotation<B>,
        cache: &mut KvCache<B>,
        layer: usize,
        step: &Step<B>,
    ) -> Tensor<B, 2> {
        let (q, k, v) = self.project(x, step.batch(), rotation);
        let (k, v) = cache.append(layer, step, k, v);
        self.attend(q, k, v, &step.mask)
    }

    /// `[batch * seq, hidden]` to q `[batch, kv_heads, group * seq, head_dim]`, k and v `[batch, kv_heads, seq, head_dim]`.
    fn project(
        &self,
        x: Tensor<B, 2>,
        batch: usize,
        rotation: &Rotation<B>,
    ) -> (Tensor<B, 4>, Tensor<B, 4>, Tensor<B, 4>) {
        let [rows, _] = x.dims();
        let (seq, dim) = (rows / batch, self.head_dim);
        let (heads, kv, group) = (self.heads, self.kv_heads, self.heads / self.kv_heads);
        let qkv = self.qkv.forward(x).reshape([rows, heads + 2 * kv, dim]);
        let mut q = qkv.clone().narrow(1, 0, heads);
        let mut k = qkv.clone().narrow(1, heads, kv);
        let v = qkv.narrow(1, heads + kv, kv);
        if let Some(norm) = &self.q_norm {
            q = norm.forward(q);
        }
        if let Some(norm) = &self.k_norm {
            k = norm.forward(k);
        }
        let q = rotation.apply(q).reshape([batch, seq, kv, group, dim]).permute([0, 2, 3, 1, 4]);
        let k = rotation.apply(k).reshape([batch, seq, kv, dim]).swap_dims(1, 2);
        let v = v.reshape([batch, seq, kv, dim]).swap_dims(1, 2);
        (q.reshape([batch, kv, group * seq, dim]), k, v)
    }

    /// q `[batch, kv_heads, group * t, head_dim]`, k and v `[batch, kv_heads, past, head_dim]`, mask `[batch or 1, 1, t, past]`;
    /// returns `[batch * t, hidden]`.
    fn attend(&self, q: Tensor<B, 4>, k: Tensor<B, 4>, v: Tensor<B, 4>, mask: &Tensor<B, 4, Bool>) -> Tensor<B, 2> {
        let [batch, kv, rows, dim] = q.dims();
        let [_, _, past, _] = k.dims();
        let group = self.heads / kv;
        let t = rows / group;
        let scores = q.matmul(k.swap_dims(2, 3)).mul_scalar(1.0 / (dim as f64).sqrt());
        let scores = scores.reshape([batch, self.heads, t, past]).mask_fill(mask.clone(), f32::MIN);
        let weights = softmax(scores, 3).reshape([batch, kv, rows, past]);
        let mixed = weights.matmul(v).reshape([batch, self.heads, t, dim]).swap_dims(1, 2);
        self.output.forward(mixed.reshape([batch * t, self.heads * dim]))
    }
}
