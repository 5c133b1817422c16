//! The policy objective, token by token, as plain arithmetic: value and exact derivative.
//!
//! For a token of class `c` (plan or code) with weight `w_c`, advantage `A_c` and log-prob `l` under the learner; `a` is the log-prob
//! its ratio is taken to, `k` a constant weight and `m` a constant mask, all three by `correction` (without one: `a` is the log-prob
//! under the policy that sampled it, `k = m = 1`); `rho = exp(l - a)`, or the whole answer's ratio (`correction::gspo`):
//!
//! `loss = m w_c * (-k min(rho A_c, clip(rho, 1 - clip_low, 1 + clip_high) A_c) + kl_coef * k3)`,
//! `k3 = exp(l_ref - l) - (l_ref - l) - 1`.
//!
//! `d loss / d l = -m w_c k A_c rho` where the first argument of `min` is the smaller (ties included), else 0, plus
//! `m w_c kl_coef (1 - exp(l_ref - l))`. Weights and advantages are computed elsewhere; this module knows no algorithm.

use serde::{Deserialize, Serialize};

use crate::correction::clip::{Clip, Cut, Surrogate};
use crate::correction::{Correction, Credit, PolicyLoss, decoupled, gspo};

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
    /// What answers of another policy than the learner are corrected by.
    pub correction: Correction,
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
            correction: Correction::default(),
        }
    }
}

/// One token's share of the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Term {
    pub loss: f64,
    /// `d loss / d log-prob`
    pub d_logprob: f64,
    /// Whether the clip took its gradient.
    pub cut: Cut,
}

/// What the objective needs to know of one token besides its log-prob.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenInput {
    pub credit: Credit,
    pub advantage: f64,
    pub weight: f64,
    /// Log-prob under the reference network, where there is one.
    pub reference: Option<f64>,
}

impl LossConfig {
    /// See the module's formula, for a ratio of the token's own. `logprob`: under the network being trained.
    pub fn term(&self, token: &TokenInput, logprob: f64) -> Term {
        if !token.credit.fate.counts() {
            return Term::default();
        }
        let log_ratio = logprob - token.credit.anchor;
        let surrogate = decoupled::surrogate(&self.clip(), log_ratio, token.credit.weight, token.advantage);
        let weight = -token.weight;
        let mut term = Term { loss: weight * surrogate.value, d_logprob: 0.0, cut: surrogate.cut };
        if surrogate.cut == Cut::No {
            term.d_logprob = weight * surrogate.slope;
        }
        self.add_kl(token, logprob, &mut term);
        term
    }

    /// One answer's tokens; `d_logprob` is the derivative of the answer's summed loss with respect to that token's log-prob.
    pub fn answer(&self, tokens: &[TokenInput], logprobs: &[f64]) -> Vec<Term> {
        let variant = match self.correction.policy_loss {
            PolicyLoss::Gspo => gspo::Variant::Sequence,
            PolicyLoss::GspoToken => gspo::Variant::Token,
            PolicyLoss::Ppo | PolicyLoss::Decoupled => {
                return tokens.iter().zip(logprobs).map(|(token, l)| self.term(token, *l)).collect();
            }
        };
        let counts = |t: &TokenInput| t.credit.fate.counts();
        let kept: Vec<gspo::Token> = tokens
            .iter()
            .zip(logprobs)
            .filter(|(t, _)| counts(t))
            .map(|(t, l)| gspo::Token { log_ratio: l - t.credit.anchor, advantage: t.advantage, weight: t.weight })
            .collect();
        let mut found = gspo::surrogates(&self.clip(), &kept, variant).into_iter();
        let mut term = |(token, logprob): (&TokenInput, &f64)| {
            let Some(Surrogate { value, slope, cut }) = counts(token).then(|| found.next()).flatten() else {
                return Term::default();
            };
            let mut term = Term { loss: -value, d_logprob: -slope, cut };
            self.add_kl(token, *logprob, &mut term);
            term
        };
        tokens.iter().zip(logprobs).map(&mut term).collect()
    }

    fn clip(&self) -> Clip {
        Clip { low: 1.0 - f64::from(self.clip_low), high: 1.0 + f64::from(self.clip_high) }
    }

    fn add_kl(&self, token: &TokenInput, logprob: f64, term: &mut Term) {
        if let (Some(reference), true) = (token.reference, self.kl_coef != 0.0) {
            let gap = reference - logprob;
            let scale = token.weight * f64::from(self.kl_coef);
            term.loss += scale * (gap.exp() - gap - 1.0);
            term.d_logprob += scale * (1.0 - gap.exp());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(advantage: f64, behaviour: f64) -> TokenInput {
        TokenInput { credit: Credit::behaviour(behaviour), advantage, weight: 0.5, reference: None }
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
            let credit = Credit::behaviour(-1.0);
            let token = TokenInput { credit, advantage, weight: 0.25, reference: Some(-1.4) };
            for logprob in [-2.0, -1.1, -0.95, -0.5] {
                let h = 1e-6;
                let slope = (config.term(&token, logprob + h).loss - config.term(&token, logprob - h).loss) / (2.0 * h);
                let found = config.term(&token, logprob).d_logprob;
                assert!((found - slope).abs() < 1e-7, "A {advantage}, log-prob {logprob}: {found} against {slope}");
            }
        }
    }
}
