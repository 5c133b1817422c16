//! The GPU executor: its memory, the weights it computes with, and what a pass needs on the device.
//!
//! Types: the residual stream, statistics, log-probs and gradients of parameters are fp32; everything between is in elements
//! (bf16, or fp32 for parity), with fp32 sums inside every product.

use super::adapters::{AdapterScratch, Merge};
use super::attention::{Attention, Scene};
use super::kernels::{Angles, Kernels, QkNorm};
use super::source::Source;
use super::update::Updates;
use super::weights::LinearAt;
use super::{Buffer, Element, Factor, Product, Result, Runtime, Span};
use crate::host::Dims;
use crate::host::kernels::angles;
use crate::packing::Packed;

/// fp32 without shortcuts: parity, not speed.
pub const F32: Element = Element::F32 { tf32: false };

/// How the executor computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `Bf16`, or `F32`.
    pub element: Element,
    /// Keep only each layer's input and compute the layer again in the backward pass: a third more work, a tenth of the memory.
    pub recompute: bool,
    /// Attention without tensor cores, whatever the shape.
    pub plain_attention: bool,
    /// bf16 weights are made of the masters a layer at a time, whenever one is used, and not kept: two bytes a parameter less.
    pub fresh_weights: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { element: Element::Bf16, recompute: false, plain_attention: false, fresh_weights: false }
    }
}

/// What a layer leaves for its backward pass; shapes by row.
#[derive(Default)]
pub(super) struct LayerTape {
    inv_1: Buffer,
    raw: Buffer,
    inv_qk: Buffer,
    lse: Buffer,
    mixed: Buffer,
    x_mid: Buffer,
    inv_2: Buffer,
    gate_up: Buffer,
}

/// [`LayerTape`]'s memory for a pass.
#[derive(Clone, Copy)]
pub(super) struct TapeAt {
    /// Residual stream on entry, `hidden` fp32.
    pub x: Span,
    /// 1, fp32.
    pub inv_1: Span,
    /// Queries, keys and values before norm and rotation, `qkv`.
    pub raw: Span,
    /// `heads + kv_heads`, fp32.
    pub inv_qk: Span,
    /// `heads`, fp32 (lies `[heads, rows]`).
    pub lse: Span,
    /// Attention's output, `q`.
    pub mixed: Span,
    /// Residual stream between attention and MLP, `hidden` fp32.
    pub x_mid: Span,
    pub inv_2: Span,
    /// `2 ff`.
    pub gate_up: Span,
}

/// Buffers that every layer uses anew.
#[derive(Default)]
pub(super) struct Scratch {
    pub normed: Buffer,
    pub qk: Buffer,
    pub act: Buffer,
    pub delta: Buffer,
    pub dx: Buffer,
    pub dx_t: Buffer,
    pub d_normed: Buffer,
    pub d_mixed: Buffer,
    pub d_qkv: Buffer,
    pub means: Buffer,
    pub partial: Buffer,
}

/// A pass's rows on the device.
#[derive(Default)]
struct RowsTable {
    tokens: Buffer,
    positions: Buffer,
    segments: Buffer,
    segment_of: Buffer,
    query_tiles: Buffer,
    key_tiles: Buffer,
    cos: Buffer,
    sin: Buffer,
    /// Positions that `cos` and `sin` hold.
    angles: usize,
}

/// [`RowsTable`]'s memory for a pass.
#[derive(Clone, Copy)]
pub(super) struct RowsAt {
    pub count: usize,
    pub tokens: Span,
    pub angles: Angles,
    pub scene: Scene,
}

/// The network on one GPU.
pub struct Executor {
    pub(super) rt: Runtime,
    pub(super) dims: Dims,
    pub(super) options: Options,
    pub(super) kernels: Kernels,
    pub(super) attention: Attention,
    pub(super) updates: Updates,
    pub(super) copies: Buffer,
    pub(super) fresh: Buffer,
    pub(super) source: Option<Source>,
    pub(super) qk_norm: bool,
    pub(super) merge: Option<Merge>,
    pub(super) adapter_scratch: AdapterScratch,
    pub(super) adapter_scale: f32,
    table: RowsTable,
    xs: Vec<Buffer>,
    tapes: Vec<LayerTape>,
    pub(super) scratch: Scratch,
    pub(super) head: super::head::HeadBuffers,
    inv: Buffer,
    hidden: Buffer,
    pub(super) pass: Option<RowsAt>,
}

impl Executor {
    /// Compiles (or finds) the kernels for a network of these sizes.
    pub fn new(rt: Runtime, dims: Dims, qk_norm: bool, options: Options) -> Result<Self> {
        let kernels = Kernels::load(&rt, &dims, qk_norm, options.element)?;
        let attention = Attention::load(&rt, &dims, qk_norm, options.element, options.plain_attention)?;
        let updates = Updates::load(&rt)?;
        Ok(Self {
            rt,
            dims,
            options,
            kernels,
            attention,
            updates,
            copies: Buffer::default(),
            fresh: Buffer::default(),
            source: None,
            qk_norm,
            merge: None,
            adapter_scratch: AdapterScratch::default(),
            adapter_scale: 0.0,
            table: RowsTable::default(),
            xs: Vec::new(),
            tapes: Vec::new(),
            scratch: Scratch::default(),
            head: Default::default(),
            inv: Buffer::default(),
            hidden: Buffer::default(),
            pass: None,
        })
    }

    pub fn runtime(&self) -> &Runtime {
        &self.rt
    }

    pub fn updates(&mut self) -> (&Runtime, &mut Updates) {
        (&self.rt, &mut self.updates)
    }

    pub fn options(&self) -> Options {
        self.options
    }

    /// Whether any kernel had to be compiled: nothing fitting was on the disk.
    pub fn compiled(&self) -> bool {
        self.kernels.compiled || self.attention.compiled
    }

    /// Bytes of the buffers that a pass needs: what `budget` calls activations, logits, copies and partial sums.
    pub fn held(&self) -> usize {
        let s = &self.scratch;
        let scratch = [
            &s.normed,
            &s.qk,
            &s.act,
            &s.delta,
            &s.dx,
            &s.dx_t,
            &s.d_normed,
            &s.d_mixed,
            &s.d_qkv,
            &s.means,
            &s.partial,
        ];
        let tape = |t: &LayerTape| {
            let all = [&t.inv_1, &t.raw, &t.inv_qk, &t.lse, &t.mixed, &t.x_mid, &t.inv_2, &t.gate_up];
            all.iter().map(|b| b.held()).sum::<usize>()
        };
        let own = [&self.copies, &self.fresh, &self.inv, &self.hidden];
        let buffers = scratch.iter().chain(&own).map(|b| b.held()).chain(self.xs.iter().map(Buffer::held));
        buffers.sum::<usize>() + self.tapes.iter().map(tape).sum::<usize>() + self.head.held()
    }

    /// Sends a pass's rows to the device.
    pub(super) fn place_rows(&mut self, packed: &Packed) -> Result<RowsAt> {
        let (rt, t, count) = (&self.rt, &mut self.table, packed.rows());
        let furthest = packed.positions.iter().max().map_or(0, |p| *p as usize + 1);
        let half = self.dims.frequencies.len();
        if t.angles < furthest {
            // Twice as many as asked for: longer passes will come.
            let wanted = (2 * furthest).max(1024);
            let (mut cos, mut sin) = (Vec::new(), Vec::new());
            let all: Vec<u32> = (0..wanted as u32).collect();
            angles(&all, &self.dims.frequencies, self.dims.rope_scale, &mut cos, &mut sin);
            for (buffer, values) in [(&mut t.cos, &cos), (&mut t.sin, &sin)] {
                rt.upload(values, buffer.span(rt, "cosines and sines", wanted * half * 4)?)?;
            }
            t.angles = wanted;
        }
        let positions: Vec<i32> = packed.positions.iter().map(|p| *p as i32).collect();
        let tiles = packed.query_tiles.len();
        let at = RowsAt {
            count,
            tokens: send(rt, &mut t.tokens, &packed.tokens)?,
            angles: Angles {
                positions: send(rt, &mut t.positions, &positions)?,
                cos: t.cos.span(rt, "cosines", t.angles * half * 4)?,
                sin: t.sin.span(rt, "sines", t.angles * half * 4)?,
                count: t.angles,
            },
            scene: Scene {
                qk: self.scratch.qk.span(
                    rt,
                    "queries and keys",
                    count * (self.dims.q() + self.dims.kv()) * self.kernels.size(),
                )?,
                raw: Span::NONE,
                segments: send(rt, &mut t.segments, packed.segments.as_flattened())?,
                segment_of: send(rt, &mut t.segment_of, &packed.segment_of)?,
                query_tiles: send(rt, &mut t.query_tiles, packed.query_tiles.as_flattened())?,
                key_tiles: send(rt, &mut t.key_tiles, packed.key_tiles.as_flattened())?,
                tiles,
                rows: count,
            },
        };
        self.pass = Some(at);
        Ok(at)
    }

    /// Layer `index`'s tape for `rows`; all layers share one with `recompute`.
    pub(super) fn tape(&mut self, index: usize, rows: usize) -> Result<TapeAt> {
        let x = self.x(index, rows)?;
        let slot = if self.options.recompute { 0 } else { index };
        if self.tapes.len() <= slot {
            self.tapes.resize_with(slot + 1, LayerTape::default);
        }
        let (rt, t, d, e) = (&self.rt, &mut self.tapes[slot], &self.dims, self.kernels.size());
        Ok(TapeAt {
            x,
            inv_1: t.inv_1.span(rt, "a norm's factors", rows * 4)?,
            raw: t.raw.span(rt, "queries, keys and values", rows * d.qkv() * e)?,
            inv_qk: t.inv_qk.span(rt, "factors of queries and keys", rows * (d.heads + d.kv_heads) * 4)?,
            lse: t.lse.span(rt, "attention's sums", rows * d.heads * 4)?,
            mixed: t.mixed.span(rt, "attention's output", rows * d.q() * e)?,
            x_mid: t.x_mid.span(rt, "the residual stream", rows * d.hidden * 4)?,
            inv_2: t.inv_2.span(rt, "a norm's factors", rows * 4)?,
            gate_up: t.gate_up.span(rt, "gate and up", rows * 2 * d.ff * e)?,
        })
    }

    /// The residual stream before layer `index`; after the last for `index = layers`.
    pub(super) fn x(&mut self, index: usize, rows: usize) -> Result<Span> {
        if self.xs.len() <= index {
            self.xs.resize_with(index + 1, Buffer::default);
        }
        self.xs[index].span(&self.rt, "the residual stream", rows * self.dims.hidden * 4)
    }

    /// The final norm's factors, and the hidden states after it.
    pub(super) fn last(&mut self, rows: usize) -> Result<(Span, Span)> {
        let hidden = self.hidden.span(&self.rt, "hidden states", rows * self.dims.hidden * self.kernels.size())?;
        Ok((self.inv.span(&self.rt, "a norm's factors", rows * 4)?, hidden))
    }

    /// `out = x W + b` for `rows` rows.
    pub(super) fn linear(
        &self,
        x: Span,
        w: LinearAt,
        out: Span,
        rows: usize,
        [inner, outer]: [usize; 2],
    ) -> Result<()> {
        let (x, weight) = (Factor::new(x, inner), Factor::new(w.weight, outer));
        self.rt.multiply(&Product::new([rows, inner, outer], self.kernels.element, x, weight, out))?;
        match w.bias {
            Some(bias) => self.kernels.add_bias(&self.rt, out, bias, rows, outer),
            None => Ok(()),
        }
    }

    /// `dx = dy W^T`.
    pub(super) fn linear_input(
        &self,
        dy: Span,
        w: LinearAt,
        dx: Span,
        rows: usize,
        [inner, outer]: [usize; 2],
    ) -> Result<()> {
        let (dy, weight) = (Factor::new(dy, outer), Factor::t(w.weight, outer));
        self.rt.multiply(&Product::new([rows, outer, inner], self.kernels.element, dy, weight, dx))
    }

    /// `dW = x^T dy` (or `+=` with `add`) and `db += sum dy`, fp32.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn linear_weight(
        &self,
        x: Span,
        dy: Span,
        grad: LinearAt,
        add: bool,
        partial: Span,
        rows: usize,
        [inner, outer]: [usize; 2],
    ) -> Result<()> {
        let (left, right) = (Factor::t(x, inner), Factor::new(dy, outer));
        let product = Product::new([inner, rows, outer], self.kernels.element, left, right, grad.weight);
        self.rt.multiply(&Product { result: F32, keep: if add { 1.0 } else { 0.0 }, ..product })?;
        match grad.bias {
            Some(bias) => self.kernels.column_sums(&self.rt, dy, None, bias, partial, rows, outer),
            None => Ok(()),
        }
    }
}

pub(super) fn qk_norm(q: Option<Span>, k: Option<Span>) -> QkNorm {
    QkNorm { q: q.unwrap_or(Span::NONE), k: k.unwrap_or(Span::NONE) }
}

/// Numbers to a buffer of their size.
pub(super) fn send<T: cudarc::driver::DeviceRepr>(rt: &Runtime, buffer: &mut Buffer, values: &[T]) -> Result<Span> {
    let span = buffer.span(rt, "numbers of a pass", size_of_val(values).max(1))?;
    rt.upload(values, span)?;
    Ok(span)
}
