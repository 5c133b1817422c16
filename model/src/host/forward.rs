//! The decoder's forward pass over ragged rows, keeping what the backward pass needs.

use super::attention::{self, AttentionScratch, Segment};
use super::gemm::{Mat, matmul};
use super::kernels::{add_bias, angles, rms_norm, rotate, swiglu};
use super::weights::{Dims, HostLayer, HostLinear, HostWeights};

/// Rows of tokens: one row a token, sequences one after the other.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    pub tokens: Vec<u32>,
    /// Position of each row in its sequence.
    pub positions: Vec<u32>,
    pub segments: Vec<Segment>,
}

impl Rows {
    /// Appends a sequence (after `prefix`, rows that are already here) and returns its first row.
    pub fn push(&mut self, tokens: &[u32], prefix: std::ops::Range<usize>) -> usize {
        let start = self.tokens.len();
        let from =
            prefix.end.checked_sub(1).map_or(0, |last| if prefix.is_empty() { 0 } else { self.positions[last] + 1 });
        self.tokens.extend_from_slice(tokens);
        self.positions.extend((0..tokens.len() as u32).map(|i| from + i));
        self.segments.push(Segment { start, len: tokens.len(), prefix });
        start
    }

    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

/// What one layer computed, `[rows, ..]` each.
#[derive(Clone, Debug, Default)]
pub struct LayerTape {
    /// Residual stream on entry, `hidden`.
    pub x: Vec<f32>,
    pub inv_1: Vec<f32>,
    pub normed_1: Vec<f32>,
    /// Queries and keys before their norm; empty without one.
    pub qk_raw: Vec<f32>,
    /// `heads + kv_heads`
    pub inv_qk: Vec<f32>,
    /// Fused, normed and rotated, `qkv`.
    pub qkv: Vec<f32>,
    pub lse: Vec<f32>,
    /// Attention's output before its projection, `heads * head_dim`.
    pub mixed: Vec<f32>,
    /// Residual stream between attention and MLP, `hidden`.
    pub x_mid: Vec<f32>,
    pub inv_2: Vec<f32>,
    pub normed_2: Vec<f32>,
    /// `2 * ff`
    pub gate_up: Vec<f32>,
    /// `ff`
    pub act: Vec<f32>,
}

/// Buffers of one forward and backward pass; reused from batch to batch.
#[derive(Clone, Debug, Default)]
pub struct Tape {
    pub layers: Vec<LayerTape>,
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
    /// Residual stream after the last layer.
    pub x: Vec<f32>,
    pub inv: Vec<f32>,
    /// After the final norm, `[rows, hidden]`.
    pub hidden: Vec<f32>,
    pub scratch: AttentionScratch,
}

/// Runs the network over `rows`; the hidden states are left in `tape.hidden`.
///
/// With `keep`, every layer gets its own tape (needed by `backward`); without, one is reused and `each_layer(index, tape)` is
/// the only chance to see it (generation reads the keys and values there).
pub fn forward(
    w: &HostWeights,
    rows: &Rows,
    tape: &mut Tape,
    keep: bool,
    each_layer: &mut dyn FnMut(usize, &LayerTape),
) {
    let (dims, n) = (&w.dims, rows.len());
    let d = dims.hidden;
    angles(&rows.positions, &dims.frequencies, dims.rope_scale, &mut tape.cos, &mut tape.sin);
    let needed = if keep { w.layers.len() } else { 1 };
    tape.layers.resize_with(needed.max(tape.layers.len()), LayerTape::default);
    tape.x.clear();
    for token in &rows.tokens {
        tape.x.extend_from_slice(&w.embed.data[*token as usize * d..][..d]);
    }
    for (index, layer) in w.layers.iter().enumerate() {
        let t = &mut tape.layers[if keep { index } else { 0 }];
        std::mem::swap(&mut t.x, &mut tape.x);
        resize(&mut tape.x, n * d);
        attention_block(dims, layer, rows, t, &tape.cos, &tape.sin, &mut tape.scratch);
        mlp_block(dims, layer, t, &mut tape.x);
        each_layer(index, t);
    }
    resize(&mut tape.inv, n);
    resize(&mut tape.hidden, n * d);
    rms_norm(&mut tape.hidden, &mut tape.inv, &tape.x, &w.norm.data, dims.eps);
}

/// `x_mid = x + output(attention(norm(x)))`
fn attention_block(
    dims: &Dims,
    layer: &HostLayer,
    rows: &Rows,
    t: &mut LayerTape,
    cos: &[f32],
    sin: &[f32],
    scratch: &mut AttentionScratch,
) {
    let n = rows.len();
    resize(&mut t.inv_1, n);
    resize(&mut t.normed_1, n * dims.hidden);
    rms_norm(&mut t.normed_1, &mut t.inv_1, &t.x, &layer.attention_norm.data, dims.eps);
    resize(&mut t.qkv, n * dims.qkv());
    linear(&mut t.qkv, &layer.qkv, &t.normed_1, n, false);
    norm_queries_and_keys(dims, layer, n, t);
    rotate(&mut t.qkv, dims.qkv(), dims.heads + dims.kv_heads, dims.head_dim, cos, sin, 1.0);
    resize(&mut t.lse, n * dims.heads);
    resize(&mut t.mixed, n * dims.q());
    attention::forward(dims, &rows.segments, &t.qkv, &mut t.mixed, &mut t.lse, scratch);
    t.x_mid.clear();
    t.x_mid.extend_from_slice(&t.x);
    linear(&mut t.x_mid, &layer.output, &t.mixed, n, true);
}

/// `out = x_mid + down(swiglu(gate_up(norm(x_mid))))`
fn mlp_block(dims: &Dims, layer: &HostLayer, t: &mut LayerTape, out: &mut [f32]) {
    let n = out.len() / dims.hidden;
    resize(&mut t.inv_2, n);
    resize(&mut t.normed_2, n * dims.hidden);
    rms_norm(&mut t.normed_2, &mut t.inv_2, &t.x_mid, &layer.mlp_norm.data, dims.eps);
    resize(&mut t.gate_up, n * 2 * dims.ff);
    linear(&mut t.gate_up, &layer.gate_up, &t.normed_2, n, false);
    resize(&mut t.act, n * dims.ff);
    swiglu(&mut t.act, &t.gate_up, dims.ff);
    out.copy_from_slice(&t.x_mid);
    linear(out, &layer.down, &t.act, n, true);
}

/// Qwen3: RMSNorm of each head of q and k, in place in `qkv`; the raw values stay in `qk_raw`.
fn norm_queries_and_keys(dims: &Dims, layer: &HostLayer, n: usize, t: &mut LayerTape) {
    let (Some(q_norm), Some(k_norm)) = (&layer.q_norm, &layer.k_norm) else { return };
    let (width, q, heads) = (dims.q() + dims.kv(), dims.q(), dims.heads);
    let per_row = heads + dims.kv_heads;
    resize(&mut t.qk_raw, n * width);
    resize(&mut t.inv_qk, n * per_row);
    for r in 0..n {
        let raw = &mut t.qk_raw[r * width..][..width];
        let row = &mut t.qkv[r * dims.qkv()..][..width];
        raw.copy_from_slice(row);
        let inv = &mut t.inv_qk[r * per_row..][..per_row];
        rms_norm(&mut row[..q], &mut inv[..heads], &raw[..q], &q_norm.data, dims.eps);
        rms_norm(&mut row[q..], &mut inv[heads..], &raw[q..], &k_norm.data, dims.eps);
    }
}

/// `out = x W + b`, or `out += x W + b` with `add`, for `n` rows.
pub(super) fn linear(out: &mut [f32], linear: &HostLinear, x: &[f32], n: usize, add: bool) {
    let (inner, outer) = (linear.weight.shape[0], linear.weight.shape[1]);
    matmul(out, outer, Mat::new(x, n, inner), Mat::new(&linear.weight.data, inner, outer), add);
    if let Some(bias) = &linear.bias {
        add_bias(out, &bias.data);
    }
}

/// Logits of `n` rows of hidden states into `out` (`[n, vocab]`).
pub fn logits(w: &HostWeights, hidden: &[f32], n: usize, out: &mut [f32]) {
    let (d, v) = (w.dims.hidden, w.dims.vocab);
    let head = match &w.head {
        Some(head) => Mat::new(&head.data, d, v),
        None => Mat::new(&w.embed.data, v, d).t(),
    };
    matmul(out, v, Mat::new(hidden, n, d), head, false);
}

/// Exactly `len` elements; old contents stay where they fit, all are overwritten by the callers.
pub(super) fn resize(buffer: &mut Vec<f32>, len: usize) {
    buffer.resize(len, 0.0);
}
