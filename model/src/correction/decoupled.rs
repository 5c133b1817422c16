//! Decoupled PPO: the trust region is around the learner as the update starts, not around the stale policy that sampled (Hilton et
//! al., arXiv 2110.00641, section 3; for asynchronous training: AReaL, arXiv 2505.24298, section 5, the decoupled PPO objective).
//!
//! ```text
//! L_t = - w_t (p_t / b_t) S(pi_t / p_t, A_t)
//! d L_t / d l_t = - w_t (p_t / b_t) (pi_t / p_t) A_t = - w_t (pi_t / b_t) A_t   where the clip leaves it, else 0
//! ```
//!
//! Same gradient as PPO inside the clip; the clip itself no longer takes tokens for how old they are. In the first pass `pi = p`:
//! nothing is clipped. `p` is not stored with the answers, the learner computes it.
//!
//! The product is exact for PPO, too: with importance 1 and the behaviour policy's log-prob in the ratio.

use super::clip::{Clip, Surrogate};

/// `p / b`.
pub fn importance(behaviour: f64, proximal: f64) -> f64 {
    (proximal - behaviour).exp()
}

/// `importance * S(exp(log_ratio), advantage)`, `log_ratio` of the learner to the policy the clip is around.
pub fn surrogate(clip: &Clip, log_ratio: f64, importance: f64, advantage: f64) -> Surrogate {
    let plain = clip.surrogate(log_ratio.exp(), advantage);
    Surrogate { value: importance * plain.value, slope: importance * plain.slope, cut: plain.cut }
}
