//! Where a pass finds its weights in elements: in copies of all of them that are kept, or in copies made of the fp32 masters a
//! layer at a time, each in the place of the one before. Both are the same numbers.

use super::executor::{Executor, F32};
use super::weights::{LayerAt, WeightsAt};
use super::{DeviceError, Result, Span};

/// Copies begin at multiples of this.
const ALIGN: usize = 256;

/// The weights of the passes that follow.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// All in elements.
    Kept(WeightsAt),
    /// fp32 masters, to be rounded where they are used.
    Fresh(WeightsAt),
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
            Source::Kept(masters.clone())
        } else if self.options.fresh_weights {
            Source::Fresh(masters.clone())
        } else {
            Source::Kept(self.copy_all(masters)?)
        });
        Ok(())
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
        let (Source::Kept(w) | Source::Fresh(w)) = self.source()?;
        Ok(w.layers.len())
    }

    /// The final norm's weights, fp32.
    pub(super) fn final_norm(&self) -> Result<Span> {
        let (Source::Kept(w) | Source::Fresh(w)) = self.source()?;
        Ok(w.norm)
    }

    /// Layer `index`; good until the next call of this, `embedding` or `head_matrix`.
    pub(super) fn layer(&mut self, index: usize) -> Result<LayerAt> {
        let masters = match self.source()? {
            Source::Kept(w) => return Ok(w.layers[index].clone()),
            Source::Fresh(w) => w.layers[index].clone(),
        };
        let mut bytes = 0;
        masters.map::<DeviceError>(&mut |span, matrix| {
            bytes += if matrix { (span.bytes / 2).next_multiple_of(ALIGN) } else { 0 };
            Ok(span)
        })?;
        let place = self.fresh.span(&self.rt, "a layer's bf16 weights", bytes)?;
        let (rt, updates, mut used) = (&self.rt, &self.updates, 0);
        masters.map(&mut |span, matrix| {
            if !matrix {
                return Ok(span);
            }
            let copy = place.part(used, span.bytes / 2);
            used += copy.bytes.next_multiple_of(ALIGN);
            updates.round(rt, span, copy)?;
            Ok(copy)
        })
    }

    /// `[vocab, hidden]`; good as long as `layer`'s.
    pub(super) fn embedding(&mut self) -> Result<Span> {
        match self.source()? {
            Source::Kept(w) => Ok(w.embed),
            Source::Fresh(w) => self.one(w.embed),
        }
    }

    /// The head; good as long as `layer`'s.
    pub(super) fn head_matrix(&mut self) -> Result<HeadAt> {
        match self.source()? {
            Source::Kept(w) => Ok(HeadAt { at: w.head.unwrap_or(w.embed), tied: w.head.is_none() }),
            Source::Fresh(w) => {
                let (tied, master) = (w.head.is_none(), w.head.unwrap_or(w.embed));
                Ok(HeadAt { at: self.one(master)?, tied })
            }
        }
    }

    fn one(&mut self, master: Span) -> Result<Span> {
        let copy = self.fresh.span(&self.rt, "bf16 weights of the vocabulary", master.bytes / 2)?;
        self.updates.round(&self.rt, master, copy)?;
        Ok(copy)
    }
}
