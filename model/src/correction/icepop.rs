//! IcePop: tokens whose probabilities under learner and sampler differ too much are left out (Ling Team, "Every Step Evolves:
//! Scaling Reinforcement Learning for Trillion-Scale Thinking Model", arXiv 2510.18855, the section on IcePop).
//!
//! ```text
//! M(k) = k  where low <= k <= high, else 0        k_t = p_t / b_t
//! L_t  = - w_t M(k_t) S(pi_t / p_t, A_t)          decoupled: exactly this
//! L_t  = - w_t 1[low <= k_t <= high] S(r_t, A_t)  ppo, gspo: k is a factor of their ratio already, only the mask is left
//! d M / d l_t = 0                                 (a constant of the update)
//! d L_t / d l_t = M(k_t) times that of the uncorrected term; exactly 0 for a masked token
//! ```
//!
//! Unlike truncation it discards both sides: where the learner finds a token far less likely than the sampler did, too.

use serde::{Deserialize, Serialize};

/// The ratios that are kept, bounds included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    pub low: f64,
    pub high: f64,
}

impl Default for Range {
    /// The paper's.
    fn default() -> Self {
        Range { low: 0.5, high: 5.0 }
    }
}

impl Range {
    /// What is not a number is kept: it has to be seen, not hidden.
    pub fn keeps(&self, importance: f64) -> bool {
        !(importance < self.low || importance > self.high)
    }
}
