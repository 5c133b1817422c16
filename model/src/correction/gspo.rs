//! GSPO: one ratio per answer (Zheng et al., arXiv 2507.18071: section 4.1 the objective, 4.2 its gradient, 4.3 the token variant).
//!
//! Over the `T` tokens of an answer that a mask leaves, `b` the policy that sampled:
//!
//! ```text
//! s = exp((1 / T) sum_t ln(pi_t / b_t))
//!
//! gspo         L = - sum_t w_t S(s, A_t)
//!              d L / d l_u = - (s / T) sum_{t not clipped} w_t A_t                 the same for every token u
//! gspo_token   s_t = sg(s) pi_t / sg(pi_t)     (sg: no gradient; the value is s)
//!              L = - sum_t w_t S(s_t, A_t)
//!              d L / d l_t = - w_t A_t s   where not clipped, else 0
//! ```
//!
//! The paper has one advantage an answer and `w_t = 1 / T`: then both gradients are equal. Here plan and code have advantages of
//! their own: `gspo` credits their weighted sum to all tokens, `gspo_token` each to its own. The clip is around the whole answer's
//! ratio, which moves far less than a token's: the paper's bounds are 3e-4 below and 4e-4 above.

use super::clip::{Clip, Surrogate};
use super::geometric::mean;

/// One token that a mask leaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Token {
    /// `ln(pi / b)`
    pub log_ratio: f64,
    pub advantage: f64,
    pub weight: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    Sequence,
    Token,
}

/// `ln s`
pub fn log_ratio(tokens: &[Token]) -> f64 {
    mean(tokens.iter().map(|t| t.log_ratio))
}

/// For each token `w S`, and as slope the derivative of the whole answer's sum with respect to this token's log-prob.
pub fn surrogates(clip: &Clip, tokens: &[Token], variant: Variant) -> Vec<Surrogate> {
    let ratio = log_ratio(tokens).exp();
    let mut found: Vec<Surrogate> = tokens
        .iter()
        .map(|t| {
            let plain = clip.surrogate(ratio, t.advantage);
            Surrogate { value: t.weight * plain.value, slope: t.weight * plain.slope, cut: plain.cut }
        })
        .collect();
    if variant == Variant::Sequence {
        let shared = mean(found.iter().map(|s| s.slope));
        found.iter_mut().for_each(|s| s.slope = shared);
    }
    found
}
