//! Sizes of a network and of what is decoded, and the memory for both.

use burn::tensor::backend::Backend;
use cudarc::driver::CudaSlice;

use super::programs::SPLIT;
use super::rows::ROW_WORDS;
use crate::device::{DeviceError, Element, Result, Runtime, Span};
use crate::network::Transformer;

/// Positions of one block of the cache.
pub const BLOCK_TOKENS: usize = 16;

/// What memory is laid out for.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Sequences of a step.
    pub rows: usize,
    /// Rows of prompts that are run together.
    pub chunk: usize,
    pub max_seq_len: usize,
    /// Blocks of the cache.
    pub blocks: usize,
    /// Lines of the block table.
    pub tables: usize,
}

/// Sizes of the network.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ff: usize,
    pub vocab: usize,
    pub eps: f64,
}

/// Intermediate results, by name.
pub struct Places {
    pub x: Span,
    pub normed: Span,
    pub qkv: Span,
    pub q: Span,
    pub mixed: Span,
    pub gate_up: Span,
    pub act: Span,
    pub logits: Span,
    pub parts: Span,
    pub best: Span,
    pub rows: Span,
    pub chunk_rows: Span,
    pub tiles: Span,
    pub pairs: Span,
    pub tables: Span,
    pub cosines: Span,
    pub sines: Span,
    pub keys: Span,
    pub values: Span,
    /// Tokens, then log-probs.
    pub sampled: Span,
}

impl Shape {
    /// # Errors
    /// `Unsupported` where a network has no layers.
    pub fn of<B: Backend>(network: &Transformer<B>) -> Result<Self> {
        let first = network.layers.first();
        let layer = first.ok_or_else(|| DeviceError::Unsupported { what: "it has no layers".into() })?;
        let [vocab, hidden] = network.embed.dims();
        Ok(Self {
            layers: network.layers.len(),
            hidden,
            heads: layer.attention.heads,
            kv_heads: layer.attention.kv_heads,
            head_dim: layer.attention.head_dim,
            ff: layer.mlp.down.weight.dims()[0],
            vocab,
            eps: network.norm.eps,
        })
    }

    pub fn q(&self) -> usize {
        self.heads * self.head_dim
    }

    pub fn qkv(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Elements of one block of one layer, of keys or of values.
    pub fn block(&self) -> usize {
        self.kv_heads * BLOCK_TOKENS * self.head_dim
    }

    /// Bytes of one block in all layers, keys and values.
    pub fn block_bytes(&self, element: Element) -> usize {
        2 * self.layers * self.block() * element.bytes()
    }

    /// Query heads of one key head that a thread block takes together.
    pub fn together(&self) -> usize {
        let group = self.heads / self.kv_heads;
        (1..=8).rev().find(|n| group.is_multiple_of(*n)).unwrap_or(1)
    }

    pub fn parts(&self) -> usize {
        self.heads / self.together()
    }
}

impl Places {
    pub fn new(
        runtime: &Runtime,
        shape: &Shape,
        sizes: &Sizes,
        element: Element,
    ) -> Result<(Self, Vec<CudaSlice<u8>>)> {
        let mut memory = Vec::new();
        let mut take = |what: &'static str, elements: usize, bytes: usize| {
            let slice = runtime.alloc(what, elements * bytes)?;
            let span = runtime.whole(&slice);
            memory.push(slice);
            Ok::<Span, DeviceError>(span)
        };
        let (wide, word) = (sizes.rows.max(sizes.chunk), element.bytes());
        let splits = sizes.rows * shape.heads * sizes.max_seq_len.div_ceil(SPLIT);
        let angles = sizes.max_seq_len * shape.head_dim / 2;
        let tables = sizes.tables * sizes.max_seq_len.div_ceil(BLOCK_TOKENS);
        let cache = shape.layers * sizes.blocks * shape.block();
        let what = "generation";
        let places = Self {
            x: take(what, wide * shape.hidden, 4)?,
            normed: take(what, wide * shape.hidden, word)?,
            qkv: take(what, wide * shape.qkv(), 4)?,
            q: take(what, wide * shape.q(), word)?,
            mixed: take(what, wide * shape.q(), word)?,
            gate_up: take(what, wide * 2 * shape.ff, 4)?,
            act: take(what, wide * shape.ff, word)?,
            logits: take("the logits of a step", sizes.rows * shape.vocab, 4)?,
            parts: take(what, splits * shape.head_dim, 4)?,
            best: take(what, splits * 2, 4)?,
            rows: take(what, sizes.rows * ROW_WORDS, 4)?,
            chunk_rows: take(what, sizes.chunk * ROW_WORDS, 4)?,
            tiles: take(what, sizes.chunk * 4, 4)?,
            pairs: take(what, sizes.rows * 2, 4)?,
            tables: take(what, tables, 4)?,
            cosines: take(what, angles, 4)?,
            sines: take(what, angles, 4)?,
            keys: take("the cache of keys", cache, word)?,
            values: take("the cache of values", cache, word)?,
            sampled: take(what, sizes.rows * 2, 4)?,
        };
        Ok((places, memory))
    }
}
