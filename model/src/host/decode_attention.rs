//! Attention of one new token over one sequence's cache: the inner loop of generation.
//!
//! Keys lie transposed (`[head_dim, positions]`), so that scores of neighbouring positions fill a vector; values lie
//! `[positions, head_dim]`. The query heads that share a key head go through it together: each key is loaded once.

use super::decode::{CHUNK, KvBlock};
use super::kernels::{exp, ret_type, vectorised};
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
            match count {
                4 => attend_4(&job, q, scores, out),
                3 => attend_3(&job, q, scores, out),
                2 => attend_2(&job, q, scores, out),
                _ => attend_1(&job, q, scores, out),
            }
            first += count;
        }
    }
}

pub struct Job<'a> {
    head: usize,
    hd: usize,
    prefix: (&'a KvBlock, usize),
    own: (&'a KvBlock, usize),
}

vectorised! { pub fn attend_1(job: &'a Job<'a>, q: &'a [f32], scores: &'a mut [f32], out: &'a mut [f32]) { heads::<1>(job, q, scores, out) } }
vectorised! { pub fn attend_2(job: &'a Job<'a>, q: &'a [f32], scores: &'a mut [f32], out: &'a mut [f32]) { heads::<2>(job, q, scores, out) } }
vectorised! { pub fn attend_3(job: &'a Job<'a>, q: &'a [f32], scores: &'a mut [f32], out: &'a mut [f32]) { heads::<3>(job, q, scores, out) } }
vectorised! { pub fn attend_4(job: &'a Job<'a>, q: &'a [f32], scores: &'a mut [f32], out: &'a mut [f32]) { heads::<4>(job, q, scores, out) } }

/// `G` query heads over one key head.
#[inline(always)]
fn heads<const G: usize>(job: &Job, q: &[f32], scores: &mut [f32], out: &mut [f32]) {
    let (hd, past) = (job.hd, job.prefix.1);
    let total = past + job.own.1;
    let stride = total + 2 * CHUNK;
    dots::<G>(job, job.prefix, q, scores, stride, 0);
    dots::<G>(job, job.own, q, scores, stride, past);
    let scale = 1.0 / (hd as f32).sqrt();
    for g in 0..G {
        softmax(&mut scores[g * stride..][..total], scale);
    }
    let mut at = 0;
    while at < hd {
        let width = match hd - at {
            32.. => {
                mix::<G, 32>(job, scores, stride, at, out);
                32
            }
            8.. => {
                mix::<G, 8>(job, scores, stride, at, out);
                8
            }
            _ => {
                mix::<G, 2>(job, scores, stride, at, out);
                2
            }
        };
        at += width;
    }
}

/// Raw scores of one block, whole chunks at a time, at column `column`. What is written past the block's positions is
/// overwritten by the next block or ignored.
#[inline(always)]
fn dots<const G: usize>(job: &Job, (block, len): (&KvBlock, usize), q: &[f32], scores: &mut [f32], stride: usize, column: usize) {
    let (hd, capacity) = (job.hd, block.capacity);
    let keys = &block.k[job.head * hd * capacity..][..hd * capacity];
    let mut t = 0;
    while t < len {
        let mut sums = [[0.0f32; CHUNK]; G];
        for i in 0..hd {
            let key = &keys[i * capacity + t..][..CHUNK];
            for g in 0..G {
                let x = q[g * hd + i];
                for j in 0..CHUNK {
                    sums[g][j] = x.mul_add(key[j], sums[g][j]);
                }
            }
        }
        for g in 0..G {
            scores[g * stride + column + t..][..CHUNK].copy_from_slice(&sums[g]);
        }
        t += CHUNK;
    }
}

#[inline(always)]
fn softmax(row: &mut [f32], scale: f32) {
    let mut tops = [f32::NEG_INFINITY; CHUNK];
    for chunk in row.chunks(CHUNK) {
        for (top, x) in tops.iter_mut().zip(chunk) {
            *top = if *x > *top { *x } else { *top };
        }
    }
    let max = tops.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let mut sums = [0.0f32; CHUNK];
    let mut chunks = row.chunks_exact_mut(CHUNK);
    for chunk in &mut chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *x = exp((*x - max) * scale);
            *sum += *x;
        }
    }
    let mut sum = 0.0;
    for x in chunks.into_remainder() {
        *x = exp((*x - max) * scale);
        sum += *x;
    }
    let inv = 1.0 / sums.iter().fold(sum, |a, b| a + b);
    for x in row {
        *x *= inv;
    }
}

/// `C` columns of the output of `G` heads: the probabilities times the values.
#[inline(always)]
fn mix<const G: usize, const C: usize>(job: &Job, scores: &[f32], stride: usize, at: usize, out: &mut [f32]) {
    let hd = job.hd;
    let mut sums = [[0.0f32; C]; G];
    let mut column = 0;
    for (block, len) in [job.prefix, job.own] {
        let values = &block.v[job.head * hd * block.capacity..][..len * hd];
        for (t, row) in values.chunks_exact(hd).enumerate() {
            let value = &row[at..at + C];
            for g in 0..G {
                let p = scores[g * stride + column + t];
                for j in 0..C {
                    sums[g][j] = p.mul_add(value[j], sums[g][j]);
                }
            }
        }
        column += len;
    }
    for g in 0..G {
        out[g * hd + at..][..C].copy_from_slice(&sums[g]);
    }
}
