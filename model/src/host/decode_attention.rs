//! Attention of one new token over one sequence's cache: the inner loop of generation.
//!
//! Keys lie transposed (`[head_dim, positions]`), so that scores of neighbouring positions fill a vector; values lie
//! `[positions, head_dim]`. The query heads that share a key head go through it together: each key is loaded once.

use pulp::{Simd, WithSimd};

use super::decode::{CHUNK, KvBlock};
use super::kernels::{exp_row, max_of};
use super::weights::Dims;

/// `out = softmax(q k^T / sqrt(head_dim)) v` over the prefix's positions, then the sequence's own.
///
/// # Shapes
/// - q, out: `[heads * head_dim]`
/// - prefix, own: blocks with how many positions of each count
/// - scores: scratch of at least `heads * (positions + 2 * CHUNK)`
pub fn attend(
    dims: &Dims,
    q: &[f32],
    prefix: (&KvBlock, usize),
    own: (&KvBlock, usize),
    scores: &mut [f32],
    out: &mut [f32],
) {
    let (group, hd) = (dims.heads / dims.kv_heads, dims.head_dim);
    for head in 0..dims.kv_heads {
        let mut first = head * group;
        let end = first + group;
        while first < end {
            let count = (end - first).min(4);
            let heads = first * hd..(first + count) * hd;
            let job = Job { head, hd, prefix, own };
            let (q, out) = (&q[heads.clone()], &mut out[heads]);
            let arch = pulp::Arch::new();
            match count {
                4 => arch.dispatch(Heads::<4> { job: &job, q, scores: &mut *scores, out }),
                3 => arch.dispatch(Heads::<3> { job: &job, q, scores: &mut *scores, out }),
                2 => arch.dispatch(Heads::<2> { job: &job, q, scores: &mut *scores, out }),
                _ => arch.dispatch(Heads::<1> { job: &job, q, scores: &mut *scores, out }),
            }
            first += count;
        }
    }
}

struct Job<'a> {
    head: usize,
    hd: usize,
    prefix: (&'a KvBlock, usize),
    own: (&'a KvBlock, usize),
}

/// `G` query heads over one key head. `q`, `out`: `[G, head_dim]`.
struct Heads<'a, const G: usize> {
    job: &'a Job<'a>,
    q: &'a [f32],
    scores: &'a mut [f32],
    out: &'a mut [f32],
}

impl<const G: usize> WithSimd for Heads<'_, G> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { job, q, scores, out } = self;
        let (hd, past) = (job.hd, job.prefix.1);
        let total = past + job.own.1;
        let stride = total + 2 * CHUNK;
        dots::<S, G>(simd, job, job.prefix, q, scores, stride, 0);
        dots::<S, G>(simd, job, job.own, q, scores, stride, past);
        let scale = 1.0 / (hd as f32).sqrt();
        for g in 0..G {
            softmax(&mut scores[g * stride..][..total], scale);
        }
        let lanes = S::F32_LANES;
        let mut at = 0;
        while at + 2 * lanes <= hd {
            mix::<S, G, 2>(simd, job, scores, stride, at, out);
            at += 2 * lanes;
        }
        while at + lanes <= hd {
            mix::<S, G, 1>(simd, job, scores, stride, at, out);
            at += lanes;
        }
        mix_rest::<G>(job, scores, stride, at, out);
    }
}

/// Raw scores of one block, two vectors of positions at a time, at column `column`. What is written past the block's positions
/// is overwritten by the next block or ignored.
#[inline(always)]
fn dots<S: Simd, const G: usize>(
    simd: S,
    job: &Job,
    (block, len): (&KvBlock, usize),
    q: &[f32],
    scores: &mut [f32],
    stride: usize,
    column: usize,
) {
    let (hd, lanes) = (job.hd, S::F32_LANES);
    let keys = &block.k[job.head * hd * block.capacity..][..hd * block.capacity];
    // The capacity is a multiple of `CHUNK`, which is a multiple of any two vectors.
    let (keys, _) = S::as_simd_f32s(keys);
    let per_row = block.capacity / lanes;
    let mut t = 0;
    while t < len {
        let mut sums = [[simd.splat_f32s(0.0); 2]; G];
        for (i, row) in keys.chunks_exact(per_row).enumerate() {
            let key = [row[t / lanes], row[t / lanes + 1]];
            for (g, sum) in sums.iter_mut().enumerate() {
                let x = simd.splat_f32s(q[g * hd + i]);
                sum[0] = simd.mul_add_f32s(x, key[0], sum[0]);
                sum[1] = simd.mul_add_f32s(x, key[1], sum[1]);
            }
        }
        for (g, sum) in sums.iter().enumerate() {
            let (out, _) = S::as_mut_simd_f32s(&mut scores[g * stride + column + t..][..2 * lanes]);
            out.copy_from_slice(sum);
        }
        t += 2 * lanes;
    }
}

#[inline(always)]
fn softmax(row: &mut [f32], scale: f32) {
    let max = max_of(row);
    let inv = (1.0 / exp_row(row, max, scale)) as f32;
    for x in row {
        *x *= inv;
    }
}

/// `N` vectors of the output of `G` heads, from element `at` on: the probabilities times the values.
#[inline(always)]
fn mix<S: Simd, const G: usize, const N: usize>(
    simd: S,
    job: &Job,
    scores: &[f32],
    stride: usize,
    at: usize,
    out: &mut [f32],
) {
    let hd = job.hd;
    let mut sums = [[simd.splat_f32s(0.0); N]; G];
    let mut column = 0;
    for (block, len) in [job.prefix, job.own] {
        let values = &block.v[job.head * hd * block.capacity..][..len * hd];
        let probs: [&[f32]; G] = std::array::from_fn(|g| &scores[g * stride + column..][..len]);
        for (t, row) in values.chunks_exact(hd).enumerate() {
            let (value, _) = S::as_simd_f32s(&row[at..at + N * S::F32_LANES]);
            for (sum, p) in sums.iter_mut().zip(&probs) {
                let p = simd.splat_f32s(p[t]);
                for (sum, value) in sum.iter_mut().zip(value) {
                    *sum = simd.mul_add_f32s(p, *value, *sum);
                }
            }
        }
        column += len;
    }
    for (g, sum) in sums.iter().enumerate() {
        let (out, _) = S::as_mut_simd_f32s(&mut out[g * hd + at..][..N * S::F32_LANES]);
        out.copy_from_slice(sum);
    }
}

/// The elements of a head that do not fill a vector.
#[inline(always)]
fn mix_rest<const G: usize>(job: &Job, scores: &[f32], stride: usize, from: usize, out: &mut [f32]) {
    let hd = job.hd;
    for g in 0..G {
        for at in from..hd {
            let mut sum = 0.0;
            let mut column = 0;
            for (block, len) in [job.prefix, job.own] {
                let values = &block.v[job.head * hd * block.capacity..][..len * hd];
                let probs = &scores[g * stride + column..][..len];
                sum += probs.iter().zip(values.chunks_exact(hd)).map(|(p, row)| p * row[at]).sum::<f32>();
                column += len;
            }
            out[g * hd + at] = sum;
        }
    }
}
