//! The network that `kl_coef` holds the policy to, on the device: its weights are sent there once.

use crate::device::weights::{LayerAt, LinearAt, WeightsAt};
use crate::device::{Buffer, Result, Runtime, Span};
use crate::host::HostWeights;
use crate::host::weights::{HostLinear, Weight};

pub(super) struct Reference {
    pub at: WeightsAt,
    /// What `at` points to.
    _held: Vec<Buffer>,
}

impl Reference {
    pub fn send(rt: &Runtime, weights: &HostWeights) -> Result<Self> {
        let mut held = Vec::new();
        let mut put = |w: &Weight| -> Result<Span> {
            let mut buffer = Buffer::default();
            let span = buffer.span(rt, "the reference network", size_of_val(&w.data[..]))?;
            rt.upload(&w.data, span)?;
            held.push(buffer);
            Ok(span)
        };
        let mut layers = Vec::with_capacity(weights.layers.len());
        for layer in &weights.layers {
            let mut linear = |l: &HostLinear| -> Result<LinearAt> {
                Ok(LinearAt { weight: put(&l.weight)?, bias: l.bias.as_ref().map(&mut put).transpose()? })
            };
            let (qkv, output) = (linear(&layer.qkv)?, linear(&layer.output)?);
            let (gate_up, down) = (linear(&layer.gate_up)?, linear(&layer.down)?);
            layers.push(LayerAt {
                attention_norm: put(&layer.attention_norm)?,
                qkv,
                q_norm: layer.q_norm.as_ref().map(&mut put).transpose()?,
                k_norm: layer.k_norm.as_ref().map(&mut put).transpose()?,
                output,
                mlp_norm: put(&layer.mlp_norm)?,
                gate_up,
                down,
            });
        }
        let (embed, norm) = (put(&weights.embed)?, put(&weights.norm)?);
        let head = weights.head.as_ref().map(&mut put).transpose()?;
        Ok(Self { at: WeightsAt { embed, layers, norm, head }, _held: held })
    }
}
