//! What is done to whole tensors at once: bf16 copies of weights, the gradients' norm, AdamW. One launch for all of them.
#![allow(unsafe_code)]

use super::kernels::need;
use super::program::Arg;
use super::{Buffer, Kernel, Program, Result, Runtime, Span};
use cudarc::driver::DeviceRepr;

/// Elements of a piece: a block's work.
const PIECE: usize = 1 << 15;

/// A run of one tensor, as `cuda/update.cu` has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Piece {
    /// Addresses: a, b, c, d are read (but for `to_bf16`, which writes b), e, f, g written.
    at: [u64; 7],
    count: i32,
    decay: f32,
}

// SAFETY: plain numbers in C's layout, without padding (7 * 8 + 4 + 4 bytes).
unsafe impl DeviceRepr for Piece {}

pub struct Updates {
    to_bf16: Kernel,
    round_one: Kernel,
    squares: Kernel,
    adamw: Kernel,
    pieces: Buffer,
    partial: Buffer,
}

/// One tensor of an update; all are fp32 and of one length. New and old may be the same memory.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    pub weights: Span,
    /// First and second moments; none before the first update.
    pub moments: Option<[Span; 2]>,
    pub gradient: Span,
    pub new_weights: Span,
    pub new_moments: [Span; 2],
    /// Whether weight decay applies.
    pub decays: bool,
}

/// AdamW's numbers for one update.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub lr: f64,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    /// The number of this update, from 1.
    pub time: i32,
    /// Gradients are multiplied by it first.
    pub scale: f32,
}

impl Updates {
    pub fn load(runtime: &Runtime) -> Result<Self> {
        let program = Program::load(runtime, "update", include_str!("cuda/update.cu"), &[])?;
        Ok(Self {
            to_bf16: program.kernel("to_bf16")?,
            round_one: program.kernel("round_one")?,
            squares: program.kernel("squares")?,
            adamw: program.kernel("adamw")?,
            pieces: Buffer::default(),
            partial: Buffer::default(),
        })
    }

    /// bf16 copies of fp32 tensors: `(from, to)`, lengths by `from`.
    pub fn to_bf16(&mut self, rt: &Runtime, tensors: &[(Span, Span)]) -> Result<()> {
        let mut pieces = Vec::new();
        for (from, to) in tensors {
            need("a copy of weights", *to, from.bytes / 2)?;
            cut(from.bytes / 4, |first, count| {
                let at = [from.address + 4 * first, to.address + 2 * first, 0, 0, 0, 0, 0];
                pieces.push(Piece { at, count, decay: 0.0 });
            });
        }
        let table = self.table(rt, &pieces)?;
        launch(rt, &self.to_bf16, pieces.len(), &[table.into()])
    }

    /// A bf16 copy of one fp32 tensor, its length by `from`; no table has to be sent for it.
    pub fn round(&self, rt: &Runtime, from: Span, to: Span) -> Result<()> {
        let count = from.bytes / 4;
        need("a copy of weights", to, count * 2)?;
        let args = [from.into(), to.into(), Arg::I64(count as i64), PIECE.into()];
        launch(rt, &self.round_one, count.div_ceil(PIECE), &args)
    }

    /// The sum of the squares of all elements (f64 sums, always in the same order). Waits for the result.
    pub fn squares(&mut self, rt: &Runtime, tensors: &[Span]) -> Result<f64> {
        let mut pieces = Vec::new();
        for from in tensors {
            cut(from.bytes / 4, |first, count| {
                pieces.push(Piece { at: [from.address + 4 * first, 0, 0, 0, 0, 0, 0], count, decay: 0.0 });
            });
        }
        let table = self.table(rt, &pieces)?;
        let partial = self.partial.span(rt, "partial sums", pieces.len().max(1) * 8)?;
        launch(rt, &self.squares, pieces.len(), &[table.into(), partial.into()])?;
        Ok(rt.download::<f64>(partial, pieces.len())?.iter().sum())
    }

    /// One update of AdamW, as burn's (`optim`): moments, bias correction, decoupled decay.
    pub fn adamw(&mut self, rt: &Runtime, tensors: &[Moved], rule: &Rule) -> Result<()> {
        let mut pieces = Vec::new();
        let decay = (1.0 - rule.lr * f64::from(rule.weight_decay)) as f32;
        for t in tensors {
            let bytes = t.weights.bytes;
            let old = t.moments.unwrap_or([Span::NONE; 2]);
            for span in [t.gradient, t.new_weights, t.new_moments[0], t.new_moments[1]] {
                need("a tensor of the update", span, bytes)?;
            }
            for span in t.moments.iter().flatten() {
                need("a moment", *span, bytes)?;
            }
            let decay = if t.decays { decay } else { 1.0 };
            let all = [t.weights, old[0], old[1], t.gradient, t.new_weights, t.new_moments[0], t.new_moments[1]];
            cut(bytes / 4, |first, count| {
                let at = all.map(|s| if s == Span::NONE { 0 } else { s.address + 4 * first });
                pieces.push(Piece { at, count, decay });
            });
        }
        let table = self.table(rt, &pieces)?;
        let corrections = [rule.beta1, rule.beta2].map(|beta| Arg::F32(1.0 - beta.powi(rule.time)));
        let [c1, c2] = corrections;
        let args = [
            table.into(),
            (rule.lr as f32).into(),
            rule.beta1.into(),
            rule.beta2.into(),
            c1,
            c2,
            rule.eps.into(),
            rule.scale.into(),
        ];
        launch(rt, &self.adamw, pieces.len(), &args)
    }

    fn table(&mut self, rt: &Runtime, pieces: &[Piece]) -> Result<Span> {
        let table = self.pieces.span(rt, "a table of pieces", size_of_val(pieces).max(1))?;
        rt.upload(pieces, table)?;
        Ok(table)
    }
}

/// `(first element, count)` of the pieces of a tensor.
fn cut(elements: usize, mut piece: impl FnMut(u64, i32)) {
    for first in (0..elements).step_by(PIECE) {
        piece(first as u64, PIECE.min(elements - first) as i32);
    }
}

fn launch(rt: &Runtime, kernel: &Kernel, pieces: usize, args: &[Arg]) -> Result<()> {
    // SAFETY: each caller gives the kernel's parameters; pieces lie inside spans whose sizes it has checked; whoever made the spans
    // vouches for the memory.
    unsafe { kernel.launch(rt, [pieces, 1, 1], 256, 0, args) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_tensor_once() {
        for elements in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5] {
            let mut seen = 0u64;
            cut(elements, |first, count| {
                assert_eq!(first, seen);
                assert!(count > 0 && count as usize <= PIECE);
                seen += count as u64;
            });
            assert_eq!(seen, elements as u64);
        }
    }
}
