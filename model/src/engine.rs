//! Turns requests into sampled answers: continuous batching over a cache of keys and values, on the CPU or on a GPU.
//!
//! `step` admits what is waiting, then samples one token for every active sequence. Sequences join and leave between any two
//! tokens; nothing is padded. Requests with the same prompt share one prefill and one copy of its cache.
//!
//! On the CPU ([`Engine::new`], `cpu`) what a sequence samples depends on (weights, prompt, seed) only: every product sums in an
//! order that does not depend on its other rows, each sequence attends by itself, and has its own random numbers. On a GPU
//! ([`Engine::on_gpu`], `device::generate`) the same random numbers draw from the same distribution up to rounding; how far its
//! samples can be repeated is said there.

pub mod blocks;
mod cpu;
mod prefill;
mod sequence;
pub mod stop;

use std::collections::VecDeque;
use std::marker::PhantomData;

use burn::tensor::backend::Backend;
use rollout::completion::{Finish, PolicySpan};
use rollout::id::PolicyVersion;

use crate::network::Transformer;
use crate::sampling::Sampling;
use cpu::CpuExecutor;
pub(crate) use sequence::Sequence;
use stop::StopRule;

/// Limits of one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Sequences decoded together.
    pub max_batch: usize,
    /// Tokens of prompt and answer together; the network's `max_position_embeddings` where that is less.
    pub max_seq_len: usize,
    /// Threads a step uses on the CPU; the samples do not depend on it.
    pub threads: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { max_batch: 96, max_seq_len: 2048, threads: 2 }
    }
}

/// How an engine uses a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuConfig {
    /// Which GPU, as the driver counts.
    pub ordinal: usize,
    /// fp32 throughout instead of bf16 with sums in fp32: four times slower and more, for comparisons.
    pub single_precision: bool,
    /// Bytes for keys and values; 0: what `max_batch` texts of full length need, at most half of what is free.
    pub cache_bytes: usize,
    /// Seconds that any wait for the GPU may take; 0: `device::WAIT`.
    pub wait_s: u64,
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

impl Request {
    /// Positions of the cache that the answer can come to need: the last token is never read.
    #[cfg(feature = "cuda")]
    pub(crate) fn positions(&self, max_seq_len: usize) -> usize {
        (self.prompt.len() + self.max_new_tokens).min(max_seq_len) - 1
    }
}

/// One sampled answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    pub id: u64,
    /// End-of-sequence included when `finish` is `Stop` by one.
    pub tokens: Vec<u32>,
    /// Natural log, one per token, under the distribution that was sampled from; see `sampling`.
    pub logprobs: Vec<f32>,
    /// The policy version from each `start` on, ascending; the first `start` is 0.
    pub spans: Vec<PolicySpan>,
    pub finish: Finish,
}

/// Why a request was refused (the engine is unchanged), or what ended the engine (`Gpu`).
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
    #[error(
        "request {id}: its keys and values need {blocks} blocks of the GPU's cache, which has {limit}\n  hint: give the cache more memory, or lower `max_new_tokens`"
    )]
    TooLarge { id: u64, blocks: usize, limit: usize },
    #[error("generation on the GPU: {reason}")]
    Gpu { reason: String },
}

#[cfg(feature = "cuda")]
impl From<crate::device::DeviceError> for EngineError {
    fn from(source: crate::device::DeviceError) -> Self {
        Self::Gpu { reason: source.to_string() }
    }
}

type Result<T> = std::result::Result<T, EngineError>;

enum Executor {
    Cpu(Box<CpuExecutor>),
    #[cfg(feature = "cuda")]
    Gpu(Box<crate::device::generate::Generator>),
}

pub struct Engine<B: Backend> {
    config: EngineConfig,
    executor: Executor,
    version: PolicyVersion,
    stop: StopRule,
    waiting: VecDeque<Request>,
    active: Vec<Sequence>,
    backend: PhantomData<fn() -> B>,
}

impl<B: Backend> Engine<B> {
    /// An empty engine on the CPU with the weights of `network` as policy version 0 (`adopt` for any other).
    pub fn new(network: &Transformer<B>, config: EngineConfig) -> Self {
        let executor = Executor::Cpu(Box::new(CpuExecutor::new(network, &config)));
        Self::with(network, config, executor)
    }

    /// The same on a GPU, whatever the network's backend.
    ///
    /// # Errors
    /// `Gpu`: no GPU, no room on it, or a program without the feature `cuda`.
    pub fn on_gpu(network: &Transformer<B>, config: EngineConfig, gpu: &GpuConfig) -> Result<Self> {
        #[cfg(feature = "cuda")]
        {
            let generator = crate::device::generate::Generator::new(network, &config, gpu)?;
            Ok(Self::with(network, config, Executor::Gpu(Box::new(generator))))
        }
        #[cfg(not(feature = "cuda"))]
        {
            let _ = (network, config, gpu);
            Err(EngineError::Gpu { reason: "this program was built without the feature `cuda`".into() })
        }
    }

    fn with(network: &Transformer<B>, mut config: EngineConfig, executor: Executor) -> Self {
        config.max_seq_len = config.max_seq_len.min(network.rope.positions);
        Self {
            config,
            executor,
            version: PolicyVersion(0),
            stop: StopRule::default(),
            waiting: VecDeque::new(),
            active: Vec::new(),
            backend: PhantomData,
        }
    }

    /// The version that the present weights are.
    pub fn set_version(&mut self, version: PolicyVersion) {
        self.version = version;
    }

    /// What else ends an answer, from the next token on.
    pub fn stop_by(&mut self, rule: StopRule) {
        self.stop = rule;
    }

    /// Queues a request; it becomes active in the first `step` with a free place, in order of arrival.
    pub fn admit(&mut self, request: Request) -> Result<()> {
        let (id, tokens, limit) = (request.id, request.prompt.len(), self.config.max_seq_len);
        let vocab = self.executor.vocab();
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
        self.executor.check(&request)?;
        self.waiting.push_back(request);
        Ok(())
    }

    /// Samples one token for every active sequence, after admitting waiting ones; returns the answers that ended, in order
    /// of their activation.
    ///
    /// # Errors
    /// `Gpu`: the engine is not to be used any more.
    pub fn step(&mut self) -> Result<Vec<Finished>> {
        self.activate()?;
        self.executor.step(&mut self.active)?;
        let (version, limit) = (self.version, self.config.max_seq_len);
        let mut finished = Vec::new();
        let mut kept = Vec::with_capacity(self.active.len());
        for mut sequence in self.active.drain(..) {
            sequence.note_version(version);
            match sequence.end(limit, &self.stop) {
                Some(finish) => {
                    self.executor.end(sequence.slot);
                    finished.push(sequence.into_finished(finish));
                }
                None => kept.push(sequence),
            }
        }
        self.active = kept;
        Ok(finished)
    }

    /// Replaces the weights between two tokens. Sequences go on with the keys and values they have; their spans record from
    /// which token on the new policy sampled.
    ///
    /// # Errors
    /// `Gpu`, as `step`.
    pub fn adopt(&mut self, network: &Transformer<B>, version: PolicyVersion) -> Result<()> {
        match &mut self.executor {
            Executor::Cpu(cpu) => cpu.adopt(network),
            #[cfg(feature = "cuda")]
            Executor::Gpu(gpu) => gpu.adopt(network)?,
        }
        self.version = version;
        Ok(())
    }

    /// Drops a sequence or a waiting request; false when it is not here (any more).
    pub fn cancel(&mut self, id: u64) -> bool {
        let before = self.active.len() + self.waiting.len();
        for gone in self.active.extract_if(.., |s| s.request.id == id) {
            self.executor.end(gone.slot);
        }
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

    /// The generator on the GPU, for measurements.
    #[cfg(feature = "cuda")]
    pub fn gpu(&self) -> Option<&crate::device::generate::Generator> {
        match &self.executor {
            Executor::Gpu(gpu) => Some(gpu),
            Executor::Cpu(_) => None,
        }
    }

    /// Fills free places, in order of arrival, as far as there is room.
    fn activate(&mut self) -> Result<()> {
        let free = self.config.max_batch.saturating_sub(self.active.len()).min(self.waiting.len());
        if free == 0 {
            return Ok(());
        }
        let slots = self.executor.begin(&self.waiting.make_contiguous()[..free])?;
        for (slot, request) in slots.iter().zip(self.waiting.drain(..slots.len())) {
            self.active.push(Sequence::new(request, *slot, self.config.max_seq_len));
        }
        Ok(())
    }
}

impl Executor {
    fn vocab(&self) -> usize {
        match self {
            Self::Cpu(cpu) => cpu.vocab(),
            #[cfg(feature = "cuda")]
            Self::Gpu(gpu) => gpu.vocab(),
        }
    }

    /// Could this request ever run?
    fn check(&self, request: &Request) -> Result<()> {
        match self {
            Self::Cpu(_) => {
                let _ = request;
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Self::Gpu(gpu) => gpu.check(request),
        }
    }

    /// Slots for as many of the first requests as there is room for.
    fn begin(&mut self, requests: &[Request]) -> Result<Vec<usize>> {
        match self {
            Self::Cpu(cpu) => Ok(cpu.begin(requests)),
            #[cfg(feature = "cuda")]
            Self::Gpu(gpu) => gpu.begin(requests),
        }
    }

    fn step(&mut self, sequences: &mut [Sequence]) -> Result<()> {
        match self {
            Self::Cpu(cpu) => cpu.step(sequences),
            #[cfg(feature = "cuda")]
            Self::Gpu(gpu) => gpu.step(sequences)?,
        }
        Ok(())
    }

    fn end(&mut self, slot: usize) {
        match self {
            Self::Cpu(cpu) => cpu.end(slot),
            #[cfg(feature = "cuda")]
            Self::Gpu(gpu) => gpu.end(slot),
        }
    }
}
