//! The network's forward pass for generation: prompts into the cache, one more token for every row, its sample.
//!
//! The cache is one piece of memory for keys and one for values, `[layer, block, key head, token, dim]`; which blocks a text
//! has, its line of the block table says. A step's rows are always as many as the batch can have (`Sizes::rows`), a prompt's as
//! many as a chunk has: products then use one algorithm each, whatever is in the batch, and the rest computes every row by itself.
//! So a row's result is the same bits whatever lies beside it, for one GPU, one cuBLASLt and one `Sizes`.
//!
//! A step is recorded once per size of the longest text (`splits`) as a CUDA graph and replayed: some 260 launches are one.
#![allow(unsafe_code)]

use std::collections::HashMap;

use burn::tensor::backend::Backend;
use cudarc::driver::{CudaGraph, CudaSlice, sys};

use super::frozen::{Frozen, FrozenLinear};
use super::layout::{BLOCK_TOKENS, Places, Shape, Sizes};
use super::programs::{Kernels, SPLIT};
use super::rows::{Chunk, NO_ROW, Row};
use crate::device::program::Arg;
use crate::device::{DeviceError, Element, Factor, Product, Result, Runtime, Span, driver};
use crate::host::kernels::angles;
use crate::network::Transformer;

const F32: Element = Element::F32 { tf32: false };

/// A step as CUDA keeps it.
struct Recorded(CudaGraph);

// SAFETY: a graph may be used by any thread, by one at a time: it is launched and dropped through `&mut Decoder` alone, and every
// call makes the context current.
unsafe impl Send for Recorded {}

pub struct Decoder {
    // Before the memory that they use.
    graphs: HashMap<usize, Recorded>,
    runtime: Runtime,
    weights: Frozen,
    shape: Shape,
    sizes: Sizes,
    kernels: Kernels,
    at: Places,
    _memory: Vec<CudaSlice<u8>>,
}

impl Decoder {
    /// Takes the memory, compiles the kernels, copies the weights and runs one empty step, so that no later one waits for any of that.
    pub fn new<B: Backend>(
        runtime: Runtime,
        network: &Transformer<B>,
        shape: Shape,
        sizes: Sizes,
        element: Element,
    ) -> Result<Self> {
        let weights = Frozen::new(&runtime, network, element)?;
        let kernels = Kernels::load(&runtime, &shape, &sizes, element)?;
        let (at, memory) = Places::new(&runtime, &shape, &sizes, element)?;
        runtime.zero(at.tables)?;
        let positions: Vec<u32> = (0..sizes.max_seq_len as u32).collect();
        let (mut cosines, mut sines) = (Vec::new(), Vec::new());
        angles(&positions, &network.rope.frequencies, network.rope.scale, &mut cosines, &mut sines);
        runtime.upload(&cosines, at.cosines)?;
        runtime.upload(&sines, at.sines)?;
        let decoder = Self { graphs: HashMap::new(), runtime, weights, shape, sizes, kernels, at, _memory: memory };
        decoder.adopt(network)?;
        decoder.runtime.upload(&vec![NO_ROW; sizes.rows], decoder.at.rows)?;
        decoder.submit(decoder.max_splits().min(2))?;
        decoder.runtime.synchronize()?;
        Ok(decoder)
    }

    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    pub fn weights(&self) -> &Frozen {
        &self.weights
    }

    /// Puts a text's blocks into a line of the table.
    pub fn set_table(&self, line: usize, blocks: &[u32]) -> Result<()> {
        let width = self.sizes.max_seq_len.div_ceil(BLOCK_TOKENS);
        assert!(blocks.len() <= width && line < self.sizes.tables, "line {line} of {} blocks", blocks.len());
        self.runtime.upload(blocks, self.at.tables.part(line * width * 4, blocks.len() * 4))
    }

    /// Copies whole blocks, `(from, to)`, in all layers.
    pub fn copy_blocks(&self, pairs: &[(u32, u32)]) -> Result<()> {
        for some in pairs.chunks(self.sizes.rows) {
            let words: Vec<[u32; 2]> = some.iter().map(|(from, to)| [*from, *to]).collect();
            self.runtime.upload(&words, self.at.pairs)?;
            let arena = Arg::I64((self.sizes.blocks * self.shape.block()) as i64);
            let args = [self.at.keys.into(), self.at.values.into(), self.at.pairs.into(), arena];
            // SAFETY: as `copy_blocks` in decode.cu; blocks come from the bookkeeping of this cache.
            unsafe { self.kernels.copy.launch(&self.runtime, [self.shape.layers, some.len(), 1], 256, 0, &args)? };
        }
        Ok(())
    }

    /// Runs rows of prompts: their keys and values are in the cache afterwards.
    pub fn prefill(&self, chunk: &Chunk) -> Result<()> {
        let mut words = vec![NO_ROW; self.sizes.chunk];
        assert!(chunk.rows.len() <= words.len(), "{} rows in a chunk of {}", chunk.rows.len(), words.len());
        for (line, row) in words.iter_mut().zip(&chunk.rows) {
            *line = row.words();
        }
        let tiles: Vec<[u32; 4]> = chunk.tiles.iter().map(super::rows::Tile::words).collect();
        self.runtime.upload(&words, self.at.chunk_rows)?;
        self.runtime.upload(&tiles, self.at.tiles)?;
        self.layers(self.at.chunk_rows, self.sizes.chunk, Attend::Prompt { tiles: tiles.len() })
    }

    /// Rows of a tile of a prompt.
    pub fn tile_rows(&self) -> usize {
        self.kernels.prompt.rows(&self.shape)
    }

    /// One token for every row (at most `Sizes::rows`; none: nothing there): its id and its log-prob.
    pub fn step(&mut self, rows: &[Option<Row>]) -> Result<Vec<(u32, f32)>> {
        let mut words = vec![NO_ROW; self.sizes.rows];
        assert!(rows.len() <= words.len(), "{} rows in a batch of {}", rows.len(), words.len());
        let mut longest = 1;
        for (line, row) in words.iter_mut().zip(rows) {
            if let Some(row) = row {
                *line = row.words();
                longest = longest.max(row.position as usize + 1);
            }
        }
        self.runtime.upload(&words, self.at.rows)?;
        let splits = longest.div_ceil(SPLIT).next_power_of_two().min(self.max_splits());
        self.replay(splits)?;
        let sampled: Vec<u32> = self.runtime.download(self.at.sampled, 2 * self.sizes.rows)?;
        let (tokens, log_probs) = sampled.split_at(self.sizes.rows);
        Ok(tokens.iter().copied().zip(log_probs.iter().map(|bits| f32::from_bits(*bits))).collect())
    }

    /// Replaces the weights, in the memory that the recorded steps use.
    pub fn adopt<B: Backend>(&self, network: &Transformer<B>) -> Result<()> {
        self.weights.fill(&self.runtime, network, &|from, to, elements, matrix| {
            let factor = Arg::I32(i32::from(matrix && self.weights.element == Element::Bf16));
            let args = [from.into(), to.into(), Arg::I64(elements as i64), factor];
            // SAFETY: as `take_parameter` in decode.cu; both hold `elements` (checked by `fill`), and `fill` waits for it.
            unsafe { self.kernels.take.launch(&self.runtime, [elements.div_ceil(1024).min(8192), 1, 1], 256, 0, &args) }
        })
    }

    fn max_splits(&self) -> usize {
        self.sizes.max_seq_len.div_ceil(SPLIT)
    }

    /// The step, recorded where it is the first of its size.
    fn replay(&mut self, splits: usize) -> Result<()> {
        if let Some(graph) = self.graphs.get(&splits) {
            return graph.0.launch().map_err(driver("replay a step"));
        }
        let stream = self.runtime.stream().clone();
        // Other threads of the process may allocate meanwhile.
        stream
            .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)
            .map_err(driver("record a step"))?;
        let submitted = self.submit(splits);
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0)).map_err(driver("record a step"));
        submitted?;
        let graph = graph?.ok_or(DeviceError::Unsupported { what: "a recorded step is empty".into() })?;
        graph.launch().map_err(driver("replay a step"))?;
        self.graphs.insert(splits, Recorded(graph));
        Ok(())
    }

    /// The whole step for the rows on the device.
    fn submit(&self, splits: usize) -> Result<()> {
        let (at, rows, runtime) = (&self.at, self.sizes.rows, &self.runtime);
        self.layers(at.rows, rows, Attend::Steps { splits })?;
        let (embed, head) = (self.weights.embed, self.weights.head);
        let size = [rows, self.shape.hidden, self.shape.vocab];
        let head = head.map_or(Factor::t(embed, self.shape.hidden), |head| Factor::new(head, self.shape.vocab));
        let lhs = Factor::new(at.normed, self.shape.hidden);
        runtime.multiply(&Product { result: F32, ..Product::new(size, self.weights.element, lhs, head, at.logits) })?;
        let log_probs = at.sampled.part(rows * 4, rows * 4);
        let args = [at.rows.into(), at.logits.into(), at.sampled.into(), log_probs.into()];
        // SAFETY: as `sample_rows` in sample.cu, for as many rows as the buffers have.
        unsafe { self.kernels.sample.launch(runtime, [rows, 1, 1], 1024, 0, &args) }
    }

    /// All layers of `count` rows, from their tokens to the final norm; of a prompt, only as far as the cache needs.
    fn layers(&self, rows: Span, count: usize, attend: Attend) -> Result<()> {
        let (shape, at, weights, kernels) = (&self.shape, &self.at, &self.weights, &self.kernels);
        let runtime = &self.runtime;
        let grid = [count, 1, 1];
        let norm = |bias: Span, weight: Span| {
            // SAFETY: as `add_norm` in decode.cu; all buffers have `count` rows.
            let args = [at.x.into(), bias.into(), weight.into(), at.normed.into()];
            unsafe { kernels.norm.launch(runtime, grid, 256, 0, &args) }
        };
        let linear = |x: Span, linear: &FrozenLinear, [width, out]: [usize; 2], y: Span, keep: f32| {
            let (lhs, rhs) = (Factor::new(x, width), Factor::new(linear.weight, out));
            let product = Product::new([count, width, out], weights.element, lhs, rhs, y);
            runtime.multiply(&Product { result: F32, keep, ..product })
        };
        // SAFETY: as `embed_rows`; tokens are of the vocabulary (the engine checks them).
        unsafe { kernels.embed.launch(runtime, grid, 256, 0, &[rows.into(), weights.embed.into(), at.x.into()])? };
        let mut bias = Span::NONE;
        let layer_bytes = self.sizes.blocks * shape.block() * weights.element.bytes();
        for (index, layer) in weights.layers.iter().enumerate() {
            norm(bias, layer.attention_norm)?;
            linear(at.normed, &layer.qkv, [shape.hidden, shape.qkv()], at.qkv, 0.0)?;
            let cache = [at.keys, at.values].map(|all| all.part(index * layer_bytes, layer_bytes));
            let heads = (shape.heads + 2 * shape.kv_heads).div_ceil(4);
            let args: [Arg; 11] = [
                rows,
                at.qkv,
                layer.qkv.bias,
                layer.q_norm,
                layer.k_norm,
                at.cosines,
                at.sines,
                at.q,
                cache[0],
                cache[1],
                at.tables,
            ]
            .map(Arg::from);
            // SAFETY: as `queries_keys_values`; positions and tables are those of the bookkeeping.
            unsafe { kernels.rotate.launch(runtime, [count, heads, 1], 128, 0, &args)? };
            if matches!(attend, Attend::Prompt { .. }) && index + 1 == shape.layers {
                return Ok(());
            }
            self.attention(rows, cache, attend)?;
            linear(at.mixed, &layer.output, [shape.q(), shape.hidden], at.x, 1.0)?;
            norm(layer.output.bias, layer.mlp_norm)?;
            linear(at.normed, &layer.gate_up, [shape.hidden, 2 * shape.ff], at.gate_up, 0.0)?;
            let args = [at.gate_up.into(), layer.gate_up.bias.into(), at.act.into()];
            // SAFETY: as `swiglu`.
            unsafe { kernels.swiglu.launch(runtime, [shape.ff.div_ceil(256), count, 1], 256, 0, &args)? };
            linear(at.act, &layer.down, [shape.ff, shape.hidden], at.x, 1.0)?;
            bias = layer.down.bias;
        }
        norm(bias, weights.norm)
    }

    fn attention(&self, rows: Span, [keys, values]: [Span; 2], attend: Attend) -> Result<()> {
        let (shape, at, runtime) = (&self.shape, &self.at, &self.runtime);
        match attend {
            Attend::Prompt { tiles } => {
                let args = [at.tiles, at.q, keys, values, at.tables, at.mixed].map(Arg::from);
                let (kernel, heads, shared) = self.kernels.prompt.launch(shape);
                // SAFETY: as `prompt_attention` and `prompt_attention_mma`; tiles are of the rows at hand and no longer than the
                // kernel's, and their positions lie in their tables' blocks.
                unsafe { kernel.launch(runtime, [tiles, heads, 1], 128, shared, &args) }
            }
            Attend::Steps { splits } => {
                let args = [rows, at.q, keys, values, at.tables, at.parts, at.best, at.mixed].map(Arg::from);
                // SAFETY: as `decode_attention`; `splits` are enough for the longest row and no more than the buffers have.
                unsafe {
                    self.kernels.decode.launch(runtime, [splits, shape.parts(), self.sizes.rows], 128, 0, &args)?
                };
                if splits == 1 {
                    return Ok(());
                }
                let args = [rows.into(), at.parts.into(), at.best.into(), at.mixed.into(), splits.into()];
                // SAFETY: as `combine_splits`, after the kernel that wrote the parts.
                unsafe { self.kernels.combine.launch(runtime, [shape.heads, self.sizes.rows, 1], 128, 0, &args) }
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Attend {
    Prompt { tiles: usize },
    Steps { splits: usize },
}
