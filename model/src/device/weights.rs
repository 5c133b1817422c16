//! Where a network's parameters (or their gradients) lie on the device, by name.

use super::Span;

/// A linear layer: `[in, out]` and `[out]`.
#[derive(Clone, Copy, Debug)]
pub struct LinearAt {
    pub weight: Span,
    pub bias: Option<Span>,
}

#[derive(Clone, Debug)]
pub struct LayerAt {
    pub attention_norm: Span,
    pub qkv: LinearAt,
    pub q_norm: Option<Span>,
    pub k_norm: Option<Span>,
    pub output: LinearAt,
    pub mlp_norm: Span,
    pub gate_up: LinearAt,
    pub down: LinearAt,
}

/// All parameters, dense and row-major. Of weights in bf16, matrices are bf16 and vectors fp32; gradients are fp32.
#[derive(Clone, Debug)]
pub struct WeightsAt {
    /// `[vocab, hidden]`
    pub embed: Span,
    pub layers: Vec<LayerAt>,
    pub norm: Span,
    /// `[hidden, vocab]`; none where the embedding is the head.
    pub head: Option<Span>,
}

impl WeightsAt {
    /// The same tree with other spans: `f(span, is a matrix)`, in the order of `host::HostWeights::for_each_mut`.
    pub fn map<E>(&self, f: &mut dyn FnMut(Span, bool) -> Result<Span, E>) -> Result<Self, E> {
        let embed = f(self.embed, true)?;
        let layers = self.layers.iter().map(|l| l.map(f)).collect::<Result<_, E>>()?;
        Ok(Self { embed, layers, norm: f(self.norm, false)?, head: self.head.map(|s| f(s, true)).transpose()? })
    }

    /// Every span in the order of `map`: `f(span, is a matrix)`.
    pub fn each<E>(&self, f: &mut dyn FnMut(Span, bool) -> Result<(), E>) -> Result<(), E> {
        self.map(&mut |span, matrix| f(span, matrix).map(|()| span)).map(drop)
    }
}

impl LayerAt {
    /// As [`WeightsAt::map`].
    pub fn map<E>(&self, f: &mut dyn FnMut(Span, bool) -> Result<Span, E>) -> Result<Self, E> {
        Ok(Self {
            attention_norm: f(self.attention_norm, false)?,
            qkv: self.qkv.map(f)?,
            q_norm: self.q_norm.map(|s| f(s, false)).transpose()?,
            k_norm: self.k_norm.map(|s| f(s, false)).transpose()?,
            output: self.output.map(f)?,
            mlp_norm: f(self.mlp_norm, false)?,
            gate_up: self.gate_up.map(f)?,
            down: self.down.map(f)?,
        })
    }

    /// As [`WeightsAt::each`].
    pub fn each<E>(&self, f: &mut dyn FnMut(Span, bool) -> Result<(), E>) -> Result<(), E> {
        self.map(&mut |span, matrix| f(span, matrix).map(|()| span)).map(drop)
    }
}

impl LinearAt {
    fn map<E>(&self, f: &mut dyn FnMut(Span, bool) -> Result<Span, E>) -> Result<Self, E> {
        Ok(Self { weight: f(self.weight, true)?, bias: self.bias.map(|s| f(s, false)).transpose()? })
    }
}
