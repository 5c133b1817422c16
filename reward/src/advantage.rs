//! Rewards of one group -> advantages per token class (GRPO with hierarchical reward decomposition).

use rollout::reward::{Advantage, Reward};

pub use crate::config::{AdvNorm, Baseline, Mode, StdEstimator};

/// Added to the standard deviation before dividing.
const DELTA: f64 = 1e-8;

/// The advantage part of the `[reward]` section.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdvantageConfig {
    pub mode: Mode,
    pub uniform_beta: f64,
    pub adv_norm: AdvNorm,
    pub std_estimator: StdEstimator,
    pub baseline: Baseline,
    pub zero_advantages: bool,
}

impl Default for AdvantageConfig {
    fn default() -> Self {
        crate::config::RewardConfig::default().advantage()
    }
}

/// Advantages of a group's survivors, in their order:
///
/// ```text
/// A_j^c = r_j^c - mean_k r_k^c        [/ (std_k r_k^c + 1e-8)]      [* G / (G - 1)]      c in {plan, code}
/// ```
///
/// with `r^plan = plan`, `r^code = code` under `Mode::Hrd`, and both `beta * code + (1 - beta) * plan` under
/// `Mode::Uniform`. Masked members (infrastructure faults) must be left out by the caller, or see
/// `advantages_masked`. A class whose rewards are all equal, and a group of fewer than two, gets exact zeros.
pub fn advantages(rewards: &[Reward], config: &AdvantageConfig) -> Vec<Advantage> {
    if config.zero_advantages {
        return vec![Advantage { plan: 0.0, code: 0.0 }; rewards.len()];
    }
    let beta = config.uniform_beta;
    let mix = |r: &Reward| beta * r.code + (1.0 - beta) * r.plan;
    let (plan, code): (Vec<f64>, Vec<f64>) = match config.mode {
        Mode::Hrd => rewards.iter().map(|r| (r.plan, r.code)).unzip(),
        Mode::Uniform => rewards.iter().map(|r| (mix(r), mix(r))).unzip(),
    };
    let (plan, code) = (class(&plan, config), class(&code, config));
    plan.into_iter().zip(code).map(|(plan, code)| Advantage { plan, code }).collect()
}

/// The same with masked members in place: they leave numerator and baseline and get `None`.
pub fn advantages_masked(rewards: &[Option<Reward>], config: &AdvantageConfig) -> Vec<Option<Advantage>> {
    let survivors: Vec<Reward> = rewards.iter().flatten().copied().collect();
    let mut credited = advantages(&survivors, config).into_iter();
    rewards.iter().map(|r| r.as_ref().and_then(|_| credited.next())).collect()
}

/// No class of the group carries a gradient: all plan rewards equal and all code rewards equal.
pub fn is_degenerate(rewards: &[Reward]) -> bool {
    rewards.windows(2).all(|w| w[0].plan == w[1].plan && w[0].code == w[1].code)
}

/// One class: `G` rewards -> `G` advantages.
fn class(rewards: &[f64], config: &AdvantageConfig) -> Vec<f64> {
    let g = rewards.len();
    if g < 2 || rewards.windows(2).all(|w| w[0] == w[1]) {
        return vec![0.0; g];
    }
    let count = g as f64;
    let mean = rewards.iter().sum::<f64>() / count;
    let mut scale = match config.adv_norm {
        AdvNorm::Center => 1.0,
        AdvNorm::Std => {
            let squares = rewards.iter().map(|r| (r - mean).powi(2)).sum::<f64>();
            let denominator = match config.std_estimator {
                StdEstimator::Unbiased => count - 1.0,
                StdEstimator::Population => count,
            };
            1.0 / ((squares / denominator).sqrt() + DELTA)
        }
    };
    if config.baseline == Baseline::LeaveOneOut {
        scale *= count / (count - 1.0);
    }
    rewards.iter().map(|r| (r - mean) * scale).collect()
}
