//! Log-probs and gradients on the CPU executor: micro-batches on several threads, each with its own gradients.

use super::Scored;
use super::batch::{Item, MAX_ROWS, MicroBatch, plan, spread};
use crate::host::backward::{BackwardScratch, backward, head_backward};
use crate::host::forward::{Rows, Tape, forward, logits};
use crate::host::kernels::{ret_type, vectorised};
use crate::host::{HostWeights, kernels};
use crate::loss::Term;

/// `(item, token, log-prob) -> its share of the loss`.
pub type Objective<'a> = &'a (dyn Fn(usize, usize, f64) -> Term + Sync);

/// Buffers of one thread.
#[derive(Default)]
pub struct Worker {
    tape: Tape,
    scratch: BackwardScratch,
    grads: Option<HostWeights>,
    gathered: Vec<f32>,
    logits: Vec<f32>,
    d_gathered: Vec<f32>,
    d_hidden: Vec<f32>,
}

/// Answer rows whose logits are computed together.
const HEAD_ROWS: usize = 256;

/// Where an answer token's log-prob comes from.
pub struct Target {
    pub row: usize,
    pub item: usize,
    pub token: usize,
    pub id: u32,
}

/// Scores every answer token of every item; with `objective`, also the gradient of the summed loss.
pub fn run(
    w: &HostWeights,
    items: &[Item],
    max_items: usize,
    temperature: f32,
    objective: Option<Objective>,
    workers: &mut [Worker],
) -> (Vec<Scored>, Option<HostWeights>) {
    let batches = plan(items, max_items, MAX_ROWS);
    let shares = spread(&batches, workers.len());
    let work = |worker: &mut Worker, share: &[usize]| {
        if objective.is_some() {
            worker.grads = Some(w.zeros_like());
        }
        let mut scored = Vec::new();
        for b in share {
            worker.micro_batch(w, items, &batches[*b], temperature, objective, &mut scored);
        }
        scored
    };
    let mut results: Vec<(usize, Scored)> = std::thread::scope(|scope| {
        let mut jobs = workers.iter_mut().zip(&shares);
        let first = jobs.next();
        let handles: Vec<_> = jobs.map(|(worker, share)| scope.spawn(|| work(worker, share))).collect();
        let mut all = first.map(|(worker, share)| work(worker, share)).unwrap_or_default();
        for handle in handles {
            all.extend(handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        all
    });
    results.sort_by_key(|(item, _)| *item);
    let mut sum: Option<HostWeights> = None;
    for mut grads in workers.iter_mut().filter_map(|worker| worker.grads.take()) {
        match &mut sum {
            None => sum = Some(grads),
            Some(sum) => sum.add(&mut grads),
        }
    }
    (results.into_iter().map(|(_, scored)| scored).collect(), sum)
}

impl Worker {
    fn micro_batch(
        &mut self,
        w: &HostWeights,
        items: &[Item],
        batch: &MicroBatch,
        temperature: f32,
        objective: Option<Objective>,
        out: &mut Vec<(usize, Scored)>,
    ) {
        let objective = objective.filter(|_| batch.backward);
        let (rows, targets) = lay_out(items, batch);
        forward(w, &rows, &mut self.tape, objective.is_some(), &mut |_, _| {});
        let d = w.dims.hidden;
        self.d_hidden.clear();
        if objective.is_some() {
            self.d_hidden.resize(rows.len() * d, 0.0);
        }
        let first = out.len();
        out.extend(batch.items.iter().map(|i| (*i, Scored::with_len(items[*i].tokens.len()))));
        let mut slot = first;
        for chunk in targets.chunks(HEAD_ROWS) {
            let stats = self.score_chunk(w, chunk, temperature);
            let mut any = false;
            for ((target, parts), row) in chunk.iter().zip(&stats).zip(self.logits.chunks_exact_mut(w.dims.vocab)) {
                while out[slot].0 != target.item {
                    slot += 1;
                }
                out[slot].1.set(target.token, parts);
                let slope = objective.map_or(0.0, |f| f(target.item, target.token, parts.logprob).d_logprob);
                if objective.is_some() {
                    any |= slope != 0.0;
                    d_logits(row, target.id as usize, slope as f32 / temperature, parts.inv_sum);
                }
            }
            if any {
                self.head_backward(w, chunk);
            }
        }
        if let (Some(_), Some(grads)) = (objective, &mut self.grads) {
            backward(w, &rows, &mut self.tape, &self.d_hidden, grads, &mut self.scratch);
        }
    }

    /// Logits of the chunk's rows become unnormalised probabilities in `self.logits`; returns each row's numbers.
    fn score_chunk(&mut self, w: &HostWeights, chunk: &[Target], temperature: f32) -> Vec<Parts> {
        let (d, v) = (w.dims.hidden, w.dims.vocab);
        self.gathered.clear();
        for target in chunk {
            self.gathered.extend_from_slice(&self.tape.hidden[target.row * d..][..d]);
        }
        self.logits.resize(chunk.len() * v, 0.0);
        logits(w, &self.gathered, chunk.len(), &mut self.logits);
        let ids: Vec<u32> = chunk.iter().map(|t| t.id).collect();
        let mut stats = Vec::with_capacity(chunk.len());
        score_rows(&mut self.logits, v, &ids, 1.0 / temperature, &mut stats);
        stats
    }

    /// From `self.logits`, which hold the gradient now, to the hidden states' gradient and the head's.
    fn head_backward(&mut self, w: &HostWeights, chunk: &[Target]) {
        let d = w.dims.hidden;
        let Some(grads) = &mut self.grads else { return };
        self.d_gathered.resize(chunk.len() * d, 0.0);
        head_backward(w, &self.gathered, &self.logits, chunk.len(), &mut self.d_gathered, grads);
        for (target, row) in chunk.iter().zip(self.d_gathered.chunks_exact(d)) {
            kernels::add_assign(&mut self.d_hidden[target.row * d..][..d], row);
        }
    }
}

/// The rows of a micro-batch: each prompt once, then its answers without their last token (nothing is predicted from it).
pub fn lay_out(items: &[Item], batch: &MicroBatch) -> (Rows, Vec<Target>) {
    let mut rows = Rows::default();
    let mut targets = Vec::new();
    let mut prompt: Option<(&[u32], std::ops::Range<usize>)> = None;
    for i in &batch.items {
        let item = &items[*i];
        let prefix = match &prompt {
            Some((tokens, range)) if *tokens == item.prompt => range.clone(),
            _ => {
                let start = rows.push(item.prompt, 0..0);
                start..start + item.prompt.len()
            }
        };
        let (inputs, last) = (item.tokens.len() - 1, prefix.end - 1);
        let start = if inputs == 0 { rows.len() } else { rows.push(&item.tokens[..inputs], prefix.clone()) };
        targets.extend(item.tokens.iter().enumerate().map(|(token, id)| Target {
            row: if token == 0 { last } else { start + token - 1 },
            item: *i,
            token,
            id: *id,
        }));
        prompt = Some((item.prompt, prefix));
    }
    (rows, targets)
}

/// One row's distribution.
pub struct Parts {
    pub logprob: f64,
    pub entropy: f64,
    /// One over the sum of the unnormalised probabilities.
    pub inv_sum: f32,
    /// The target has the largest logit.
    pub top: bool,
}

vectorised! {
    /// Each row of `width` logits becomes `exp((z - max) * inv_t)`. The sums are f64.
    pub fn score_rows(rows: &'a mut [f32], width: usize, targets: &'a [u32], inv_t: f32, out: &'a mut Vec<Parts>) {
        for (row, target) in rows.chunks_exact_mut(width).zip(targets) {
            out.push(score_row(row, *target as usize, inv_t));
        }
    }
}

#[inline(always)]
fn score_row(row: &mut [f32], target: usize, inv_t: f32) -> Parts {
    const LANES: usize = 16;
    let mut tops = [f32::NEG_INFINITY; LANES];
    for chunk in row.chunks(LANES) {
        for (top, z) in tops.iter_mut().zip(chunk) {
            *top = if *z > *top { *z } else { *top };
        }
    }
    let max = tops.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let z = row[target];
    let (mut sums, mut weighted) = ([0.0f64; LANES], [0.0f64; LANES]);
    for chunk in row.chunks_mut(LANES) {
        for ((sum, weighted), z) in sums.iter_mut().zip(&mut weighted).zip(chunk) {
            let s = (*z - max) * inv_t;
            let e = kernels::exp(s);
            *z = e;
            *sum += f64::from(e);
            *weighted += f64::from(e) * f64::from(s);
        }
    }
    let (sum, weighted): (f64, f64) = (sums.iter().sum(), weighted.iter().sum());
    Parts {
        logprob: f64::from((z - max) * inv_t) - sum.ln(),
        entropy: sum.ln() - weighted / sum,
        inv_sum: (1.0 / sum) as f32,
        top: z == max,
    }
}

vectorised! {
    /// `d loss / d logits = slope * (onehot(target) - p)` over the unnormalised probabilities.
    pub fn d_logits(row: &'a mut [f32], target: usize, slope: f32, inv_sum: f32) {
        let scale = -slope * inv_sum;
        for p in row.iter_mut() {
            *p *= scale;
        }
        row[target] += slope;
    }
}
