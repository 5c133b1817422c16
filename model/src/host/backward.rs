//! The decoder's backward pass: gradients of all parameters from the gradient of the hidden states.

use super::attention;
use super::forward::{LayerTape, Rows, Tape, resize};
use super::gemm::{Mat, matmul};
use super::kernels::{add_assign, rms_norm_backward, rotate, sum_rows, swiglu_backward};
use super::weights::{Dims, HostLayer, HostLinear, HostWeights};

/// Buffers of the backward pass; reused from batch to batch.
#[derive(Clone, Debug, Default)]
pub struct BackwardScratch {
    /// Gradient of the residual stream.
    dx: Vec<f32>,
    d_normed: Vec<f32>,
    d_act: Vec<f32>,
    d_mixed: Vec<f32>,
    d_qkv: Vec<f32>,
    d_qk_raw: Vec<f32>,
}

/// Adds the gradients of one batch to `grads`.
///
/// `tape` must come from `forward` with `keep` on the same rows; it is consumed in the sense that some of its buffers are
/// overwritten. `d_hidden`: `[rows, hidden]`.
pub fn backward(
    w: &HostWeights,
    rows: &Rows,
    tape: &mut Tape,
    d_hidden: &[f32],
    grads: &mut HostWeights,
    scratch: &mut BackwardScratch,
) {
    let (dims, n) = (&w.dims, rows.len());
    let d = dims.hidden;
    scratch.dx.clear();
    scratch.dx.resize(n * d, 0.0);
    rms_norm_backward(&mut scratch.dx, &mut grads.norm.data, d_hidden, &tape.x, &tape.inv, &w.norm.data);
    for (index, layer) in w.layers.iter().enumerate().rev() {
        let t = &mut tape.layers[index];
        let g = &mut grads.layers[index];
        mlp_backward(dims, layer, g, t, n, scratch);
        attention_backward(dims, layer, g, rows, t, &tape.cos, &tape.sin, scratch, &mut tape.scratch);
    }
    for (row, token) in rows.tokens.iter().enumerate() {
        add_assign(&mut grads.embed.data[*token as usize * d..][..d], &scratch.dx[row * d..][..d]);
    }
}

fn mlp_backward(
    dims: &Dims,
    layer: &HostLayer,
    g: &mut HostLayer,
    t: &mut LayerTape,
    n: usize,
    s: &mut BackwardScratch,
) {
    resize(&mut s.d_act, n * dims.ff);
    linear_backward(&mut s.d_act, &layer.down, &mut g.down, &t.act, &s.dx, n);
    swiglu_backward(&mut t.gate_up, &s.d_act, dims.ff);
    resize(&mut s.d_normed, n * dims.hidden);
    linear_backward(&mut s.d_normed, &layer.gate_up, &mut g.gate_up, &t.normed_2, &t.gate_up, n);
    rms_norm_backward(&mut s.dx, &mut g.mlp_norm.data, &s.d_normed, &t.x_mid, &t.inv_2, &layer.mlp_norm.data);
}

#[allow(clippy::too_many_arguments)]
fn attention_backward(
    dims: &Dims,
    layer: &HostLayer,
    g: &mut HostLayer,
    rows: &Rows,
    t: &mut LayerTape,
    cos: &[f32],
    sin: &[f32],
    s: &mut BackwardScratch,
    attention_scratch: &mut attention::AttentionScratch,
) {
    let n = rows.len();
    resize(&mut s.d_mixed, n * dims.q());
    linear_backward(&mut s.d_mixed, &layer.output, &mut g.output, &t.mixed, &s.dx, n);
    s.d_qkv.clear();
    s.d_qkv.resize(n * dims.qkv(), 0.0);
    attention::backward(dims, &rows.segments, &t.qkv, &t.mixed, &t.lse, &s.d_mixed, &mut s.d_qkv, attention_scratch);
    rotate(&mut s.d_qkv, dims.qkv(), dims.heads + dims.kv_heads, dims.head_dim, cos, sin, -1.0);
    norm_queries_and_keys_backward(dims, layer, g, t, n, s);
    resize(&mut s.d_normed, n * dims.hidden);
    linear_backward(&mut s.d_normed, &layer.qkv, &mut g.qkv, &t.normed_1, &s.d_qkv, n);
    rms_norm_backward(&mut s.dx, &mut g.attention_norm.data, &s.d_normed, &t.x, &t.inv_1, &layer.attention_norm.data);
}

fn norm_queries_and_keys_backward(
    dims: &Dims,
    layer: &HostLayer,
    g: &mut HostLayer,
    t: &LayerTape,
    n: usize,
    s: &mut BackwardScratch,
) {
    let (Some(q_norm), Some(k_norm)) = (&layer.q_norm, &layer.k_norm) else { return };
    let (Some(gq), Some(gk)) = (&mut g.q_norm, &mut g.k_norm) else { return };
    let (width, q, heads) = (dims.q() + dims.kv(), dims.q(), dims.heads);
    let per_row = heads + dims.kv_heads;
    for r in 0..n {
        let raw = &t.qk_raw[r * width..][..width];
        let inv = &t.inv_qk[r * per_row..][..per_row];
        let dy = &mut s.d_qkv[r * dims.qkv()..][..width];
        s.d_qk_raw.clear();
        s.d_qk_raw.resize(width, 0.0);
        let dx = &mut s.d_qk_raw;
        rms_norm_backward(&mut dx[..q], &mut gq.data, &dy[..q], &raw[..q], &inv[..heads], &q_norm.data);
        rms_norm_backward(&mut dx[q..], &mut gk.data, &dy[q..], &raw[q..], &inv[heads..], &k_norm.data);
        dy.copy_from_slice(dx);
    }
}

/// `dW += x^T dy`, `db += sum dy`, and `dx = dy W^T`.
fn linear_backward(dx: &mut [f32], w: &HostLinear, g: &mut HostLinear, x: &[f32], dy: &[f32], n: usize) {
    let (inner, outer) = (w.weight.shape[0], w.weight.shape[1]);
    let dy_rows = Mat::new(dy, n, outer);
    matmul(&mut g.weight.data, outer, Mat::new(x, n, inner).t(), dy_rows, true);
    if let Some(bias) = &mut g.bias {
        sum_rows(&mut bias.data, dy);
    }
    matmul(dx, inner, dy_rows, Mat::new(&w.weight.data, inner, outer).t(), false);
}

/// Gradients of the head for `n` rows: `d_hidden = d_logits W^T`, `dW += hidden^T d_logits`.
pub fn head_backward(
    w: &HostWeights,
    hidden: &[f32],
    d_logits: &[f32],
    n: usize,
    d_hidden: &mut [f32],
    grads: &mut HostWeights,
) {
    let (d, v) = (w.dims.hidden, w.dims.vocab);
    let (h, dl) = (Mat::new(hidden, n, d), Mat::new(d_logits, n, v));
    match (&w.head, &mut grads.head) {
        (Some(head), Some(g)) => {
            matmul(d_hidden, d, dl, Mat::new(&head.data, d, v).t(), false);
            matmul(&mut g.data, v, h.t(), dl, true);
        }
        _ => {
            matmul(d_hidden, d, dl, Mat::new(&w.embed.data, v, d), false);
            matmul(&mut grads.embed.data, d, dl.t(), h, true);
        }
    }
}
