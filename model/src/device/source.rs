//! Where a pass finds its weights in elements: in copies of all of them that are kept, or in copies made of the fp32 masters a
//! layer at a time, each in the place of the one before. Both are the same numbers.

use std::sync::Arc;

use super::adapters::{AdaptersAt, LayerAdaptersAt, Merge, PartAt};
use super::executor::{Executor, F32};
use super::weights::{LayerAt, WeightsAt};
use super::{DeviceError, Element, Result, Runtime, Span};

/// Copies begin at multiples of this.
const ALIGN: usize = 256;

/// The weights of the passes that follow.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// All in elements; with adapters where those are trained, which are in the weights already.
    Kept(WeightsAt, Option<Arc<AdaptersAt>>),
    /// fp32 masters, to be rounded where they are used.
    Fresh(WeightsAt),
    /// As `Fresh`, with adapters to be added.
    Merged(WeightsAt, Arc<AdaptersAt>),
}

impl Source {
    fn tree(&self) -> &WeightsAt {
        let (Self::Kept(w, _) | Self::Fresh(w) | Self::Merged(w, _)) = self;
        w
    }

    fn adapters(&self) -> Option<&AdaptersAt> {
        match self {
            Self::Kept(_, adapters) => adapters.as_deref(),
            Self::Fresh(_) => None,
            Self::Merged(_, adapters) => Some(adapters),
        }
    }
}

/// The head's matrix in elements: `[hidden, vocab]`, or the embedding's `[vocab, hidden]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadAt {
    pub at: Span,
    pub tied: bool,
}

impl Executor {
    /// Takes the weights for the passes that follow: fp32 ones as they are, or bf16 copies of the matrices. The spans must live as
    /// long as passes use them.
    pub fn prepare(&mut self, masters: &WeightsAt) -> Result<()> {
        self.source = Some(if self.options.element == F32 {
            Source::Kept(masters.clone(), None)
        } else if self.options.fresh_weights {
            Source::Fresh(masters.clone())
        } else {
            Source::Kept(self.copy_all(masters)?, None)
        });
        Ok(())
    }

    /// As `prepare`, for a base of fp32 with adapters, which are added as its layers are used.
    pub fn prepare_adapters(&mut self, base: &WeightsAt, mut adapters: AdaptersAt) -> Result<()> {
        if self.merge.is_none() {
            self.merge = Some(Merge::load(&self.rt, &self.dims, self.qk_norm, self.options.element)?);
        }
        self.adapters_in_elements(&mut adapters)?;
        self.adapter_scale = adapters.scale;
        self.source = Some(Source::Merged(base.clone(), Arc::new(adapters)));
        Ok(())
    }

    /// Weights in elements that are there already, and the adapters that are in them, where those are trained.
    pub fn take(&mut self, elements: WeightsAt, adapters: Option<AdaptersAt>) -> Result<()> {
        let adapters = match adapters {
            Some(mut adapters) => {
                self.adapters_in_elements(&mut adapters)?;
                self.adapter_scale = adapters.scale;
                Some(Arc::new(adapters))
            }
            None => None,
        };
        self.source = Some(Source::Kept(elements, adapters));
        Ok(())
    }

    /// Memory for what `each_weight` makes afresh, all that it will need.
    pub fn reserve_fresh(&mut self) -> Result<()> {
        let source = self.source()?;
        if let Source::Kept(..) = source {
            return Ok(());
        }
        let tree = source.tree();
        // In fp32 the vocabulary's matrices are used as they are (`one`).
        let vocabulary = [Some(tree.embed), tree.head].into_iter().flatten().filter(|_| self.options.element != F32);
        let mut most = vocabulary.map(|s| self.elements(s)).max().unwrap_or(0);
        for layer in &tree.layers {
            most = most.max(self.layer_bytes(layer)?);
        }
        self.fresh.span(&self.rt, "a layer's weights in elements", most).map(drop)
    }

    /// What a layer's matrices take in elements.
    fn layer_bytes(&self, layer: &LayerAt) -> Result<usize> {
        let mut bytes = 0;
        layer.each::<DeviceError>(&mut |span, matrix| {
            bytes += if matrix { self.elements(span).next_multiple_of(ALIGN) } else { 0 };
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Every parameter in elements, adapters added, in the order of `WeightsAt::map`: vectors are fp32. What is done with one has to be
    /// on the runtime's stream; a matrix may be gone with the next.
    pub fn each_weight(&mut self, see: &mut dyn FnMut(&Runtime, Span, Element) -> Result<()>) -> Result<()> {
        let element = self.options.element;
        let tree = self.source()?.tree().clone();
        if let Source::Kept(..) = self.source()? {
            return tree.each(&mut |span, matrix| see(&self.rt, span, if matrix { element } else { F32 }));
        }
        let embed = self.embedding()?;
        see(&self.rt, embed, element)?;
        for index in 0..tree.layers.len() {
            let layer = self.layer(index)?;
            layer.each(&mut |span, matrix| see(&self.rt, span, if matrix { element } else { F32 }))?;
        }
        see(&self.rt, tree.norm, F32)?;
        match tree.head {
            Some(master) => {
                let head = self.one(master)?;
                see(&self.rt, head, element)
            }
            None => Ok(()),
        }
    }

    fn copy_all(&mut self, masters: &WeightsAt) -> Result<WeightsAt> {
        let mut bytes = 0usize;
        masters.map::<DeviceError>(&mut |span, matrix| {
            bytes += if matrix { (span.bytes / 2).next_multiple_of(ALIGN) } else { 0 };
            Ok(span)
        })?;
        let all = self.copies.span(&self.rt, "bf16 weights", bytes)?;
        let (mut used, mut list) = (0usize, Vec::new());
        let weights = masters.map::<DeviceError>(&mut |span, matrix| {
            if !matrix {
                return Ok(span);
            }
            let copy = all.part(used, span.bytes / 2);
            used += copy.bytes.next_multiple_of(ALIGN);
            list.push((span, copy));
            Ok(copy)
        })?;
        self.updates.to_bf16(&self.rt, &list)?;
        Ok(weights)
    }

    fn source(&self) -> Result<&Source> {
        let missing = || DeviceError::Unsupported { what: "a pass before `prepare`".to_string() };
        self.source.as_ref().ok_or_else(missing)
    }

    pub(super) fn layers(&self) -> Result<usize> {
        Ok(self.source()?.tree().layers.len())
    }

    /// The final norm's weights, fp32.
    pub(super) fn final_norm(&self) -> Result<Span> {
        Ok(self.source()?.tree().norm)
    }

    /// The adapters of layer `index`, where there are some.
    pub(super) fn layer_adapters(&self, index: usize) -> Result<Option<LayerAdaptersAt>> {
        Ok(self.source()?.adapters().and_then(|a| a.layers.get(index).cloned()))
    }

    /// Sets the adapters' gradients to zero.
    pub(super) fn clear_adapters(&self) -> Result<()> {
        let Some(adapters) = self.source()?.adapters() else { return Ok(()) };
        adapters.layers.iter().flat_map(LayerAdaptersAt::parts).flat_map(|p| p.grads).try_for_each(|s| self.rt.zero(s))
    }

    /// Layer `index`; good until the next call of this, `embedding` or `head_matrix`.
    pub(super) fn layer(&mut self, index: usize) -> Result<LayerAt> {
        let source = self.source()?;
        let masters = source.tree().layers[index].clone();
        if matches!(source, Source::Kept(..)) {
            return Ok(masters);
        }
        let bytes = self.layer_bytes(&masters)?;
        let place = self.fresh.span(&self.rt, "a layer's weights in elements", bytes)?;
        let mut used = 0;
        let layer = masters.map::<DeviceError>(&mut |span, matrix| {
            if !matrix {
                return Ok(span);
            }
            let copy = place.part(used, self.elements(span));
            used += copy.bytes.next_multiple_of(ALIGN);
            Ok(copy)
        })?;
        let adapters = self.layer_adapters(index)?.unwrap_or_default();
        let d = &self.dims;
        for (from, to, parts, inner) in [
            (&masters.qkv, &layer.qkv, &adapters.qkv, d.hidden),
            (&masters.output, &layer.output, &adapters.output, d.q()),
            (&masters.gate_up, &layer.gate_up, &adapters.gate_up, d.hidden),
            (&masters.down, &layer.down, &adapters.down, d.ff),
        ] {
            self.fill(from.weight, to.weight, parts, inner)?;
        }
        Ok(layer)
    }

    /// Bytes of an fp32 tensor in elements.
    fn elements(&self, master: Span) -> usize {
        master.bytes / 4 * self.options.element.bytes()
    }

    fn fill(&self, from: Span, to: Span, parts: &[PartAt], inner: usize) -> Result<()> {
        let columns: usize = parts.iter().map(|p| p.len).sum();
        if columns * inner * 4 < from.bytes {
            match self.options.element == F32 {
                true => self.rt.copy(from, to)?,
                false => self.updates.round(&self.rt, from, to)?,
            }
        }
        let Some(merge) = &self.merge else { return Ok(()) };
        parts.iter().try_for_each(|part| merge.merge(&self.rt, from, part, to, inner, self.adapter_scale))
    }

    /// `[vocab, hidden]`; good as long as `layer`'s.
    pub(super) fn embedding(&mut self) -> Result<Span> {
        match self.source()? {
            Source::Kept(w, _) => Ok(w.embed),
            Source::Fresh(w) | Source::Merged(w, _) => self.one(w.embed),
        }
    }

    /// The head; good as long as `layer`'s.
    pub(super) fn head_matrix(&mut self) -> Result<HeadAt> {
        match self.source()? {
            Source::Kept(w, _) => Ok(HeadAt { at: w.head.unwrap_or(w.embed), tied: w.head.is_none() }),
            Source::Fresh(w) | Source::Merged(w, _) => {
                let (tied, master) = (w.head.is_none(), w.head.unwrap_or(w.embed));
                Ok(HeadAt { at: self.one(master)?, tied })
            }
        }
    }

    fn one(&mut self, master: Span) -> Result<Span> {
        if self.options.element == F32 {
            return Ok(master);
        }
        let copy = self.fresh.span(&self.rt, "bf16 weights of the vocabulary", master.bytes / 2)?;
        self.updates.round(&self.rt, master, copy)?;
        Ok(copy)
    }
}
