//! The clipped surrogate of PPO (Schulman et al., arXiv 1707.06347, equation 7), with a bound of its own on each side: clip-higher
//! is DAPO's (arXiv 2503.14476, section 3.1, equation 10).
//!
//! ```text
//! S(r, A) = min(r A, clip(r, 1 - low, 1 + high) A)
//! d S / d ln r = r A    where the first argument is the smaller (ties included), else 0
//! ```
//!
//! A ratio of one token has `d ln r / d l = 1` for that token's log-prob `l` under the learner, so this is the derivative with
//! respect to it.

/// The bounds themselves, not their distance to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    pub low: f64,
    pub high: f64,
}

/// Which bound took the gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cut {
    #[default]
    No,
    Low,
    High,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Surrogate {
    pub value: f64,
    /// With respect to the logarithm of the ratio.
    pub slope: f64,
    pub cut: Cut,
}

impl Clip {
    pub fn surrogate(&self, ratio: f64, advantage: f64) -> Surrogate {
        let plain = ratio * advantage;
        match self.cut(ratio, advantage) {
            Cut::No => Surrogate { value: plain, slope: plain, cut: Cut::No },
            cut => Surrogate { value: ratio.clamp(self.low, self.high) * advantage, slope: 0.0, cut },
        }
    }

    fn cut(&self, ratio: f64, advantage: f64) -> Cut {
        if advantage > 0.0 && ratio > self.high {
            Cut::High
        } else if advantage < 0.0 && ratio < self.low {
            Cut::Low
        } else {
            Cut::No
        }
    }
}
