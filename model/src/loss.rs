//! The clipped policy objective, token by token, as plain arithmetic: value and exact derivative.
//!
//! For a token of class `c` (plan or code) with weight `w_c`, advantage `A_c`, log-prob `l` under the learner and `l_b` under the
//! policy that sampled it, `rho = exp(l - l_b)`:
//!
//! `loss = w_c * (-min(rho A_c, clip(rho, 1 - clip_low, 1 + clip_high) A_c) + kl_coef * k3)`,
//! `k3 = exp(l_ref - l) - (l_ref - l) - 1`.
//!
//! `d loss / d l = -w_c A_c rho` where the first argument of `min` is the smaller (ties included), else 0, plus
//! `w_c kl_coef (1 - exp(l_ref - l))`. Weights and advantages are computed elsewhere; this module knows no algorithm.

use serde::{Deserialize, Serialize};

/// The objective and how it is computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    pub clip_low: f32,
    pub clip_high: f32,
    /// Coefficient of the estimate of the KL divergence to the reference network; 0 = off.
    pub kl_coef: f32,
    /// Log-probs are those of `softmax(logits / temperature)`, the sampling temperature, over the whole vocabulary. Where the
    /// sampler truncates (`top_k`, `top_p`, `min_p`) the behaviour log-prob is the one of the truncated, renormalised
    /// distribution, so `rho` is too small by the kept mass of that token's row: ratios, clip fraction and mismatch KL are
    /// biased. Nothing here corrects that (the kept set would have to be that of each policy).
    pub temperature: f32,
    /// Sequences per forward and backward pass.
    pub micro_batch: usize,
    /// Global norm the gradient is scaled down to; 0 = off.
    pub grad_clip: f32,
    /// Passes over the batch, one optimizer update each.
    pub epochs: usize,
    /// Skip the backward pass of samples whose gradient is exactly zero (both advantages zero, no KL). They still count in
    /// the statistics.
    pub skip_zero: bool,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            clip_low: 0.2,
            clip_high: 0.2,
            kl_coef: 0.0,
            temperature: 1.0,
            micro_batch: 16,
            grad_clip: 1.0,
            epochs: 1,
            skip_zero: true,
        }
    }
}

/// One token's share of the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Term {
    pub loss: f64,
    /// `d loss / d log-prob`
    pub d_logprob: f64,
}

/// What the objective needs to know of one token besides its log-prob.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenInput {
    /// Log-prob under the policy that sampled it.
    pub behaviour: f64,
    pub advantage: f64,
    pub weight: f64,
    /// Log-prob under the reference network, where there is one.
    pub reference: Option<f64>,
}

impl LossConfig {
    /// See the module's formula. `logprob`: under the network being trained.
    pub fn term(&self, token: &TokenInput, logprob: f64) -> Term {
        let rho = (logprob - token.behaviour).exp();
        let (low, high) = (1.0 - f64::from(self.clip_low), 1.0 + f64::from(self.clip_high));
        let (plain, clipped) = (rho * token.advantage, rho.clamp(low, high) * token.advantage);
        let mut term = if self.is_clipped(token.advantage, rho) {
            Term { loss: -token.weight * clipped, d_logprob: 0.0 }
        } else {
            Term { loss: -token.weight * plain, d_logprob: -token.weight * plain }
        };
        if let (Some(reference), true) = (token.reference, self.kl_coef != 0.0) {
            let gap = reference - logprob;
            let scale = token.weight * f64::from(self.kl_coef);
            term.loss += scale * (gap.exp() - gap - 1.0);
            term.d_logprob += scale * (1.0 - gap.exp());
        }
        term
    }

    /// Whether the clip takes this token's gradient.
    pub fn is_clipped(&self, advantage: f64, rho: f64) -> bool {
        (advantage > 0.0 && rho > 1.0 + f64::from(self.clip_high))
            || (advantage < 0.0 && rho < 1.0 - f64::from(self.clip_low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(advantage: f64, behaviour: f64) -> TokenInput {
        TokenInput { behaviour, advantage, weight: 0.5, reference: None }
    }

    #[test]
    fn values_equal_a_hand_computation() {
        let config = LossConfig::default();
        // rho = 1.1: inside the clip on both sides.
        let inside = config.term(&input(2.0, 0.5f64.ln()), 0.55f64.ln());
        assert!((inside.loss - -1.1).abs() < 1e-12);
        assert!((inside.d_logprob - -1.1).abs() < 1e-12);
        // rho = 1.5, A > 0: clipped at 1.2, no gradient.
        let above = config.term(&input(2.0, 0.4f64.ln()), 0.6f64.ln());
        assert!((above.loss - -1.2).abs() < 1e-7);
        assert_eq!(above.d_logprob, 0.0);
        // rho = 1.5, A < 0: the plain term is the smaller, gradient flows.
        let pessimistic = config.term(&input(-2.0, 0.4f64.ln()), 0.6f64.ln());
        assert!((pessimistic.loss - 1.5).abs() < 1e-12);
        assert!((pessimistic.d_logprob - 1.5).abs() < 1e-12);
        // rho = 0.5, A < 0: clipped at 0.8.
        let below = config.term(&input(-2.0, 0.8f64.ln()), 0.4f64.ln());
        assert!((below.loss - 0.8).abs() < 1e-7);
        assert_eq!(below.d_logprob, 0.0);
    }

    #[test]
    fn the_derivative_is_the_slope() {
        let config = LossConfig { kl_coef: 0.3, ..LossConfig::default() };
        for advantage in [-1.5, 0.0, 0.7] {
            let token = TokenInput { behaviour: -1.0, advantage, weight: 0.25, reference: Some(-1.4) };
            for logprob in [-2.0, -1.1, -0.95, -0.5] {
                let h = 1e-6;
                let slope = (config.term(&token, logprob + h).loss - config.term(&token, logprob - h).loss) / (2.0 * h);
                let found = config.term(&token, logprob).d_logprob;
                assert!((found - slope).abs() < 1e-7, "A {advantage}, log-prob {logprob}: {found} against {slope}");
            }
        }
    }
}
