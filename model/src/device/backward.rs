//! The decoder's backward pass: gradients of all parameters from that of the hidden states, submitted to the stream.

use super::adapters::LayerAdaptersAt;
use super::executor::{Executor, RowsAt, TapeAt, qk_norm};
use super::kernels::QkNorm;
use super::weights::{LayerAt, WeightsAt};
use super::{DeviceError, Result, Span};
use crate::packing::{Packed, Sums};

/// Where gradients go.
#[derive(Clone, Copy)]
pub enum Sink<'a> {
    /// To every parameter's own.
    All(&'a WeightsAt),
    /// To those of the adapters that the pass was prepared with.
    Adapters,
}

/// The same of a layer.
#[derive(Clone, Copy)]
enum LayerSink<'a> {
    All(&'a LayerAt),
    Adapters(&'a LayerAdaptersAt),
}

impl<'a> LayerSink<'a> {
    fn all(self) -> Option<&'a LayerAt> {
        match self {
            Self::All(grad) => Some(grad),
            Self::Adapters(_) => None,
        }
    }
}

/// Buffers of a layer's backward pass.
struct Grads {
    dx: Span,
    dx_t: Span,
    d_normed: Span,
    normed: Span,
    act: Span,
    partial: Span,
}

impl Executor {
    /// Adds the gradients of the last `forward` with `keep` to what `grads` says, from `d_hidden` (as `collect_hidden` left it).
    ///
    /// Without `add`, the layers' matrices and the adapters are overwritten (all else is always added to: see `clear`).
    pub fn backward(&mut self, packed: &Packed, d_hidden: Span, grads: Sink, add: bool) -> Result<()> {
        let layers = self.layers()?;
        let missing = || DeviceError::Unsupported { what: "a backward pass before the forward pass".to_string() };
        let at = self.pass.ok_or_else(missing)?;
        let (rows, e) = (at.count, self.kernels.size());
        let d = self.dims.clone();
        let widest = d.hidden.max(d.qkv()).max(2 * d.ff);
        let partial_bytes = self.kernels.partial_bytes(widest);
        let (rt, s) = (&self.rt, &mut self.scratch);
        let g = Grads {
            dx: s.dx.span(rt, "the stream's gradient", rows * d.hidden * 4)?,
            dx_t: s.dx_t.span(rt, "the stream's gradient", rows * d.hidden * e)?,
            d_normed: s.d_normed.span(rt, "normed rows' gradient", rows * d.hidden * e)?,
            normed: s.normed.span(rt, "normed rows", rows * d.hidden * e)?,
            act: s.act.span(rt, "activations", rows * d.ff * e)?,
            partial: s.partial.span(rt, "partial sums", partial_bytes)?,
        };
        let x = self.x(layers, rows)?;
        let (inv, _) = self.last(rows)?;
        if let Sink::All(grads) = grads {
            self.kernels.column_sums(&self.rt, d_hidden, Some((x, inv)), grads.norm, g.partial, rows, d.hidden)?;
        }
        self.kernels.norm_backward(&self.rt, d_hidden, x, inv, self.final_norm()?, g.dx, g.dx_t, false, rows)?;
        for index in (0..layers).rev() {
            let layer = &self.layer(index)?;
            let tape = self.tape(index, rows)?;
            if self.options.recompute {
                self.again(layer, &at, &tape)?;
            }
            let adapters = self.layer_adapters(index)?.unwrap_or_default();
            let sink = match grads {
                Sink::All(grads) => LayerSink::All(&grads.layers[index]),
                Sink::Adapters => LayerSink::Adapters(&adapters),
            };
            self.mlp_backward(layer, sink, &tape, &g, add, rows)?;
            self.attention_backward(layer, sink, &at, &tape, &g, add)?;
        }
        let Sink::All(grads) = grads else { return Ok(()) };
        let (tokens, sums) = Sums::by_key(&packed.tokens[..packed.real]);
        self.embed_backward(g.dx, &tokens, &sums, grads.embed)
    }

    /// Sets to zero what `backward` and the head add to; `all`: every gradient.
    pub fn clear(&self, grads: Sink, all: bool) -> Result<()> {
        let Sink::All(grads) = grads else {
            return if all { self.clear_adapters() } else { Ok(()) };
        };
        let always = [Some(grads.embed.address), grads.head.map(|h| h.address)];
        grads
            .map(&mut |span, matrix| {
                if all || !matrix || always.contains(&Some(span.address)) {
                    self.rt.zero(span)?;
                }
                Ok(span)
            })
            .map(drop)
    }

    fn mlp_backward(
        &mut self,
        layer: &LayerAt,
        grad: LayerSink,
        t: &TapeAt,
        g: &Grads,
        add: bool,
        rows: usize,
    ) -> Result<()> {
        let d = self.dims.clone();
        self.linear_input(g.dx_t, layer.down, g.act, rows, [d.ff, d.hidden])?;
        self.kernels.swiglu_backward(&self.rt, t.gate_up, g.act, rows)?;
        match grad {
            LayerSink::All(l) => self.linear_weight(g.act, g.dx_t, l.down, add, g.partial, rows, [d.ff, d.hidden])?,
            LayerSink::Adapters(l) => self.adapter_gradients(&l.down, g.act, g.dx_t, add, rows, [d.ff, d.hidden])?,
        }
        self.linear_input(t.gate_up, layer.gate_up, g.d_normed, rows, [d.hidden, 2 * d.ff])?;
        self.kernels.norm_again(&self.rt, t.x_mid, t.inv_2, layer.mlp_norm, g.normed, rows)?;
        let sizes = [d.hidden, 2 * d.ff];
        match grad {
            LayerSink::All(l) => self.linear_weight(g.normed, t.gate_up, l.gate_up, add, g.partial, rows, sizes)?,
            LayerSink::Adapters(l) => self.adapter_gradients(&l.gate_up, g.normed, t.gate_up, add, rows, sizes)?,
        }
        let norm = Some((t.x_mid, t.inv_2));
        if let Some(grad) = grad.all() {
            self.kernels.column_sums(&self.rt, g.d_normed, norm, grad.mlp_norm, g.partial, rows, d.hidden)?;
        }
        let w = layer.mlp_norm;
        self.kernels.norm_backward(&self.rt, g.d_normed, t.x_mid, t.inv_2, w, g.dx, g.dx_t, true, rows)
    }

    fn attention_backward(
        &mut self,
        layer: &LayerAt,
        grad: LayerSink,
        at: &RowsAt,
        t: &TapeAt,
        g: &Grads,
        add: bool,
    ) -> Result<()> {
        let (rows, e) = (at.count, self.kernels.size());
        let d = self.dims.clone();
        let (rt, s) = (&self.rt, &mut self.scratch);
        let d_mixed = s.d_mixed.span(rt, "attention's gradient", rows * d.q() * e)?;
        let d_qkv = s.d_qkv.span(rt, "gradients of queries, keys and values", rows * d.qkv() * e)?;
        let means = s.means.span(rt, "attention's means", rows * d.heads * 4)?;
        self.linear_input(g.dx_t, layer.output, d_mixed, rows, [d.q(), d.hidden])?;
        let sizes = [d.q(), d.hidden];
        match grad {
            LayerSink::All(l) => self.linear_weight(t.mixed, g.dx_t, l.output, add, g.partial, rows, sizes)?,
            LayerSink::Adapters(l) => self.adapter_gradients(&l.output, t.mixed, g.dx_t, add, rows, sizes)?,
        }
        let scene = self.rotated(layer, at, t)?;
        self.attention.backward(&self.rt, &scene, t.mixed, d_mixed, t.lse, means, d_qkv)?;
        let norm = qk_norm(layer.q_norm, layer.k_norm);
        let norm_grads = grad.all().and_then(|l| l.q_norm.zip(l.k_norm)).map(|(q, k)| QkNorm { q, k });
        let inv = t.inv_qk;
        self.kernels.rotate_backward(&self.rt, d_qkv, t.raw, inv, at.angles, norm, norm_grads, g.partial, rows)?;
        self.linear_input(d_qkv, layer.qkv, g.d_normed, rows, [d.hidden, d.qkv()])?;
        self.kernels.norm_again(&self.rt, t.x, t.inv_1, layer.attention_norm, g.normed, rows)?;
        let sizes = [d.hidden, d.qkv()];
        match grad {
            LayerSink::All(l) => self.linear_weight(g.normed, d_qkv, l.qkv, add, g.partial, rows, sizes)?,
            LayerSink::Adapters(l) => self.adapter_gradients(&l.qkv, g.normed, d_qkv, add, rows, sizes)?,
        }
        let (pair, w) = (Some((t.x, t.inv_1)), layer.attention_norm);
        if let Some(grad) = grad.all() {
            self.kernels.column_sums(&self.rt, g.d_normed, pair, grad.attention_norm, g.partial, rows, d.hidden)?;
        }
        self.kernels.norm_backward(&self.rt, g.d_normed, t.x, t.inv_1, w, g.dx, g.dx_t, true, rows)
    }
}
