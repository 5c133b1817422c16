//! Rejection of whole answers by the geometric mean of their tokens' ratios, with a token's veto (Dr.Kernel, arXiv 2602.05885:
//! mismatch rejection sampling, bounds [0.999, 1.001], veto 1e-4).
//!
//! ```text
//! g = exp((1 / T) sum_t ln(p_t / b_t))
//! m = 0  where g < low or g > high, or some p_t / b_t < veto;  else 1
//! d m / d l_t = 0   (a constant of the update): a rejected answer has exactly no gradient
//! ```
//!
//! The mean is taken over the length, so long answers are not rejected for being long. A mean forgives one impossible token among
//! many; the veto does not.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    pub low: f64,
    pub high: f64,
    /// 0 = no veto.
    pub veto: f64,
}

impl Default for Bounds {
    /// Dr.Kernel's.
    fn default() -> Self {
        Bounds { low: 0.999, high: 1.001, veto: 1e-4 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    OutOfBounds,
    Vetoed,
}

impl Bounds {
    /// By the logarithms of an answer's token ratios. An answer without tokens is accepted; so is one with something that is
    /// not a number, which then shows in the loss.
    pub fn judge(&self, log_ratios: &[f64]) -> Verdict {
        if log_ratios.iter().any(|l| l.exp() < self.veto) {
            return Verdict::Vetoed;
        }
        let mean = mean(log_ratios.iter().copied()).exp();
        if mean < self.low || mean > self.high { Verdict::OutOfBounds } else { Verdict::Accepted }
    }
}

/// 0 of nothing.
pub(super) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), v| (sum + v, count + 1));
    if count == 0 { 0.0 } else { sum / count as f64 }
}
