//! The engine's work on a GPU: which sequence has which row and which blocks, what is run when.
//!
//! **What can be repeated.** Random numbers, filters and sums of probabilities are those of `sampling`, drawn on the device
//! (`sample.cu`). The logits under them are products of bf16 with sums in fp32, so they differ from the CPU's, and a draw that
//! falls near a boundary can differ with them. On one kind of GPU with one cuBLASLt, what a sequence samples depends on (weights,
//! prompt, seed) and on `max_batch` (it sizes the products) only: not on its neighbours, its row, when it joined, or whether its prompt
//! was run for it or for another. Another `max_batch`, GPU or library may round otherwise.
//!
//! **Room.** Blocks of the cache are reserved for a sequence's whole length when it begins (`blocks`): it never waits and is never
//! thrown out. Requests wait for room in order.
//!
//! A prompt's last token is not run with the rest but as the sequence's first step: the samples of one prompt share all the rest.

pub mod bandwidth;
mod decoder;
pub mod frozen;
mod layout;
mod programs;
mod rows;

use burn::tensor::backend::Backend;

use super::{DeviceError, Element, Runtime};
use crate::engine::blocks::{Blocks, Lease};
use crate::engine::{EngineConfig, EngineError, GpuConfig, Request, Sequence};
use crate::network::Transformer;
use decoder::Decoder;
use layout::{BLOCK_TOKENS, Shape, Sizes};
use rows::{Fill, Row, chunks};

type Result<T> = std::result::Result<T, EngineError>;

/// Rows of prompts that are run together: enough to fill the GPU.
const CHUNK: usize = 1024;

pub struct Generator {
    decoder: Decoder,
    blocks: Blocks,
    /// By row of a step.
    leases: Vec<Option<Lease>>,
    max_seq_len: usize,
}

impl Generator {
    /// Takes the GPU's memory for weights, cache and intermediate results.
    ///
    /// # Errors
    /// `Gpu`: no GPU or library, or not enough memory.
    pub fn new<B: Backend>(network: &Transformer<B>, config: &EngineConfig, gpu: &GpuConfig) -> Result<Self> {
        let element = if gpu.single_precision { Element::F32 { tf32: false } } else { Element::Bf16 };
        let mut runtime = Runtime::new(gpu.ordinal)?;
        if gpu.wait_s > 0 {
            runtime = runtime.with_limit(std::time::Duration::from_secs(gpu.wait_s));
        }
        let shape = Shape::of(network)?;
        let max_seq_len = config.max_seq_len.min(network.rope.positions);
        let rows = config.max_batch.max(1);
        let wanted = rows * (max_seq_len.div_ceil(BLOCK_TOKENS) + 1);
        let (free, _) = runtime.memory()?;
        let bytes = shape.block_bytes(element);
        let limit = if gpu.cache_bytes == 0 { free / 2 } else { gpu.cache_bytes };
        let blocks = wanted.min(limit / bytes);
        if blocks == 0 {
            return Err(DeviceError::Memory { what: "one block of the cache", needed: bytes, free: limit }.into());
        }
        let chunk = CHUNK.min((rows * max_seq_len).next_multiple_of(64));
        // A line for each running sequence, and one for each prompt that is being run.
        let sizes = Sizes { rows, chunk, max_seq_len, blocks, tables: 2 * rows };
        let decoder = Decoder::new(runtime, network, shape, sizes, element)?;
        let leases = (0..config.max_batch).map(|_| None).collect();
        Ok(Self { decoder, blocks: Blocks::new(blocks, BLOCK_TOKENS), leases, max_seq_len })
    }

    pub fn vocab(&self) -> usize {
        self.decoder.shape().vocab
    }

    /// Bytes of all parameters: what every step reads.
    pub fn weight_bytes(&self) -> usize {
        self.decoder.weights().bytes()
    }

    /// Bytes of one position of one text in the cache, all layers.
    pub fn position_bytes(&self) -> usize {
        self.decoder.shape().block_bytes(self.decoder.weights().element) / BLOCK_TOKENS
    }

    /// Blocks of the cache, all and free.
    pub fn blocks(&self) -> (usize, usize) {
        (self.blocks.total(), self.blocks.free())
    }

    pub fn runtime(&self) -> &Runtime {
        self.decoder.runtime()
    }

    /// # Errors
    /// `TooLarge`.
    pub(crate) fn check(&self, request: &Request) -> Result<()> {
        let needed = self.blocks.needed(request.prompt.len() - 1, request.positions(self.max_seq_len));
        let limit = self.blocks.total();
        if needed > limit {
            return Err(EngineError::TooLarge { id: request.id, blocks: needed, limit });
        }
        Ok(())
    }

    /// Reserves room for as many of the first requests as there is, and runs the prompts that are not in the cache.
    pub(crate) fn begin(&mut self, requests: &[Request]) -> Result<Vec<usize>> {
        let mut slots = Vec::new();
        let mut fills: Vec<Fill> = Vec::new();
        let mut copies = Vec::new();
        for request in requests {
            let Some(slot) = self.leases.iter().position(Option::is_none) else { break };
            let filled = &request.prompt[..request.prompt.len() - 1];
            let Some(begun) = self.blocks.begin(filled, request.positions(self.max_seq_len)) else { break };
            self.decoder.set_table(slot, begun.lease.table())?;
            if let Some(blocks) = begun.fill {
                let table = self.leases.len() + fills.len();
                self.decoder.set_table(table, &blocks)?;
                fills.push(Fill { tokens: filled, table });
            }
            copies.extend(begun.copy);
            self.leases[slot] = Some(begun.lease);
            slots.push(slot);
        }
        for chunk in chunks(&fills, self.decoder.sizes().chunk, self.decoder.tile_rows()) {
            self.decoder.prefill(&chunk)?;
        }
        self.decoder.copy_blocks(&copies)?;
        Ok(slots)
    }

    /// One token for every sequence.
    pub(crate) fn step(&mut self, sequences: &mut [Sequence]) -> Result<()> {
        if sequences.is_empty() {
            return Ok(());
        }
        let mut rows = vec![None; self.leases.len()];
        for sequence in sequences.iter_mut() {
            let sampling = sequence.request.sampling;
            let uniform = if sampling.temperature > 0.0 { sequence.rng.uniform() } else { 0.0 };
            let prompt = &sequence.request.prompt;
            let last = sequence.tokens.last().or(prompt.last()).copied();
            let position = (prompt.len() + sequence.tokens.len() - 1) as u32;
            rows[sequence.slot] =
                Some(Row { token: last.unwrap_or_default(), position, table: sequence.slot, sampling, uniform });
        }
        let sampled = self.decoder.step(&rows)?;
        for sequence in sequences {
            let (token, logprob) = sampled[sequence.slot];
            sequence.push(token, logprob);
        }
        Ok(())
    }

    pub(crate) fn end(&mut self, slot: usize) {
        if let Some(lease) = self.leases.get_mut(slot).and_then(Option::take) {
            self.blocks.end(lease);
        }
    }

    pub(crate) fn adopt<B: Backend>(&mut self, network: &Transformer<B>) -> Result<()> {
        self.decoder.adopt(network)?;
        self.blocks.forget();
        Ok(())
    }
}
