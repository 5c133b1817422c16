//! Truncated importance sampling: the weight of a token is capped (Ionides 2008, "Truncated importance sampling"; for
//! the mismatch of sampler and learner: Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training").
//!
//! ```text
//! k_t = min(p_t / b_t, C)             p: the learner as the update starts ("old"), b: the policy that sampled
//! L_t = - w_t k_t S(pi_t / p_t, A_t)
//! d k_t / d l_t = 0                   (a constant of the update)
//! d L_t / d l_t = - w_t k_t A_t pi_t / p_t   where the clip leaves it, else 0
//! ```
//!
//! The cap makes the variance finite and pulls tokens that the learner likes better than the sampler did towards their uncorrected
//! weight. `C >= 1`, so that tokens on which both agree count fully.

/// `min(importance, cap)`. What is not a number stays so.
pub fn weight(importance: f64, cap: f64) -> f64 {
    if is_truncated(importance, cap) { cap } else { importance }
}

pub fn is_truncated(importance: f64, cap: f64) -> bool {
    importance > cap
}
