//! The decoder's forward pass over packed rows, submitted to the stream.

use super::executor::{Executor, RowsAt, TapeAt, qk_norm};
use super::weights::LayerAt;
use super::{Result, Span};
use crate::packing::Packed;

impl Executor {
    /// Hidden states of the rows, after the final norm, left on the device. With `keep`, also what `backward` needs.
    pub fn forward(&mut self, packed: &Packed, keep: bool) -> Result<()> {
        let layers = self.layers()?;
        let at = self.place_rows(packed)?;
        let rows = at.count;
        let first = self.x(0, rows)?;
        let embedding = self.embedding()?;
        self.kernels.embed(&self.rt, embedding, at.tokens, first, rows)?;
        // Where a layer's input is: the sum of `x` and what the layer before wrote to `delta`.
        let (mut x, mut delta) = (first, None);
        for index in 0..layers {
            let layer = &self.layer(index)?;
            // Without `keep` all layers share the first one's memory: what is read there is read before it is written.
            let tape = self.tape(if keep { index } else { 0 }, rows)?;
            self.enter(layer, &tape, x, delta, rows)?;
            delta = Some(self.block(layer, &at, &tape, true)?);
            x = tape.x_mid;
        }
        let out = self.x(if keep { layers } else { 1 }, rows)?;
        let (inv, hidden) = self.last(rows)?;
        let summed = delta.map(|_| out);
        self.kernels.add_norm(&self.rt, x, delta, self.final_norm()?, summed, hidden, inv, rows)
    }

    /// `tape.x = x + delta`, and its norm to the scratch.
    fn enter(&mut self, layer: &LayerAt, tape: &TapeAt, x: Span, delta: Option<Span>, rows: usize) -> Result<()> {
        let normed =
            self.scratch.normed.span(&self.rt, "normed rows", rows * self.dims.hidden * self.kernels.size())?;
        let out = delta.map(|_| tape.x);
        self.kernels.add_norm(&self.rt, x, delta, layer.attention_norm, out, normed, tape.inv_1, rows)
    }

    /// From the normed input to the MLP's output, which is returned: what is to be added to `tape.x_mid`. Without `whole` the last
    /// product is left out.
    fn block(&mut self, layer: &LayerAt, at: &RowsAt, tape: &TapeAt, whole: bool) -> Result<Span> {
        let (rows, e) = (at.count, self.kernels.size());
        let d = self.dims.clone();
        let normed = self.scratch.normed.span(&self.rt, "normed rows", rows * d.hidden * e)?;
        let delta = self.scratch.delta.span(&self.rt, "a layer's output", rows * d.hidden * e)?;
        let act = self.scratch.act.span(&self.rt, "activations", rows * d.ff * e)?;
        self.linear(normed, layer.qkv, tape.raw, rows, [d.hidden, d.qkv()])?;
        let scene = self.rotated(layer, at, tape)?;
        self.attention.forward(&self.rt, &scene, tape.mixed, tape.lse)?;
        self.linear(tape.mixed, layer.output, delta, rows, [d.q(), d.hidden])?;
        let (x, mid) = (tape.x, tape.x_mid);
        self.kernels.add_norm(&self.rt, x, Some(delta), layer.mlp_norm, Some(mid), normed, tape.inv_2, rows)?;
        self.linear(normed, layer.gate_up, tape.gate_up, rows, [d.hidden, 2 * d.ff])?;
        if whole {
            self.kernels.swiglu(&self.rt, tape.gate_up, act, rows)?;
            self.linear(act, layer.down, delta, rows, [d.ff, d.hidden])?;
        }
        Ok(delta)
    }

    /// Queries and keys, normed and rotated, in the scratch.
    pub(super) fn rotated(&self, layer: &LayerAt, at: &RowsAt, tape: &TapeAt) -> Result<super::attention::Scene> {
        let norm = qk_norm(layer.q_norm, layer.k_norm);
        self.kernels.rotate(&self.rt, tape.raw, at.angles, norm, at.scene.qk, tape.inv_qk, at.count)?;
        Ok(super::attention::Scene { raw: tape.raw, ..at.scene })
    }

    /// A layer's tape again from its input.
    pub(super) fn again(&mut self, layer: &LayerAt, at: &RowsAt, tape: &TapeAt) -> Result<()> {
        self.enter(layer, tape, tape.x, None, at.count)?;
        self.block(layer, at, tape, false).map(drop)
    }
}
