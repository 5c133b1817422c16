//! Adapters on the device: added to their base where its elements are made, and their gradients straight from the rows.
//!
//! With `y = x W`, `W = W0 + s A^T B^T`: `dB = s dy^T (x A^T)`, `dA = s (dy B)^T x` (`lora::gradient::from_rows`). No gradient of a whole
//! matrix exists.
#![allow(unsafe_code)]

use super::executor::{Executor, F32};
use super::kernels::{defines, need, source};
use super::{Buffer, Element, Factor, Kernel, Product, Program, Result, Runtime, Span};
use crate::host::Dims;

/// One adapter of a fused matrix; fp32 but for `elements`.
#[derive(Clone, Debug)]
pub struct PartAt {
    /// Its columns of the fused matrix.
    pub start: usize,
    pub len: usize,
    pub rank: usize,
    /// `[rank, in]`
    pub a: Span,
    /// `[len, rank]`
    pub b: Span,
    /// The gradients of both; `Span::NONE` where none are wanted.
    pub grads: [Span; 2],
    /// Both in elements, as products want them: `Executor::prepare_adapters` sets them.
    pub elements: [Span; 2],
}

/// The adapters of a layer's four fused matrices; an empty list where a matrix has none.
#[derive(Clone, Debug, Default)]
pub struct LayerAdaptersAt {
    pub qkv: Vec<PartAt>,
    pub output: Vec<PartAt>,
    pub gate_up: Vec<PartAt>,
    pub down: Vec<PartAt>,
}

/// All adapters of a network.
#[derive(Clone, Debug)]
pub struct AdaptersAt {
    pub layers: Vec<LayerAdaptersAt>,
    pub scale: f32,
}

impl AdaptersAt {
    /// Every adapter, layer by layer.
    pub fn parts(&self) -> impl Iterator<Item = &PartAt> {
        self.layers.iter().flat_map(LayerAdaptersAt::parts)
    }

    /// The same adapters elsewhere: A and B of each where `put` says, their gradients where `gradient` does.
    pub fn moved(&self, put: &mut dyn FnMut(Span) -> Span, gradient: &mut dyn FnMut(Span) -> Span) -> Self {
        let mut moved = self.clone();
        for part in moved.layers.iter_mut().flat_map(LayerAdaptersAt::parts_mut) {
            (part.a, part.b) = (put(part.a), put(part.b));
            part.grads = part.grads.map(&mut *gradient);
        }
        moved
    }
}

impl LayerAdaptersAt {
    pub fn parts(&self) -> impl Iterator<Item = &PartAt> {
        self.qkv.iter().chain(&self.output).chain(&self.gate_up).chain(&self.down)
    }

    fn parts_mut(&mut self) -> impl Iterator<Item = &mut PartAt> {
        let (first, second) =
            (self.qkv.iter_mut().chain(&mut self.output), self.gate_up.iter_mut().chain(&mut self.down));
        first.chain(second)
    }
}

/// The kernel that adds.
pub(super) struct Merge {
    kernel: Kernel,
    size: usize,
}

impl Merge {
    pub fn load(rt: &Runtime, dims: &Dims, qk_norm: bool, element: Element) -> Result<Self> {
        let text = source(&[include_str!("cuda/adapters.cu")]);
        let program = Program::load(rt, "adapters", &text, &defines(dims, qk_norm, element))?;
        Ok(Self { kernel: program.kernel("merge")?, size: element.bytes() })
    }

    /// `out = base + scale A^T B^T` in the part's columns. base: `[inner, outer]` fp32; out: the same in elements.
    pub fn merge(&self, rt: &Runtime, base: Span, part: &PartAt, out: Span, inner: usize, scale: f32) -> Result<()> {
        let outer = base.bytes / 4 / inner;
        need("a fused matrix", base, 4 * inner * (part.start + part.len).max(outer))?;
        need("a merged matrix", out, self.size * inner * outer)?;
        need("an adapter's A", part.a, 4 * part.rank * inner)?;
        need("an adapter's B", part.b, 4 * part.rank * part.len)?;
        let args = [
            base.into(),
            part.a.into(),
            part.b.into(),
            out.into(),
            inner.into(),
            outer.into(),
            part.start.into(),
            part.len.into(),
            part.rank.into(),
            scale.into(),
        ];
        // SAFETY: the kernel's parameters in their order and types; the spans are as large as it uses (above), and whoever made them
        // vouches for the memory.
        unsafe { self.kernel.launch(rt, [part.len.div_ceil(64), inner.div_ceil(64), 1], 256, 0, &args) }
    }
}

/// What the gradients of a layer's adapters need besides: `x A^T` and `dy B` of one of them.
#[derive(Default)]
pub(super) struct AdapterScratch {
    /// A and B of all adapters in elements.
    pub copies: Buffer,
    down: Buffer,
    up: Buffer,
}

impl Executor {
    /// The adapters' A and B in elements.
    pub(super) fn adapters_in_elements(&mut self, adapters: &mut AdaptersAt) -> Result<()> {
        const ALIGN: usize = 256;
        let parts =
            || adapters.layers.iter().flat_map(|l| l.clone().parts_mut().map(|p| p.clone()).collect::<Vec<_>>());
        let bytes: usize = parts().flat_map(|p| [p.a, p.b]).map(|s| (s.bytes / 2).next_multiple_of(ALIGN)).sum();
        let exact = self.options.element == F32;
        let all = self.adapter_scratch.copies.span(&self.rt, "adapters in bf16", if exact { 1 } else { bytes })?;
        let (mut used, mut list) = (0, Vec::new());
        for part in adapters.layers.iter_mut().flat_map(LayerAdaptersAt::parts_mut) {
            part.elements = [part.a, part.b].map(|span| {
                if exact {
                    return span;
                }
                let copy = all.part(used, span.bytes / 2);
                used += copy.bytes.next_multiple_of(ALIGN);
                list.push((span, copy));
                copy
            });
        }
        self.updates.to_bf16(&self.rt, &list)
    }

    /// Gradients of a fused matrix's adapters. x: `[rows, inner]`, dy: `[rows, outer]`, both elements. With `add` they are added to.
    pub(super) fn adapter_gradients(
        &mut self,
        parts: &[PartAt],
        x: Span,
        dy: Span,
        add: bool,
        rows: usize,
        [inner, outer]: [usize; 2],
    ) -> Result<()> {
        let (element, e) = (self.kernels.element, self.kernels.size());
        let (scale, keep) = (self.adapter_scale, if add { 1.0 } else { 0.0 });
        for part in parts {
            let (rank, len) = (part.rank, part.len);
            let [a, b] = part.elements;
            let down = self.adapter_scratch.down.span(&self.rt, "rows times an adapter's A", rows * rank * e)?;
            let up = self.adapter_scratch.up.span(&self.rt, "rows times an adapter's B", rows * rank * e)?;
            let own = dy.part(part.start * e, (rows * outer - part.start) * e);
            let [grad_a, grad_b] = part.grads;
            let exact = |p: Product| Product { result: F32, scale, keep, ..p };
            self.rt.multiply(&Product::new(
                [rows, inner, rank],
                element,
                Factor::new(x, inner),
                Factor::t(a, inner),
                down,
            ))?;
            let factors = (Factor::t(own, outer), Factor::new(down, rank));
            self.rt.multiply(&exact(Product::new([len, rows, rank], element, factors.0, factors.1, grad_b)))?;
            self.rt.multiply(&Product::new(
                [rows, len, rank],
                element,
                Factor::new(own, outer),
                Factor::new(b, rank),
                up,
            ))?;
            let factors = (Factor::t(up, rank), Factor::new(x, inner));
            self.rt.multiply(&exact(Product::new([rank, rows, inner], element, factors.0, factors.1, grad_a)))?;
        }
        Ok(())
    }
}
