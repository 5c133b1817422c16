//! Runs new prompts through the network, each different prompt once.

use std::collections::HashMap;
use std::sync::Arc;

use super::Request;
use crate::host::decode::{DecodeWeights, PrefixKv};
use crate::host::forward::forward;
use crate::host::{Rows, Tape};

/// A prompt that has been run: its cache and the logits that follow it.
#[derive(Debug)]
pub struct Prompt {
    pub kv: Arc<PrefixKv>,
    /// `[vocab]`
    pub logits: Vec<f32>,
}

/// Prompt tokens run in one batch, about.
const BATCH_TOKENS: usize = 1024;

#[derive(Default)]
pub struct Prefill {
    /// Prompts run with the present weights whose cache some sequence still holds.
    known: HashMap<Vec<u32>, Arc<Prompt>>,
    tapes: Vec<Tape>,
}

impl Prefill {
    /// The weights changed: no old cache may begin a new answer.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// One entry per request, in order; requests with equal prompts share it.
    pub fn run(&mut self, weights: &DecodeWeights, requests: &[Request], threads: usize) -> Vec<Arc<Prompt>> {
        self.known.retain(|_, prompt| Arc::strong_count(&prompt.kv) > 1);
        let mut missing: Vec<&[u32]> = Vec::new();
        for request in requests {
            let prompt = request.prompt.as_slice();
            if !self.known.contains_key(prompt) && !missing.contains(&prompt) {
                missing.push(prompt);
            }
        }
        for (prompt, computed) in missing.iter().zip(self.compute(weights, &missing, threads)) {
            self.known.insert(prompt.to_vec(), Arc::new(computed));
        }
        requests.iter().filter_map(|r| self.known.get(&r.prompt).cloned()).collect()
    }

    /// Runs the prompts, each thread its share.
    fn compute(&mut self, weights: &DecodeWeights, prompts: &[&[u32]], threads: usize) -> Vec<Prompt> {
        let threads = threads.clamp(1, prompts.len().max(1));
        self.tapes.resize_with(threads.max(self.tapes.len()), Tape::default);
        let share = prompts.len().div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            let handles: Vec<_> = prompts
                .chunks(share)
                .zip(&mut self.tapes)
                .map(|(prompts, tape)| scope.spawn(move || run_all(weights, prompts, tape)))
                .collect();
            let done = handles.into_iter().map(|h| h.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            done.flatten().collect()
        })
    }
}

/// Batches of about `BATCH_TOKENS`.
fn run_all(weights: &DecodeWeights, prompts: &[&[u32]], tape: &mut Tape) -> Vec<Prompt> {
    let mut done = Vec::with_capacity(prompts.len());
    let mut rest = prompts;
    while !rest.is_empty() {
        let mut tokens = 0;
        let count = rest.iter().take_while(|p| {
            tokens += p.len();
            tokens <= BATCH_TOKENS
        });
        let (batch, after) = rest.split_at(count.count().max(1));
        done.extend(run_batch(weights, batch, tape));
        rest = after;
    }
    done
}

fn run_batch(weights: &DecodeWeights, prompts: &[&[u32]], tape: &mut Tape) -> Vec<Prompt> {
    let (w, dims) = (&weights.weights, &weights.weights.dims);
    let mut rows = Rows::default();
    let starts: Vec<usize> = prompts.iter().map(|prompt| rows.push(prompt, 0..0)).collect();
    if rows.len() == 1 {
        // Two rows at least, see `host::gemm::matmul`; this one stands for nothing.
        rows.push(&[0], 0..0);
    }
    let mut caches: Vec<PrefixKv> = prompts.iter().map(|p| PrefixKv::new(dims, w.layers.len(), p.len())).collect();
    forward(w, &rows, tape, false, &mut |layer, layer_tape| {
        for (cache, start) in caches.iter_mut().zip(&starts) {
            cache.fill(dims, layer, layer_tape, *start);
        }
    });
    let n = prompts.len().max(2);
    let mut last = vec![0.0; n * dims.hidden];
    for (i, (start, prompt)) in starts.iter().zip(prompts).enumerate() {
        let row = (start + prompt.len() - 1) * dims.hidden;
        last[i * dims.hidden..][..dims.hidden].copy_from_slice(&tape.hidden[row..][..dims.hidden]);
    }
    let mut logits = vec![0.0; n * dims.vocab];
    weights.logits(&last, n, &mut logits);
    let rows = logits.chunks_exact(dims.vocab).map(<[f32]>::to_vec);
    caches.into_iter().zip(rows).map(|(kv, logits)| Prompt { kv: Arc::new(kv), logits }).collect()
}
