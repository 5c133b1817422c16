//! The vocabulary: log-probs of targets and their gradient, a chunk of rows at a time. Logits are fp32 and never more than a chunk.

use super::backward::Sink;
use super::executor::{Executor, F32, send};
use super::source::HeadAt;
use super::{Buffer, Factor, Product, Result, Span};
use crate::budget::CHUNK_BYTES;
use crate::packing::Sums;

#[derive(Default)]
pub(super) struct HeadBuffers {
    rows: Buffer,
    targets: Buffer,
    gathered: Buffer,
    d_gathered: Buffer,
    d_hidden: Buffer,
    logits: Buffer,
    d_logits: Buffer,
    numbers: Buffer,
    parts: Buffer,
    slopes: Buffer,
    offsets: Buffer,
    list: Buffer,
    keys: Buffer,
}

impl HeadBuffers {
    pub fn held(&self) -> usize {
        let all = [
            &self.rows,
            &self.targets,
            &self.gathered,
            &self.d_gathered,
            &self.d_hidden,
            &self.logits,
            &self.d_logits,
            &self.numbers,
            &self.parts,
            &self.slopes,
            &self.offsets,
            &self.list,
            &self.keys,
        ];
        all.iter().map(|b| b.held()).sum()
    }
}

/// A target: the token `id` after row `row`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub row: usize,
    pub id: u32,
}

/// What is known of a target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    pub logprob: f64,
    /// Of the row's distribution.
    pub entropy: f64,
    /// The target has the largest logit.
    pub top: bool,
}

impl Executor {
    /// Scores targets of the last `forward`. `see(first, scores)` gets them in order, a chunk at a time, and says what the loss's
    /// slopes with respect to those log-probs are; it waits for the device.
    ///
    /// With `grads`, adds the head's gradients, and returns that of the hidden states where any slope was not zero.
    pub fn score(
        &mut self,
        targets: &[Target],
        temperature: f32,
        grads: Option<Sink>,
        see: &mut dyn FnMut(usize, &[Score]) -> Vec<f32>,
    ) -> Result<Option<Span>> {
        let head = self.head_matrix()?;
        let (n, d, v, e) = (targets.len(), self.dims.hidden, self.dims.vocab, self.kernels.size());
        let rows = self.pass.map_or(0, |p| p.count);
        let (_, hidden) = self.last(rows)?;
        let (rt, h) = (&self.rt, &mut self.head);
        let numbers: Vec<i32> = targets.iter().map(|t| t.row as i32).collect();
        let row_numbers = send(rt, &mut h.rows, &numbers)?;
        let ids: Vec<i32> = targets.iter().map(|t| t.id as i32).collect();
        let ids = send(rt, &mut h.targets, &ids)?;
        let gathered = h.gathered.span(rt, "gathered rows", n * d * e)?;
        self.kernels.gather(rt, hidden, row_numbers, gathered, n)?;
        let chunk = (CHUNK_BYTES / (v * (4 + e))).clamp(1, n.max(1));
        let logits = h.logits.span(rt, "logits", chunk * v * 4)?;
        let numbers = h.numbers.span(rt, "scores", chunk * 24)?;
        let parts = h.parts.span(rt, "parts of scores", chunk * 8)?;
        let (mut d_logits, mut d_gathered) = (Span::NONE, Span::NONE);
        if grads.is_some() {
            d_logits = h.d_logits.span(rt, "gradients of logits", chunk * v * e)?;
            d_gathered = h.d_gathered.span(rt, "gradients of gathered rows", n * d * e)?;
        }
        let (mut any, inv_t) = (false, 1.0 / temperature);
        let mut skipped = Vec::new();
        for first in (0..n).step_by(chunk) {
            let count = chunk.min(n - first);
            let at = gathered.part(first * d * e, count * d * e);
            let ids = ids.part(first * 4, count * 4);
            self.logits(head, at, logits, count)?;
            self.kernels.score(&self.rt, logits, ids, inv_t, numbers, parts, count)?;
            let found: Vec<f64> = self.rt.download(numbers, count * 3)?;
            let score = |s: &[f64]| Score { logprob: s[0], entropy: s[1], top: s[2] != 0.0 };
            let scores: Vec<Score> = found.chunks_exact(3).map(score).collect();
            let slopes: Vec<f32> = see(first, &scores).iter().map(|s| s * inv_t).collect();
            let Some(grads) = grads else { continue };
            let to = d_gathered.part(first * d * e, count * d * e);
            if slopes.iter().all(|s| *s == 0.0) {
                skipped.push(to);
                continue;
            }
            any = true;
            let slopes = send(&self.rt, &mut self.head.slopes, &slopes)?;
            self.kernels.score_backward(&self.rt, logits, ids, slopes, parts, inv_t, d_logits, count)?;
            self.head_backward(head, grads, at, d_logits, to, count)?;
        }
        if !any {
            return Ok(None);
        }
        for span in skipped {
            self.rt.zero(span)?;
        }
        let to: Vec<usize> = targets.iter().map(|t| t.row).collect();
        let sums = Sums::by_destination(&to, rows);
        let (rt, h) = (&self.rt, &mut self.head);
        let pair = (send(rt, &mut h.offsets, &sums.offsets)?, send(rt, &mut h.list, &sums.list)?);
        let d_hidden = h.d_hidden.span(rt, "gradients of hidden states", rows * d * e)?;
        self.kernels.collect(rt, d_gathered, pair, d_hidden, rows)?;
        Ok(Some(d_hidden))
    }

    /// `[count, hidden]` to fp32 `[count, vocab]`.
    fn logits(&self, head: HeadAt, hidden: Span, out: Span, count: usize) -> Result<()> {
        let (d, v) = (self.dims.hidden, self.dims.vocab);
        let head = if head.tied { Factor::t(head.at, d) } else { Factor::new(head.at, v) };
        let product = Product::new([count, d, v], self.kernels.element, Factor::new(hidden, d), head, out);
        self.rt.multiply(&Product { result: F32, ..product })
    }

    /// `d_hidden = d_logits W^T`, `dW += hidden^T d_logits` (where all is trained).
    fn head_backward(
        &self,
        head: HeadAt,
        grads: Sink,
        hidden: Span,
        d_logits: Span,
        d_hidden: Span,
        count: usize,
    ) -> Result<()> {
        let (d, v, element) = (self.dims.hidden, self.dims.vocab, self.kernels.element);
        let dl = Factor::new(d_logits, v);
        if let Sink::All(grads) = grads {
            let product = match grads.head {
                Some(grad) => Product::new([d, count, v], element, Factor::t(hidden, d), dl, grad),
                None => {
                    let factors = (Factor::t(d_logits, v), Factor::new(hidden, d));
                    Product::new([v, count, d], element, factors.0, factors.1, grads.embed)
                }
            };
            self.rt.multiply(&Product { result: F32, keep: 1.0, ..product })?;
        }
        let back = if head.tied { Factor::new(head.at, d) } else { Factor::t(head.at, v) };
        self.rt.multiply(&Product::new([count, v, d], element, dl, back, d_hidden))
    }

    /// `grad[tokens[b]] += sum of dx`.
    pub(super) fn embed_backward(&mut self, dx: Span, tokens: &[i32], sums: &Sums, grad: Span) -> Result<()> {
        let (rt, h) = (&self.rt, &mut self.head);
        let keys = send(rt, &mut h.keys, tokens)?;
        let pair = (send(rt, &mut h.offsets, &sums.offsets)?, send(rt, &mut h.list, &sums.list)?);
        self.kernels.embed_backward(rt, dx, keys, pair, grad, tokens.len())
    }
}
