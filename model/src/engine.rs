//! Turns requests into sampled answers: continuous batching over a cache of keys and values, on the CPU executor.
//!
//! `step` admits what is waiting, then samples one token for every active sequence. Sequences join and leave between any two
//! tokens; nothing is padded. What a sequence samples depends on (weights, prompt, seed) only: every product sums in an order
//! that does not depend on its other rows, each sequence attends by itself, and has its own random numbers.
//! Requests with the same prompt share one prefill and one copy of its cache.
//!
//! The weights are copied to the host, whatever the network's backend: an engine that decodes on a GPU is not here.

mod prefill;

use std::collections::VecDeque;
use std::marker::PhantomData;

use burn::tensor::backend::Backend;
use rollout::completion::{Finish, PolicySpan};
use rollout::id::PolicyVersion;

use crate::host::HostWeights;
use crate::host::decode::{DecodeRow, DecodeScratch, DecodeWeights, SequenceKv, decode};
use crate::network::Transformer;
use crate::sampling::{Sampling, SamplingScratch, TokenRng, sample};
use prefill::Prefill;

/// Limits of one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Sequences decoded together.
    pub max_batch: usize,
    /// Tokens of prompt and answer together; the network's `max_position_embeddings` where that is less.
    pub max_seq_len: usize,
    /// Threads a step uses; the samples do not depend on it.
    pub threads: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { max_batch: 96, max_seq_len: 2048, threads: 2 }
    }
}

/// One answer to sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Chosen by the caller, returned with the answer; unique among active and waiting requests.
    pub id: u64,
    pub prompt: Vec<u32>,
    pub seed: u64,
    pub sampling: Sampling,
    /// At least 1; the answer is also cut where prompt and answer reach `max_seq_len`.
    pub max_new_tokens: usize,
    /// Any of them ends the answer (and is its last token).
    pub eos: Vec<u32>,
}

/// One sampled answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    pub id: u64,
    /// End-of-sequence included when `finish` is `Stop`.
    pub tokens: Vec<u32>,
    /// Natural log, one per token, under the distribution that was sampled from; see `sampling`.
    pub logprobs: Vec<f32>,
    /// The policy version from each `start` on, ascending; the first `start` is 0.
    pub spans: Vec<PolicySpan>,
    pub finish: Finish,
}

/// Why a request was refused; the engine is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    #[error("request {id}: the prompt is empty")]
    EmptyPrompt { id: u64 },
    #[error("request {id}: max_new_tokens is 0")]
    NothingToSample { id: u64 },
    #[error("request {id}: the prompt has {tokens} tokens, which leaves no room within {limit}")]
    PromptTooLong { id: u64, tokens: usize, limit: usize },
    #[error("request {id}: token {token} is not in a vocabulary of {vocab}")]
    UnknownToken { id: u64, token: u32, vocab: usize },
    #[error("request {id} is already here")]
    DuplicateId { id: u64 },
}

struct Sequence {
    request: Request,
    rng: TokenRng,
    kv: SequenceKv,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    spans: Vec<PolicySpan>,
}

/// Buffers of one thread.
#[derive(Default)]
struct Worker {
    decode: DecodeScratch,
    sampling: SamplingScratch,
}

pub struct Engine<B: Backend> {
    config: EngineConfig,
    weights: DecodeWeights,
    version: PolicyVersion,
    waiting: VecDeque<Request>,
    active: Vec<Sequence>,
    prefill: Prefill,
    workers: Vec<Worker>,
    backend: PhantomData<fn() -> B>,
}

impl<B: Backend> Engine<B> {
    /// An empty engine with the weights of `network` as policy version 0 (`adopt` for any other).
    pub fn new(network: &Transformer<B>, mut config: EngineConfig) -> Self {
        config.max_seq_len = config.max_seq_len.min(network.rope.positions);
        let workers = (0..config.threads.max(1)).map(|_| Worker::default()).collect();
        Self {
            config,
            weights: DecodeWeights::new(HostWeights::from_network(network)),
            version: PolicyVersion(0),
            waiting: VecDeque::new(),
            active: Vec::new(),
            prefill: Prefill::default(),
            workers,
            backend: PhantomData,
        }
    }

    /// Queues a request; it becomes active in the first `step` with a free place, in order of arrival.
    pub fn admit(&mut self, request: Request) -> Result<(), EngineError> {
        let (id, tokens, limit) = (request.id, request.prompt.len(), self.config.max_seq_len);
        let vocab = self.weights.weights.dims.vocab;
        if tokens == 0 {
            return Err(EngineError::EmptyPrompt { id });
        }
        if request.max_new_tokens == 0 {
            return Err(EngineError::NothingToSample { id });
        }
        if tokens >= limit {
            return Err(EngineError::PromptTooLong { id, tokens, limit });
        }
        if let Some(token) = request.prompt.iter().copied().find(|t| *t as usize >= vocab) {
            return Err(EngineError::UnknownToken { id, token, vocab });
        }
        if self.active.iter().map(|s| s.request.id).chain(self.waiting.iter().map(|r| r.id)).any(|other| other == id) {
            return Err(EngineError::DuplicateId { id });
        }
        self.waiting.push_back(request);
        Ok(())
    }

    /// Samples one token for every active sequence, after admitting waiting ones; returns the answers that ended, in order
    /// of their activation.
    pub fn step(&mut self) -> Vec<Finished> {
        let decoding = self.active.len();
        self.activate();
        self.decode_active(decoding);
        let (version, limit) = (self.version, self.config.max_seq_len);
        let mut finished = Vec::new();
        let mut kept = Vec::with_capacity(self.active.len());
        for mut sequence in self.active.drain(..) {
            sequence.note_version(version);
            match sequence.end(limit) {
                Some(finish) => finished.push(sequence.into_finished(finish)),
                None => kept.push(sequence),
            }
        }
        self.active = kept;
        finished
    }

    /// Replaces the weights between two tokens. Sequences go on with the keys and values they have; their spans record from
    /// which token on the new policy sampled.
    pub fn adopt(&mut self, network: &Transformer<B>, version: PolicyVersion) {
        self.weights = DecodeWeights::new(HostWeights::from_network(network));
        self.version = version;
        self.prefill.forget();
    }

    /// Drops a sequence or a waiting request; false when it is not here (any more).
    pub fn cancel(&mut self, id: u64) -> bool {
        let before = self.active.len() + self.waiting.len();
        self.active.retain(|s| s.request.id != id);
        self.waiting.retain(|r| r.id != id);
        before != self.active.len() + self.waiting.len()
    }

    /// Sequences being decoded.
    pub fn active(&self) -> usize {
        self.active.len()
    }

    /// Requests not yet begun.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Nothing to do.
    pub fn is_idle(&self) -> bool {
        self.active.is_empty() && self.waiting.is_empty()
    }

    pub fn version(&self) -> PolicyVersion {
        self.version
    }

    /// Fills free places and samples the first token of each new sequence from its prompt's last logits.
    fn activate(&mut self) {
        let free = self.config.max_batch.saturating_sub(self.active.len()).min(self.waiting.len());
        let new: Vec<Request> = self.waiting.drain(..free).collect();
        let prompts = self.prefill.run(&self.weights, &new, self.workers.len());
        let scratch = &mut self.workers[0].sampling;
        for (request, prompt) in new.into_iter().zip(prompts) {
            let mut sequence = Sequence {
                rng: TokenRng::new(request.seed),
                kv: SequenceKv::new(prompt.kv.clone()),
                tokens: Vec::with_capacity(request.max_new_tokens.min(self.config.max_seq_len)),
                logprobs: Vec::new(),
                spans: Vec::new(),
                request,
            };
            sequence.sample(&prompt.logits, scratch);
            self.active.push(sequence);
        }
    }

    /// One token for the first `count` active sequences, split evenly over the threads.
    fn decode_active(&mut self, count: usize) {
        let weights = &self.weights;
        // Below this many rows a second thread costs more than it brings.
        const ROWS_PER_THREAD: usize = 4;
        let threads = self.workers.len().min(count.div_ceil(ROWS_PER_THREAD)).max(1);
        let chunk = count.div_ceil(threads).max(1);
        let mut jobs = self.active[..count].chunks_mut(chunk).zip(&mut self.workers);
        let Some(first) = jobs.next() else { return };
        std::thread::scope(|scope| {
            for (sequences, worker) in jobs {
                scope.spawn(move || decode_some(weights, sequences, worker));
            }
            decode_some(weights, first.0, first.1);
        });
    }
}

fn decode_some(weights: &DecodeWeights, sequences: &mut [Sequence], worker: &mut Worker) {
    let mut rows: Vec<DecodeRow> = sequences
        .iter_mut()
        .map(|s| DecodeRow { token: s.tokens.last().copied().unwrap_or_default(), kv: &mut s.kv })
        .collect();
    let logits = decode(weights, &mut rows, &mut worker.decode);
    for (sequence, row) in sequences.iter_mut().zip(logits.chunks_exact(weights.weights.dims.vocab)) {
        sequence.sample(row, &mut worker.sampling);
    }
}

impl Sequence {
    fn sample(&mut self, logits: &[f32], scratch: &mut SamplingScratch) {
        let (token, logprob) = sample(logits, &self.request.sampling, &mut self.rng, scratch);
        self.tokens.push(token);
        self.logprobs.push(logprob);
    }

    /// Called after each sampled token: a new span where the version changed.
    fn note_version(&mut self, policy: PolicyVersion) {
        if self.spans.last().map(|s| s.policy) != Some(policy) {
            self.spans.push(PolicySpan { start: self.tokens.len() as u32 - 1, policy });
        }
    }

    fn end(&self, max_seq_len: usize) -> Option<Finish> {
        if self.tokens.last().is_some_and(|t| self.request.eos.contains(t)) {
            Some(Finish::Stop)
        } else if self.tokens.len() >= self.request.max_new_tokens
            || self.request.prompt.len() + self.tokens.len() >= max_seq_len
        {
            Some(Finish::Length)
        } else {
            None
        }
    }

    fn into_finished(self, finish: Finish) -> Finished {
        Finished { id: self.request.id, tokens: self.tokens, logprobs: self.logprobs, spans: self.spans, finish }
    }
}
