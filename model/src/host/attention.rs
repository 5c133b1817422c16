//! Causal grouped-query attention over ragged rows, forward and backward, without padding.
//!
//! A segment is one sequence. It may continue another segment's rows (its prefix): all answers to one prompt share the
//! prompt's rows, which are computed once. A row sees the whole prefix and its own segment up to itself.

use super::gemm::{Mat, matmul};
use super::kernels::{causal_softmax, causal_softmax_again, row_dots, softmax_backward};
use super::weights::Dims;

/// Rows `start .. start + len`, after `prefix` (a range of earlier rows, may be empty).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub start: usize,
    pub len: usize,
    pub prefix: std::ops::Range<usize>,
}

/// Query rows per score block: small enough for a block to stay in the second-level cache.
const BLOCK: usize = 64;

/// Buffers reused from call to call.
#[derive(Clone, Debug, Default)]
pub struct AttentionScratch {
    p: Vec<f32>,
    dp: Vec<f32>,
    delta: Vec<f32>,
}

/// One block of query rows of one head of one segment, as offsets into the fused `[rows, qkv]` buffer.
struct Tile {
    /// First query row and how many.
    row: usize,
    rows: usize,
    /// Own keys seen by the block's last row.
    own: usize,
    start: usize,
    prefix: std::ops::Range<usize>,
    head: usize,
    q: usize,
    k: usize,
    v: usize,
}

fn tiles<'a>(dims: &'a Dims, segments: &'a [Segment]) -> impl Iterator<Item = Tile> + 'a {
    let group = dims.heads / dims.kv_heads;
    segments.iter().flat_map(move |segment| {
        (0..dims.heads).flat_map(move |head| {
            (0..segment.len).step_by(BLOCK).map(move |first| {
                let rows = BLOCK.min(segment.len - first);
                Tile {
                    row: segment.start + first,
                    rows,
                    own: first + rows,
                    start: segment.start,
                    prefix: segment.prefix.clone(),
                    head,
                    q: head * dims.head_dim,
                    k: dims.q() + head / group * dims.head_dim,
                    v: dims.q() + dims.kv() + head / group * dims.head_dim,
                }
            })
        })
    })
}

impl Tile {
    fn width(&self) -> usize {
        self.prefix.len() + self.own
    }

    /// Columns the first row of the block sees.
    fn first(&self) -> usize {
        self.width() - self.rows + 1
    }

    /// The two runs of key rows: (first row, count, column in the score block).
    fn runs(&self) -> [(usize, usize, usize); 2] {
        [(self.prefix.start, self.prefix.len(), 0), (self.start, self.own, self.prefix.len())]
    }
}

/// # Shapes
/// - qkv: `[rows, qkv]`, queries and keys already normed and rotated
/// - out: `[rows, heads * head_dim]`
/// - lse: `[rows, heads]`, log-sum-exp of the scaled scores, kept for the backward pass
pub fn forward(
    dims: &Dims,
    segments: &[Segment],
    qkv: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
    scratch: &mut AttentionScratch,
) {
    let (stride, out_stride, hd) = (dims.qkv(), dims.q(), dims.head_dim);
    let scale = 1.0 / (hd as f32).sqrt();
    for tile in tiles(dims, segments) {
        let width = tile.width();
        let p = sized(&mut scratch.p, tile.rows * width);
        scores(dims, &tile, qkv, p);
        causal_softmax(p, width, tile.first(), scale, &mut lse[tile.row * dims.heads + tile.head..], dims.heads);
        let out = &mut out[tile.row * out_stride + tile.q..];
        for (index, (row, count, column)) in tile.runs().into_iter().enumerate().filter(|(_, r)| r.1 > 0) {
            let add = index == 1 && !tile.prefix.is_empty();
            let v = Mat::strided(&qkv[row * stride + tile.v..], count, hd, stride);
            matmul(out, out_stride, Mat::strided(&p[column..], tile.rows, count, width), v, add);
        }
    }
}

/// Raw scores `q k^T` of a tile, `[rows, width]`.
fn scores(dims: &Dims, tile: &Tile, qkv: &[f32], p: &mut [f32]) {
    let (stride, hd, width) = (dims.qkv(), dims.head_dim, tile.width());
    let q = Mat::strided(&qkv[tile.row * stride + tile.q..], tile.rows, hd, stride);
    for (row, count, column) in tile.runs() {
        if count > 0 {
            let k = Mat::strided(&qkv[row * stride + tile.k..], count, hd, stride);
            matmul(&mut p[column..], width, q, k.t(), false);
        }
    }
}

/// Adds to `d_qkv` the gradient with respect to queries, keys and values.
///
/// # Shapes
/// - qkv, lse, out: as `forward` left them; d_out like out; d_qkv like qkv
#[allow(clippy::too_many_arguments)]
pub fn backward(
    dims: &Dims,
    segments: &[Segment],
    qkv: &[f32],
    out: &[f32],
    lse: &[f32],
    d_out: &[f32],
    d_qkv: &mut [f32],
    scratch: &mut AttentionScratch,
) {
    let (stride, out_stride, hd) = (dims.qkv(), dims.q(), dims.head_dim);
    let scale = 1.0 / (hd as f32).sqrt();
    for tile in tiles(dims, segments) {
        let width = tile.width();
        let AttentionScratch { p, dp, delta } = scratch;
        let p = sized(p, tile.rows * width);
        let dp = sized(dp, tile.rows * width);
        let delta = sized(delta, tile.rows);
        scores(dims, &tile, qkv, p);
        causal_softmax_again(p, width, tile.first(), scale, &lse[tile.row * dims.heads + tile.head..], dims.heads);
        let at = tile.row * out_stride + tile.q;
        row_dots(&out[at..], &d_out[at..], out_stride, hd, delta);
        let d_out_tile = Mat::strided(&d_out[at..], tile.rows, hd, out_stride);
        for (row, count, column) in tile.runs() {
            if count > 0 {
                let v = Mat::strided(&qkv[row * stride + tile.v..], count, hd, stride);
                matmul(&mut dp[column..], width, d_out_tile, v.t(), false);
                let p = Mat::strided(&p[column..], tile.rows, count, width);
                matmul(&mut d_qkv[row * stride + tile.v..], stride, p.t(), d_out_tile, true);
            }
        }
        softmax_backward(dp, p, width, scale, delta);
        let q = Mat::strided(&qkv[tile.row * stride + tile.q..], tile.rows, hd, stride);
        for (row, count, column) in tile.runs() {
            if count > 0 {
                let ds = Mat::strided(&dp[column..], tile.rows, count, width);
                let k = Mat::strided(&qkv[row * stride + tile.k..], count, hd, stride);
                matmul(&mut d_qkv[tile.row * stride + tile.q..], stride, ds, k, true);
                matmul(&mut d_qkv[row * stride + tile.k..], stride, ds.t(), q, true);
            }
        }
    }
}

/// The first `len` elements of a buffer that only grows; their old contents are not cleared.
pub(super) fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}
