//! The two rewards of a rollout (TritonRL, section 3: hierarchical reward decomposition).

use serde::{Deserialize, Serialize};

/// Scored result of one rollout. Units: `plan` is a clipped speed-up (or correctness where nothing is timed),
/// `code` is 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reward {
    pub plan: f64,
    pub code: f64,
}

/// Advantages of one rollout, per token class.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Advantage {
    pub plan: f64,
    pub code: f64,
}
