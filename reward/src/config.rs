//! The `[reward]` section of the run file: every switch on which the published descriptions of TritonRL disagree.
//!
//! Field names and defaults equal those in `cluster.toml`. `RewardConfig::advantage` and `RewardConfig::weights` cut
//! out what the two later stages need.

use serde::{Deserialize, Serialize};

use crate::advantage::AdvantageConfig;
use crate::weights::WeightConfig;

/// Which reward which token class is credited with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Plan tokens: clipped speed-up. Code tokens: correctness.
    Hrd,
    /// All tokens: `uniform_beta * correct + (1 - uniform_beta) * speed-up`.
    Uniform,
}

/// The plan reward of a correct candidate that nobody timed (no GPU).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanFallback {
    Correctness,
    Zero,
}

/// How rewards of one group become advantages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdvNorm {
    /// Subtract the baseline.
    Center,
    /// Subtract the baseline and divide by the group's standard deviation.
    Std,
}

/// Denominator of the variance with `AdvNorm::Std`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StdEstimator {
    /// `G - 1` (`torch.std`).
    Unbiased,
    /// `G`.
    Population,
}

/// What is subtracted from a reward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// The group's mean.
    GroupMean,
    /// The mean of the others; equals the centred reward times `G / (G - 1)` (TRLOO).
    LeaveOneOut,
}

/// `N_j^c` of the objective: what a sample's token sum is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LenNorm {
    /// Tokens of that class in that sample.
    PerClass,
    /// All tokens of that sample.
    Sequence,
    /// All tokens of the batch: the mean over tokens instead of over samples.
    TokenMean,
    /// `len_norm_constant` tokens.
    Constant,
}

/// What becomes of an answer without `</think>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingDelimiter {
    /// Reward 0 for both classes; the whole answer counts as code tokens.
    Zero,
    /// Not trained on.
    Drop,
}

/// The `[reward]` section.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RewardConfig {
    pub alpha: f64,
    pub mode: Mode,
    pub uniform_beta: f64,
    /// Cap on the rewarded speed-up, 0 = none.
    pub speed_clip: f64,
    pub plan_fallback: PlanFallback,
    pub adv_norm: AdvNorm,
    pub std_estimator: StdEstimator,
    pub baseline: Baseline,
    pub len_norm: LenNorm,
    /// Tokens.
    pub len_norm_constant: u32,
    pub missing_delimiter: MissingDelimiter,
    pub zero_advantages: bool,
}

impl Default for RewardConfig {
    fn default() -> Self {
        RewardConfig {
            alpha: 0.1,
            mode: Mode::Hrd,
            uniform_beta: 0.3,
            speed_clip: 2.0,
            plan_fallback: PlanFallback::Correctness,
            adv_norm: AdvNorm::Center,
            std_estimator: StdEstimator::Unbiased,
            baseline: Baseline::GroupMean,
            len_norm: LenNorm::PerClass,
            len_norm_constant: 256,
            missing_delimiter: MissingDelimiter::Zero,
            zero_advantages: false,
        }
    }
}

/// A value of the `[reward]` section that makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("reward.{key} = {found}: expected {expected}")]
pub struct RewardConfigError {
    pub key: &'static str,
    pub found: String,
    pub expected: &'static str,
}

impl RewardConfig {
    /// Checks ranges.
    ///
    /// # Errors
    /// The first key out of range, with what was found and what is expected.
    pub fn validate(&self) -> Result<(), RewardConfigError> {
        let range = |key, value: f64, low: f64, high: f64, expected| {
            if value.is_finite() && value >= low && value <= high {
                Ok(())
            } else {
                Err(RewardConfigError { key, found: value.to_string(), expected })
            }
        };
        range("alpha", self.alpha, 0.0, 1e6, "a number from 0 up")?;
        range("uniform_beta", self.uniform_beta, 0.0, 1.0, "a number from 0 to 1")?;
        range("speed_clip", self.speed_clip, 0.0, 1e6, "0 (no cap) or a positive number")?;
        if self.len_norm_constant == 0 {
            return Err(RewardConfigError {
                key: "len_norm_constant",
                found: "0".to_owned(),
                expected: "at least 1 token",
            });
        }
        Ok(())
    }

    /// What `advantages` needs.
    pub fn advantage(&self) -> AdvantageConfig {
        AdvantageConfig {
            mode: self.mode,
            uniform_beta: self.uniform_beta,
            adv_norm: self.adv_norm,
            std_estimator: self.std_estimator,
            baseline: self.baseline,
            zero_advantages: self.zero_advantages,
        }
    }

    /// What `token_weights` needs.
    pub fn weights(&self) -> WeightConfig {
        WeightConfig { alpha: self.alpha, len_norm: self.len_norm, len_norm_constant: self.len_norm_constant }
    }
}
