//! Corrections for answers that another policy sampled than the one being trained: which objective, and what becomes of each token.
//!
//! Three policies meet in an update: `b` sampled the answer (behaviour), `p` is the learner as the update starts (proximal), `pi` is
//! the learner in each pass over the batch. With token weight `w_t`, advantage `A_t` and `S(r, A) = min(r A, clip(r) A)` (`clip`):
//!
//! ```text
//! L = - sum_t  m_t w_t k_t S(r_t, A_t)
//!
//! policy loss            r_t                            k_t
//! ppo                    pi_t / b_t                     1
//! decoupled              pi_t / p_t                     p_t / b_t, or min(p_t / b_t, C) (truncated)
//! gspo, gspo_token       the answer's own: see `gspo`   1
//! ```
//!
//! `m_t` is 0 for tokens that IcePop masks and for answers that are rejected, else 1; the KL term is masked with it. `m` and `k` are
//! functions of `b` and `p` alone: constants of the update, no gradient flows through them. Nothing is divided by how many tokens
//! are left: a dropped token keeps its share of the length normalisation, so that the others weigh what they did.
//!
//! Numbers that are not finite are never dropped by a comparison that fails: they reach the loss, and the step is skipped.

pub mod clip;
pub mod decoupled;
pub mod geometric;
pub mod gspo;
pub mod icepop;
pub mod tally;
pub mod tis;

use serde::{Deserialize, Serialize};

use geometric::{Bounds, Verdict};
use icepop::Range;

/// The ratio that is clipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyLoss {
    /// Each token's, to the policy that sampled it.
    #[default]
    Ppo,
    /// Each token's, to the learner as the update started (`decoupled`).
    Decoupled,
    /// The answer's (`gspo`).
    Gspo,
    /// The answer's; each token's gradient by its own advantage (`gspo`).
    GspoToken,
}

/// What is done about a token whose proximal probability is far from its behaviour probability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mismatch {
    #[default]
    None,
    /// Its weight is capped (`tis`).
    Truncated,
    /// It is left out (`icepop`).
    Icepop,
}

/// The default corrects nothing: PPO on the ratio to the behaviour policy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Correction {
    pub policy_loss: PolicyLoss,
    pub mismatch: Mismatch,
    /// `C` of the truncated weight.
    pub truncate_at: f64,
    pub icepop: Range,
    /// Answers outside are rejected; `None` = off.
    pub reject: Option<Bounds>,
}

impl Default for Correction {
    fn default() -> Self {
        Self {
            policy_loss: PolicyLoss::Ppo,
            mismatch: Mismatch::None,
            truncate_at: 2.0,
            icepop: Range::default(),
            reject: None,
        }
    }
}

/// A combination that cannot mean anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CorrectionError {
    #[error(
        "a truncated weight needs the decoupled policy loss, found {0:?}: in its ratio the weight is a factor already"
    )]
    NothingToTruncate(PolicyLoss),
    #[error("{name} is {found}, expected {expected}: a token on which all policies agree has to count as it is")]
    Bounds { name: &'static str, found: String, expected: &'static str },
}

/// What an update makes of one token, the same in each of its passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Credit {
    /// The log-prob that the ratio's denominator is made of.
    pub anchor: f64,
    /// `k` above.
    pub weight: f64,
    pub fate: Fate,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    #[default]
    Kept,
    /// Kept with a capped weight.
    Truncated,
    Masked,
    /// Its answer's mean ratio is out of bounds.
    Rejected,
    /// A token of its answer has next to no probability.
    Vetoed,
}

impl Fate {
    /// `m` above is 1.
    pub fn counts(self) -> bool {
        matches!(self, Fate::Kept | Fate::Truncated)
    }

    /// As it is stored; from 2 on the token did not count.
    pub fn code(self) -> u8 {
        match self {
            Fate::Kept => 0,
            Fate::Truncated => 1,
            Fate::Masked => 2,
            Fate::Rejected => 3,
            Fate::Vetoed => 4,
        }
    }
}

impl Credit {
    /// No correction: the ratio to the behaviour policy.
    pub fn behaviour(logprob: f64) -> Self {
        Credit { anchor: logprob, weight: 1.0, fate: Fate::Kept }
    }

    /// `m k` above.
    pub fn factor(&self) -> f64 {
        if self.fate.counts() { self.weight } else { 0.0 }
    }
}

impl Correction {
    /// Without proximal log-probs nothing can be corrected.
    pub fn needs_proximal(&self) -> bool {
        self.policy_loss == PolicyLoss::Decoupled || self.mismatch != Mismatch::None || self.reject.is_some()
    }

    /// The ratio is one of whole answers.
    pub fn by_answer(&self) -> bool {
        matches!(self.policy_loss, PolicyLoss::Gspo | PolicyLoss::GspoToken)
    }

    pub fn check(&self) -> Result<(), CorrectionError> {
        if self.mismatch == Mismatch::Truncated && self.policy_loss != PolicyLoss::Decoupled {
            return Err(CorrectionError::NothingToTruncate(self.policy_loss));
        }
        let bad = |name, found: String, expected| Err(CorrectionError::Bounds { name, found, expected });
        let holds_one = |low: f64, high: f64| (0.0..=1.0).contains(&low) && high >= 1.0;
        if self.truncate_at.is_nan() || self.truncate_at < 1.0 {
            return bad("truncate_at", self.truncate_at.to_string(), "at least 1");
        }
        if !holds_one(self.icepop.low, self.icepop.high) {
            return bad("icepop", format!("{:?}", self.icepop), "a range that holds 1");
        }
        match &self.reject {
            Some(b) if !(holds_one(b.low, b.high) && (0.0..1.0).contains(&b.veto)) => {
                bad("reject", format!("{b:?}"), "a range that holds 1 and a veto below 1")
            }
            _ => Ok(()),
        }
    }

    /// One token by its own log-probs; whether its answer is rejected is not looked at.
    pub fn token(&self, behaviour: f64, proximal: f64) -> Credit {
        let importance = decoupled::importance(behaviour, proximal);
        let mut credit = match self.policy_loss {
            PolicyLoss::Decoupled => Credit { anchor: proximal, weight: importance, fate: Fate::Kept },
            _ => Credit::behaviour(behaviour),
        };
        match self.mismatch {
            Mismatch::None => {}
            Mismatch::Truncated => {
                credit.weight = tis::weight(importance, self.truncate_at);
                if tis::is_truncated(importance, self.truncate_at) {
                    credit.fate = Fate::Truncated;
                }
            }
            Mismatch::Icepop => {
                if !self.icepop.keeps(importance) {
                    credit.fate = Fate::Masked;
                }
            }
        }
        credit
    }

    /// All tokens of one answer. Both slices have its length.
    pub fn answer(&self, behaviour: &[f64], proximal: &[f64]) -> Vec<Credit> {
        let mut credits: Vec<Credit> = behaviour.iter().zip(proximal).map(|(b, p)| self.token(*b, *p)).collect();
        let verdict = match &self.reject {
            None => Verdict::Accepted,
            Some(bounds) => {
                let log_ratios: Vec<f64> = proximal.iter().zip(behaviour).map(|(p, b)| p - b).collect();
                bounds.judge(&log_ratios)
            }
        };
        let fate = match verdict {
            Verdict::Accepted => return credits,
            Verdict::OutOfBounds => Fate::Rejected,
            Verdict::Vetoed => Fate::Vetoed,
        };
        credits.iter_mut().for_each(|c| c.fate = fate);
        credits
    }
}
