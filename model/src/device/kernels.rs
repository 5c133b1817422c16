//! The network's own kernels (`cuda/*.cu`), compiled for one shape and type: one method a kernel, which checks that all memory is
//! as large as the kernel will use.
#![allow(unsafe_code)]

use super::program::Arg;
use super::{DeviceError, Element, Kernel, Program, Result, Runtime, Span};
use crate::host::Dims;

const COMMON: &str = include_str!("cuda/common.cu");
const ROWS: &str = include_str!("cuda/rows.cu");
const HEAD: &str = include_str!("cuda/head.cu");

/// Threads of the kernels that take a row a block.
const BLOCK: usize = 256;
/// Blocks that share a sum over rows; partial sums are added in their order.
const SPLITS: usize = 32;
/// Blocks of `rotate_backward`.
const ROTATE_BLOCKS: usize = 264;

/// The layers' kernels.
pub struct Kernels {
    /// Whether the compiler had to run.
    pub compiled: bool,
    pub element: Element,
    dims: Dims,
    embed: Kernel,
    add_norm: Kernel,
    norm_again: Kernel,
    norm_backward: Kernel,
    column_sums: Kernel,
    add_partials: Kernel,
    add_bias: Kernel,
    rotate: Kernel,
    rotate_backward: Kernel,
    swiglu: Kernel,
    swiglu_backward: Kernel,
    gather: Kernel,
    collect: Kernel,
    embed_backward: Kernel,
    score: Kernel,
    score_backward: Kernel,
}

/// Where rows stand: a position each (`i32`, below `count`), cosines and sines of all positions, `[count, head_dim / 2]` fp32.
#[derive(Clone, Copy)]
pub struct Angles {
    pub positions: Span,
    pub cos: Span,
    pub sin: Span,
    pub count: usize,
}

/// The norms of a layer's queries and keys, fp32; both `Span::NONE` where there are none.
#[derive(Clone, Copy)]
pub struct QkNorm {
    pub q: Span,
    pub k: Span,
}

/// The defines of `cuda/common.cu`.
pub fn defines(dims: &Dims, qk_norm: bool, element: Element) -> Vec<(&'static str, String)> {
    let bf16 = element == Element::Bf16;
    [
        ("BF16", usize::from(bf16)),
        ("HIDDEN", dims.hidden),
        ("FF", dims.ff),
        ("HEADS", dims.heads),
        ("KV_HEADS", dims.kv_heads),
        ("HEAD_DIM", dims.head_dim),
        ("VOCAB", dims.vocab),
        ("QK_NORM", usize::from(qk_norm)),
    ]
    .into_iter()
    .map(|(name, value)| (name, value.to_string()))
    .collect()
}

pub fn source(parts: &[&str]) -> String {
    std::iter::once(COMMON).chain(parts.iter().copied()).collect::<Vec<_>>().join("\n")
}

/// An error where a buffer is smaller than a kernel will use.
pub fn need(what: &'static str, span: Span, expected: usize) -> Result<()> {
    if span.bytes >= expected { Ok(()) } else { Err(DeviceError::Extent { what, found: span.bytes, expected }) }
}

impl Kernels {
    pub fn load(runtime: &Runtime, dims: &Dims, qk_norm: bool, element: Element) -> Result<Self> {
        if !matches!(element, Element::Bf16 | Element::F32 { .. }) {
            return Err(DeviceError::Unsupported { what: format!("elements of type {element:?}") });
        }
        if dims.head_dim > 256 || !dims.head_dim.is_multiple_of(2) || !dims.heads.is_multiple_of(dims.kv_heads) {
            let what = format!("{} heads of {} for {} of keys", dims.heads, dims.head_dim, dims.kv_heads);
            return Err(DeviceError::Unsupported { what });
        }
        let program = Program::load(runtime, "rows", &source(&[ROWS, HEAD]), &defines(dims, qk_norm, element))?;
        let kernel = |name: &str| program.kernel(name);
        Ok(Self {
            compiled: program.compiled,
            element,
            dims: dims.clone(),
            embed: kernel("embed")?,
            add_norm: kernel("add_norm")?,
            norm_again: kernel("norm_again")?,
            norm_backward: kernel("norm_backward")?,
            column_sums: kernel("column_sums")?,
            add_partials: kernel("add_partials")?,
            add_bias: kernel("add_bias")?,
            rotate: kernel("rotate")?,
            rotate_backward: kernel("rotate_backward")?,
            swiglu: kernel("swiglu")?,
            swiglu_backward: kernel("swiglu_backward")?,
            gather: kernel("gather")?,
            collect: kernel("collect")?,
            embed_backward: kernel("embed_backward")?,
            score: kernel("score")?,
            score_backward: kernel("score_backward")?,
        })
    }

    /// Bytes of an element.
    pub fn size(&self) -> usize {
        self.element.bytes()
    }

    /// Bytes that `column_sums` and `rotate_backward` need for their partial sums over rows of at most `widest` columns.
    pub fn partial_bytes(&self, widest: usize) -> usize {
        4 * (SPLITS * widest).max(ROTATE_BLOCKS * 2 * self.dims.head_dim)
    }

    /// `x[r] = table[tokens[r]]`: fp32 rows from elements. The caller has checked that tokens are in the vocabulary.
    pub fn embed(&self, rt: &Runtime, table: Span, tokens: Span, x: Span, rows: usize) -> Result<()> {
        let d = self.dims.hidden;
        need("the embedding", table, self.dims.vocab * d * self.size())?;
        need("tokens", tokens, rows * 4)?;
        need("rows", x, rows * d * 4)?;
        go(rt, &self.embed, [rows, 1, 1], BLOCK, &[table.into(), tokens.into(), x.into()])
    }

    /// `out = x + delta` (where there is a delta, elements), `y = out inv w` (elements), `inv` fp32.
    #[allow(clippy::too_many_arguments)]
    pub fn add_norm(
        &self,
        rt: &Runtime,
        x: Span,
        delta: Option<Span>,
        w: Span,
        out: Option<Span>,
        y: Span,
        inv: Span,
        rows: usize,
    ) -> Result<()> {
        let d = self.dims.hidden;
        need("rows", x, rows * d * 4)?;
        need("a norm", w, d * 4)?;
        need("normed rows", y, rows * d * self.size())?;
        need("a norm's factors", inv, rows * 4)?;
        delta.map_or(Ok(()), |s| need("a delta", s, rows * d * self.size()))?;
        out.map_or(Ok(()), |s| need("sums", s, rows * d * 4))?;
        let (delta, out) = (delta.unwrap_or(Span::NONE), out.unwrap_or(Span::NONE));
        let args = [x.into(), delta.into(), w.into(), self.dims.eps.into(), out.into(), y.into(), inv.into()];
        go(rt, &self.add_norm, [rows, 1, 1], BLOCK, &args)
    }

    /// `y = x inv w` from kept factors.
    pub fn norm_again(&self, rt: &Runtime, x: Span, inv: Span, w: Span, y: Span, rows: usize) -> Result<()> {
        let d = self.dims.hidden;
        need("rows", x, rows * d * 4)?;
        need("a norm", w, d * 4)?;
        need("normed rows", y, rows * d * self.size())?;
        need("a norm's factors", inv, rows * 4)?;
        go(rt, &self.norm_again, [rows, 1, 1], BLOCK, &[x.into(), inv.into(), w.into(), y.into()])
    }

    /// Adds the norm's input gradient to `dx` (fp32; overwrites it without `add`), and copies `dx` to `dx_t` (elements).
    #[allow(clippy::too_many_arguments)]
    pub fn norm_backward(
        &self,
        rt: &Runtime,
        dy: Span,
        x: Span,
        inv: Span,
        w: Span,
        dx: Span,
        dx_t: Span,
        add: bool,
        rows: usize,
    ) -> Result<()> {
        let d = self.dims.hidden;
        need("gradients of normed rows", dy, rows * d * self.size())?;
        need("rows", x, rows * d * 4)?;
        need("a norm's factors", inv, rows * 4)?;
        need("a norm", w, d * 4)?;
        need("gradients of rows", dx, rows * d * 4)?;
        need("gradients of rows, as elements", dx_t, rows * d * self.size())?;
        let args = [dy.into(), x.into(), inv.into(), w.into(), dx.into(), dx_t.into(), Arg::I32(i32::from(add))];
        go(rt, &self.norm_backward, [rows, 1, 1], BLOCK, &args)
    }

    /// `grad[c] += sum_r dy[r][c]`, times `x[r][c] inv[r]` where a norm's `(x, inv)` are given. `grad` is fp32.
    #[allow(clippy::too_many_arguments)]
    pub fn column_sums(
        &self,
        rt: &Runtime,
        dy: Span,
        norm: Option<(Span, Span)>,
        grad: Span,
        partial: Span,
        rows: usize,
        cols: usize,
    ) -> Result<()> {
        need("gradients to sum", dy, rows * cols * self.size())?;
        need("a gradient", grad, cols * 4)?;
        need("partial sums", partial, SPLITS * cols * 4)?;
        let (x, inv) = norm.unwrap_or((Span::NONE, Span::NONE));
        if norm.is_some() {
            need("rows", x, rows * cols * 4)?;
            need("a norm's factors", inv, rows * 4)?;
        }
        let args = [dy.into(), x.into(), inv.into(), partial.into(), rows.into(), cols.into()];
        go(rt, &self.column_sums, [cols.div_ceil(32), SPLITS, 1], BLOCK, &args)?;
        self.add_partials(rt, partial, grad, SPLITS, cols, 0, cols)
    }

    #[allow(clippy::too_many_arguments)]
    fn add_partials(
        &self,
        rt: &Runtime,
        partial: Span,
        grad: Span,
        splits: usize,
        width: usize,
        offset: usize,
        cols: usize,
    ) -> Result<()> {
        let args = [partial.into(), grad.into(), splits.into(), width.into(), offset.into(), cols.into()];
        go(rt, &self.add_partials, [cols.div_ceil(32), 1, 1], BLOCK, &args)
    }

    /// `y[r][c] += b[c]`, `b` fp32.
    pub fn add_bias(&self, rt: &Runtime, y: Span, b: Span, rows: usize, cols: usize) -> Result<()> {
        need("rows", y, rows * cols * self.size())?;
        need("a bias", b, cols * 4)?;
        go(rt, &self.add_bias, [rows, 1, 1], BLOCK, &[y.into(), b.into(), cols.into()])
    }

    /// Raw `[rows, qkv]` to normed and rotated queries and keys, `[rows, q + kv]`; `inv`: `[rows, heads + kv_heads]` fp32.
    #[allow(clippy::too_many_arguments)]
    pub fn rotate(
        &self,
        rt: &Runtime,
        raw: Span,
        angles: Angles,
        norm: QkNorm,
        qk: Span,
        inv: Span,
        rows: usize,
    ) -> Result<()> {
        self.need_rotation(raw, angles, norm, inv, rows)?;
        need("queries and keys", qk, rows * (self.dims.q() + self.dims.kv()) * self.size())?;
        let args = [
            raw.into(),
            angles.positions.into(),
            angles.cos.into(),
            angles.sin.into(),
            norm.q.into(),
            norm.k.into(),
            self.dims.eps.into(),
            qk.into(),
            inv.into(),
            rows.into(),
        ];
        let tasks = rows * (self.dims.heads + self.dims.kv_heads);
        go(rt, &self.rotate, [tasks.div_ceil(8), 1, 1], BLOCK, &args)
    }

    fn need_rotation(&self, raw: Span, angles: Angles, norm: QkNorm, inv: Span, rows: usize) -> Result<()> {
        let half = angles.count * self.dims.head_dim / 2 * 4;
        need("positions", angles.positions, rows * 4)?;
        need("queries, keys and values", raw, rows * self.dims.qkv() * self.size())?;
        need("cosines", angles.cos, half)?;
        need("sines", angles.sin, half)?;
        if norm.q != Span::NONE {
            need("a norm of queries", norm.q, self.dims.head_dim * 4)?;
            need("a norm of keys", norm.k, self.dims.head_dim * 4)?;
            need("factors of queries and keys", inv, rows * (self.dims.heads + self.dims.kv_heads) * 4)?;
        }
        Ok(())
    }

    /// In place on `d_qkv`; the norms' gradients are added to `grads` (none where there is no norm).
    #[allow(clippy::too_many_arguments)]
    pub fn rotate_backward(
        &self,
        rt: &Runtime,
        d_qkv: Span,
        raw: Span,
        inv: Span,
        angles: Angles,
        norm: QkNorm,
        grads: Option<QkNorm>,
        partial: Span,
        rows: usize,
    ) -> Result<()> {
        self.need_rotation(raw, angles, norm, inv, rows)?;
        need("gradients of queries, keys and values", d_qkv, rows * self.dims.qkv() * self.size())?;
        let hd = self.dims.head_dim;
        need("partial sums", partial, ROTATE_BLOCKS * 2 * hd * 4)?;
        let args = [
            d_qkv.into(),
            raw.into(),
            inv.into(),
            angles.positions.into(),
            angles.cos.into(),
            angles.sin.into(),
            norm.q.into(),
            norm.k.into(),
            partial.into(),
            rows.into(),
        ];
        go(rt, &self.rotate_backward, [ROTATE_BLOCKS, 1, 1], BLOCK, &args)?;
        if let Some(grads) = grads {
            for (grad, offset) in [(grads.q, 0), (grads.k, hd)] {
                need("a gradient", grad, hd * 4)?;
                self.add_partials(rt, partial, grad, ROTATE_BLOCKS, 2 * hd, offset, hd)?;
            }
        }
        Ok(())
    }

    /// `[rows, 2 ff]` to `[rows, ff]`.
    pub fn swiglu(&self, rt: &Runtime, gate_up: Span, act: Span, rows: usize) -> Result<()> {
        need("gate and up", gate_up, rows * 2 * self.dims.ff * self.size())?;
        need("activations", act, rows * self.dims.ff * self.size())?;
        go(rt, &self.swiglu, [rows, 1, 1], BLOCK, &[gate_up.into(), act.into()])
    }

    /// In place: `gate_up` becomes its gradient, `act` (the activations' gradient) the activations.
    pub fn swiglu_backward(&self, rt: &Runtime, gate_up: Span, act: Span, rows: usize) -> Result<()> {
        need("gate and up", gate_up, rows * 2 * self.dims.ff * self.size())?;
        need("activations", act, rows * self.dims.ff * self.size())?;
        go(rt, &self.swiglu_backward, [rows, 1, 1], BLOCK, &[gate_up.into(), act.into(), act.into()])
    }

    /// `out[i] = from[rows[i]]`, `count` rows of elements; the caller has checked the numbers.
    pub fn gather(&self, rt: &Runtime, from: Span, rows: Span, out: Span, count: usize) -> Result<()> {
        need("row numbers", rows, count * 4)?;
        need("gathered rows", out, count * self.dims.hidden * self.size())?;
        go(rt, &self.gather, [count, 1, 1], BLOCK, &[from.into(), rows.into(), out.into()])
    }

    /// Sums of rows of elements by destination (`packing::Sums`); every one of `rows` destinations is written.
    pub fn collect(&self, rt: &Runtime, from: Span, sums: (Span, Span), out: Span, rows: usize) -> Result<()> {
        need("offsets", sums.0, (rows + 1) * 4)?;
        need("collected rows", out, rows * self.dims.hidden * self.size())?;
        go(rt, &self.collect, [rows, 1, 1], BLOCK, &[from.into(), sums.0.into(), sums.1.into(), out.into()])
    }

    /// `grad[tokens[b]] += sum of dx`, by `packing::Sums::by_key`; fp32 both.
    pub fn embed_backward(
        &self,
        rt: &Runtime,
        dx: Span,
        tokens: Span,
        sums: (Span, Span),
        grad: Span,
        count: usize,
    ) -> Result<()> {
        need("tokens", tokens, count * 4)?;
        need("offsets", sums.0, (count + 1) * 4)?;
        need("the embedding's gradient", grad, self.dims.vocab * self.dims.hidden * 4)?;
        let args = [dx.into(), tokens.into(), sums.0.into(), sums.1.into(), grad.into()];
        go(rt, &self.embed_backward, [count, 1, 1], BLOCK, &args)
    }

    /// Rows of fp32 logits: `numbers` gets `[log-prob, entropy, target is the top]` (f64), `parts` what the backward needs.
    #[allow(clippy::too_many_arguments)]
    pub fn score(
        &self,
        rt: &Runtime,
        logits: Span,
        targets: Span,
        inv_t: f32,
        numbers: Span,
        parts: Span,
        rows: usize,
    ) -> Result<()> {
        need("logits", logits, rows * self.dims.vocab * 4)?;
        need("targets", targets, rows * 4)?;
        need("scores", numbers, rows * 24)?;
        need("parts of scores", parts, rows * 8)?;
        let args = [logits.into(), targets.into(), inv_t.into(), numbers.into(), parts.into()];
        go(rt, &self.score, [rows, 1, 1], 512, &args)
    }

    /// `out = slope (onehot(target) - softmax(logits inv_t))`, elements. `slopes`: fp32, divided by the temperature.
    #[allow(clippy::too_many_arguments)]
    pub fn score_backward(
        &self,
        rt: &Runtime,
        logits: Span,
        targets: Span,
        slopes: Span,
        parts: Span,
        inv_t: f32,
        out: Span,
        rows: usize,
    ) -> Result<()> {
        need("logits", logits, rows * self.dims.vocab * 4)?;
        need("targets", targets, rows * 4)?;
        need("slopes", slopes, rows * 4)?;
        need("parts of scores", parts, rows * 8)?;
        need("gradients of logits", out, rows * self.dims.vocab * self.size())?;
        let args = [logits.into(), targets.into(), slopes.into(), parts.into(), inv_t.into(), out.into()];
        go(rt, &self.score_backward, [rows, 1, 1], 512, &args)
    }
}

fn go(rt: &Runtime, kernel: &Kernel, grid: [usize; 3], block: usize, args: &[Arg]) -> Result<()> {
    // SAFETY: each caller in this file gives the kernel's parameters in their order and types and has checked that the spans are as
    // large as the kernel uses for this grid; whoever made the spans vouches for the memory.
    unsafe { kernel.launch(rt, grid, block, 0, args) }
}
