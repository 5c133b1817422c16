//! One more token for each of many sequences, from their caches of keys and values.

use std::sync::Arc;

use super::attention::sized;
use super::decode_attention::attend;
use super::forward::{LayerTape, linear, resize};
use super::gemm::{Mat, matmul};
use super::kernels::{angles, rms_norm, rotate, swiglu};
use super::weights::{Dims, HostLayer, HostWeights};

/// Positions are stored in whole chunks of this many (two of the widest vectors), so that the kernels need no remainder loop.
pub const CHUNK: usize = 32;

/// Keys and values of one layer for up to `capacity` positions.
#[derive(Clone, Debug, Default)]
pub struct KvBlock {
    pub capacity: usize,
    /// `[kv_heads, head_dim, capacity]`
    pub k: Vec<f32>,
    /// `[kv_heads, capacity, head_dim]`
    pub v: Vec<f32>,
}

/// The cache of a prompt, read by every sequence that continues it.
#[derive(Clone, Debug)]
pub struct PrefixKv {
    pub len: usize,
    pub layers: Vec<KvBlock>,
}

/// The cache of one sequence: the shared prompt, then its own positions.
#[derive(Clone, Debug)]
pub struct SequenceKv {
    pub prefix: Arc<PrefixKv>,
    pub own: Vec<KvBlock>,
    pub len: usize,
}

impl KvBlock {
    /// Room for `positions`, old contents (the first `len`) kept.
    fn reserve(&mut self, dims: &Dims, len: usize, positions: usize) {
        if positions <= self.capacity {
            return;
        }
        let capacity = positions.max(2 * self.capacity).next_multiple_of(CHUNK);
        let (kv, hd) = (dims.kv_heads, dims.head_dim);
        let mut k = vec![0.0; kv * hd * capacity];
        let mut v = vec![0.0; kv * hd * capacity];
        for row in 0..kv * hd {
            k[row * capacity..][..len].copy_from_slice(&self.k[row * self.capacity..][..len]);
        }
        for head in 0..kv {
            v[head * hd * capacity..][..len * hd].copy_from_slice(&self.v[head * hd * self.capacity..][..len * hd]);
        }
        *self = Self { capacity, k, v };
    }

    /// Writes position `at` from a fused row (`qkv` wide).
    fn write(&mut self, dims: &Dims, at: usize, row: &[f32]) {
        let hd = dims.head_dim;
        for head in 0..dims.kv_heads {
            let k = &row[dims.q() + head * hd..][..hd];
            for (i, x) in k.iter().enumerate() {
                self.k[(head * hd + i) * self.capacity + at] = *x;
            }
            let v = &row[dims.q() + dims.kv() + head * hd..][..hd];
            self.v[(head * self.capacity + at) * hd..][..hd].copy_from_slice(v);
        }
    }
}

impl PrefixKv {
    pub fn new(dims: &Dims, layers: usize, len: usize) -> Self {
        let mut block = KvBlock::default();
        block.reserve(dims, 0, len);
        Self { len, layers: vec![block; layers] }
    }

    /// Takes one layer's keys and values of the rows `start .. start + len` of a forward pass.
    pub fn fill(&mut self, dims: &Dims, layer: usize, tape: &LayerTape, start: usize) {
        for at in 0..self.len {
            let row = &tape.qkv[(start + at) * dims.qkv()..][..dims.qkv()];
            self.layers[layer].write(dims, at, row);
        }
    }
}

impl SequenceKv {
    pub fn new(prefix: Arc<PrefixKv>) -> Self {
        let own = vec![KvBlock::default(); prefix.layers.len()];
        Self { prefix, own, len: 0 }
    }
}

/// The weights, with a head whose rows lie the way the products want them.
#[derive(Debug)]
pub struct DecodeWeights {
    pub weights: HostWeights,
    /// `[hidden, vocab]`
    head: Vec<f32>,
}

impl DecodeWeights {
    pub fn new(weights: HostWeights) -> Self {
        let (d, v) = (weights.dims.hidden, weights.dims.vocab);
        let head = match &weights.head {
            Some(head) => head.data.clone(),
            None => {
                let mut head = vec![0.0; d * v];
                for (token, row) in weights.embed.data.chunks_exact(d).enumerate() {
                    for (i, x) in row.iter().enumerate() {
                        head[i * v + token] = *x;
                    }
                }
                head
            }
        };
        Self { weights, head }
    }

    /// Logits of `n` rows (at least 2, see `matmul`) into `out`.
    pub fn logits(&self, hidden: &[f32], n: usize, out: &mut [f32]) {
        let (d, v) = (self.weights.dims.hidden, self.weights.dims.vocab);
        matmul(out, v, Mat::new(hidden, n, d), Mat::new(&self.head, d, v), false);
    }
}

/// One sequence's part in a step: its newest token goes in, its cache grows by one.
#[derive(Debug)]
pub struct DecodeRow<'a> {
    pub token: u32,
    pub kv: &'a mut SequenceKv,
}

/// Buffers reused from step to step.
#[derive(Clone, Debug, Default)]
pub struct DecodeScratch {
    x: Vec<f32>,
    normed: Vec<f32>,
    inv: Vec<f32>,
    qkv: Vec<f32>,
    raw: Vec<f32>,
    mixed: Vec<f32>,
    gate_up: Vec<f32>,
    act: Vec<f32>,
    scores: Vec<f32>,
    positions: Vec<u32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
    logits: Vec<f32>,
}

/// Runs one token of every row; returns the logits, `[rows, vocab]`.
pub fn decode<'s>(w: &DecodeWeights, rows: &mut [DecodeRow], s: &'s mut DecodeScratch) -> &'s [f32] {
    let (weights, dims) = (&w.weights, &w.weights.dims);
    // Two rows at least: see `matmul`. A row that stands for nothing is zero.
    let n = rows.len().max(2);
    let d = dims.hidden;
    s.positions.clear();
    s.positions.extend(rows.iter().map(|r| (r.kv.prefix.len + r.kv.len) as u32));
    s.positions.resize(n, 0);
    angles(&s.positions, &dims.frequencies, dims.rope_scale, &mut s.cos, &mut s.sin);
    s.x.clear();
    for row in rows.iter() {
        s.x.extend_from_slice(&weights.embed.data[row.token as usize * d..][..d]);
    }
    s.x.resize(n * d, 0.0);
    resize(&mut s.normed, n * d);
    resize(&mut s.inv, n);
    for (index, layer) in weights.layers.iter().enumerate() {
        rms_norm(&mut s.normed, &mut s.inv, &s.x, &layer.attention_norm.data, dims.eps);
        attention(dims, layer, index, rows, n, s);
        linear(&mut s.x, &layer.output, &s.mixed, n, true);
        rms_norm(&mut s.normed, &mut s.inv, &s.x, &layer.mlp_norm.data, dims.eps);
        resize(&mut s.gate_up, n * 2 * dims.ff);
        linear(&mut s.gate_up, &layer.gate_up, &s.normed, n, false);
        resize(&mut s.act, n * dims.ff);
        swiglu(&mut s.act, &s.gate_up, dims.ff);
        linear(&mut s.x, &layer.down, &s.act, n, true);
    }
    for row in rows.iter_mut() {
        row.kv.len += 1;
    }
    rms_norm(&mut s.normed, &mut s.inv, &s.x, &weights.norm.data, dims.eps);
    resize(&mut s.logits, n * dims.vocab);
    w.logits(&s.normed, n, &mut s.logits);
    &s.logits[..rows.len() * dims.vocab]
}

/// From `s.normed` to `s.mixed`; the caches get the new position.
fn attention(dims: &Dims, layer: &HostLayer, index: usize, rows: &mut [DecodeRow], n: usize, s: &mut DecodeScratch) {
    let width = dims.qkv();
    resize(&mut s.qkv, n * width);
    linear(&mut s.qkv, &layer.qkv, &s.normed, n, false);
    if let (Some(q_norm), Some(k_norm)) = (&layer.q_norm, &layer.k_norm) {
        let (q, qk) = (dims.q(), dims.q() + dims.kv());
        let inv = sized(&mut s.inv, dims.heads + dims.kv_heads);
        for row in s.qkv.chunks_exact_mut(width) {
            s.raw.clear();
            s.raw.extend_from_slice(&row[..qk]);
            rms_norm(&mut row[..q], &mut inv[..dims.heads], &s.raw[..q], &q_norm.data, dims.eps);
            rms_norm(&mut row[q..qk], &mut inv[dims.heads..], &s.raw[q..], &k_norm.data, dims.eps);
        }
    }
    rotate(&mut s.qkv, width, dims.heads + dims.kv_heads, dims.head_dim, &s.cos, &s.sin, 1.0);
    s.mixed.clear();
    s.mixed.resize(n * dims.q(), 0.0);
    for (r, row) in rows.iter_mut().enumerate() {
        let fused = &s.qkv[r * width..][..width];
        let kv = &mut *row.kv;
        let own = &mut kv.own[index];
        own.reserve(dims, kv.len, kv.len + 1);
        own.write(dims, kv.len, fused);
        let prefix = (&kv.prefix.layers[index], kv.prefix.len);
        let scores = sized(&mut s.scores, dims.heads * (kv.prefix.len + kv.len + 1 + 2 * CHUNK));
        attend(dims, &fused[..dims.q()], prefix, (own, kv.len + 1), scores, &mut s.mixed[r * dims.q()..][..dims.q()]);
    }
}
