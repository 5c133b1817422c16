//! The engine's work on the CPU: prompts and steps by `host`, the batch split over threads.

use burn::tensor::backend::Backend;

use super::prefill::{Prefill, Prompt};
use super::sequence::Sequence;
use super::{EngineConfig, Request};
use crate::host::HostWeights;
use crate::host::decode::{DecodeRow, DecodeScratch, DecodeWeights, SequenceKv, decode};
use crate::network::Transformer;
use crate::sampling::SamplingScratch;

/// Buffers of one thread.
#[derive(Default)]
struct Worker {
    decode: DecodeScratch,
    sampling: SamplingScratch,
}

/// What a sequence continues from.
struct Place {
    kv: SequenceKv,
    /// Its prompt's logits, until the first token is sampled from them.
    first: Option<std::sync::Arc<Prompt>>,
}

pub struct CpuExecutor {
    weights: DecodeWeights,
    prefill: Prefill,
    workers: Vec<Worker>,
    places: Vec<Option<Place>>,
}

impl CpuExecutor {
    pub fn new<B: Backend>(network: &Transformer<B>, config: &EngineConfig) -> Self {
        Self {
            weights: DecodeWeights::new(HostWeights::from_network(network)),
            prefill: Prefill::default(),
            workers: (0..config.threads.max(1)).map(|_| Worker::default()).collect(),
            places: (0..config.max_batch).map(|_| None).collect(),
        }
    }

    pub fn vocab(&self) -> usize {
        self.weights.weights.dims.vocab
    }

    pub fn adopt<B: Backend>(&mut self, network: &Transformer<B>) {
        self.weights = DecodeWeights::new(HostWeights::from_network(network));
        self.prefill.forget();
    }

    /// Runs the prompts of new requests; one slot each.
    pub fn begin(&mut self, requests: &[Request]) -> Vec<usize> {
        let prompts = self.prefill.run(&self.weights, requests, self.workers.len());
        let mut free =
            (0..self.places.len()).filter(|slot| self.places[*slot].is_none()).collect::<Vec<_>>().into_iter();
        let mut slots = Vec::with_capacity(requests.len());
        for (prompt, slot) in prompts.into_iter().zip(&mut free) {
            self.places[slot] = Some(Place { kv: SequenceKv::new(prompt.kv.clone()), first: Some(prompt) });
            slots.push(slot);
        }
        slots
    }

    pub fn end(&mut self, slot: usize) {
        self.places[slot] = None;
    }

    /// One token for every sequence, split evenly over the threads.
    pub fn step(&mut self, sequences: &mut [Sequence]) {
        // Below this many rows a second thread costs more than it brings.
        const ROWS_PER_THREAD: usize = 4;
        let scratch = &mut self.workers[0].sampling;
        let mut running: Vec<(&mut Sequence, Place)> = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            let Some(place) = self.places[sequence.slot].take() else { continue };
            match place.first {
                Some(prompt) => {
                    sequence.sample(&prompt.logits, scratch);
                    self.places[sequence.slot] = Some(Place { kv: place.kv, first: None });
                }
                None => running.push((sequence, place)),
            }
        }
        let threads = self.workers.len().min(running.len().div_ceil(ROWS_PER_THREAD)).max(1);
        let chunk = running.len().div_ceil(threads).max(1);
        let weights = &self.weights;
        std::thread::scope(|scope| {
            let mut jobs = running.chunks_mut(chunk).zip(&mut self.workers);
            let Some(first) = jobs.next() else { return };
            for (sequences, worker) in jobs {
                scope.spawn(move || decode_some(weights, sequences, worker));
            }
            decode_some(weights, first.0, first.1);
        });
        for (sequence, place) in running {
            self.places[sequence.slot] = Some(place);
        }
    }
}

fn decode_some(weights: &DecodeWeights, sequences: &mut [(&mut Sequence, Place)], worker: &mut Worker) {
    let mut rows: Vec<DecodeRow> = sequences
        .iter_mut()
        .map(|(s, place)| DecodeRow { token: s.tokens.last().copied().unwrap_or_default(), kv: &mut place.kv })
        .collect();
    let logits = decode(weights, &mut rows, &mut worker.decode);
    for ((sequence, _), row) in sequences.iter_mut().zip(logits.chunks_exact(weights.weights.dims.vocab)) {
        sequence.sample(row, &mut worker.sampling);
    }
}
