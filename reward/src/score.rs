//! Outcome -> reward: the only door from what a candidate did to what it is worth. A `Fault` cannot come in here.

use rollout::outcome::Outcome;
use rollout::reward::Reward;

pub use crate::config::{MissingDelimiter, Mode, PlanFallback, RewardConfig};

/// What one outcome is worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scored {
    Reward(Reward),
    /// Not trained on: an answer without `</think>` under `missing_delimiter = "drop"`.
    Drop,
}

impl Scored {
    /// The reward, `None` when dropped.
    pub fn reward(self) -> Option<Reward> {
        match self {
            Scored::Reward(reward) => Some(reward),
            Scored::Drop => None,
        }
    }
}

/// TritonRL's two rewards (arXiv 2510.17891, section 3):
///
/// ```text
/// code = valid * correct                          in {0, 1}
/// plan = valid * min(correct * speedup, clip)     clip = speed_clip, 0 = none
/// ```
///
/// `Passed` is the only outcome that is valid and correct, every other one is worth (0, 0): invalid is not negative.
/// A candidate that passed and was not timed gets `plan_fallback`. A speed-up that is not a positive finite number is
/// worth 0. An answer without the plan's delimiter is worth (0, 0) or dropped, whatever its code did.
///
/// The reward keeps its two terms in every mode; `advantages` mixes them under `Mode::Uniform`.
pub fn score(outcome: &Outcome, has_delimiter: bool, config: &RewardConfig) -> Scored {
    if !has_delimiter {
        return match config.missing_delimiter {
            MissingDelimiter::Zero => Scored::Reward(Reward { plan: 0.0, code: 0.0 }),
            MissingDelimiter::Drop => Scored::Drop,
        };
    }
    let Outcome::Passed { speedup } = outcome else {
        return Scored::Reward(Reward { plan: 0.0, code: 0.0 });
    };
    let plan = match speedup {
        None => match config.plan_fallback {
            PlanFallback::Correctness => 1.0,
            PlanFallback::Zero => 0.0,
        },
        Some(s) if !s.is_finite() || *s <= 0.0 => 0.0,
        Some(s) if config.speed_clip > 0.0 => s.min(config.speed_clip),
        Some(s) => *s,
    };
    Scored::Reward(Reward { plan, code: 1.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rollout::outcome::Phase;

    fn of(outcome: Outcome, config: &RewardConfig) -> (f64, f64) {
        let reward = score(&outcome, true, config).reward().expect("not dropped");
        (reward.plan, reward.code)
    }

    #[test]
    fn only_passed_is_worth_anything() {
        let config = RewardConfig::default();
        let message = String::new();
        for outcome in [
            Outcome::Unparsed { reason: message.clone() },
            Outcome::Rejected { reason: message.clone() },
            Outcome::CompileError { message: message.clone() },
            Outcome::Crashed { phase: Phase::Run, message: message.clone() },
            Outcome::OutOfMemory { phase: Phase::Run, message: message.clone() },
            Outcome::TimedOut { phase: Phase::Run, limit_ms: 1 },
            Outcome::WrongAnswer { message: message.clone() },
            Outcome::Implausible { message },
        ] {
            assert_eq!(of(outcome, &config), (0.0, 0.0));
        }
    }

    #[test]
    fn speed_is_clipped_and_falls_back() {
        let mut config = RewardConfig::default();
        let passed = |speedup| Outcome::Passed { speedup };
        assert_eq!(of(passed(Some(1.5)), &config), (1.5, 1.0));
        assert_eq!(of(passed(Some(0.5)), &config), (0.5, 1.0));
        assert_eq!(of(passed(Some(50.0)), &config), (2.0, 1.0));
        assert_eq!(of(passed(None), &config), (1.0, 1.0));
        config.plan_fallback = PlanFallback::Zero;
        assert_eq!(of(passed(None), &config), (0.0, 1.0));
        config.speed_clip = 0.0;
        assert_eq!(of(passed(Some(50.0)), &config), (50.0, 1.0));
        for broken in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.0] {
            assert_eq!(of(passed(Some(broken)), &config), (0.0, 1.0), "{broken}");
        }
    }

    #[test]
    fn no_delimiter_is_zero_or_dropped() {
        let mut config = RewardConfig::default();
        let passed = Outcome::Passed { speedup: Some(1.5) };
        assert_eq!(score(&passed, false, &config), Scored::Reward(Reward { plan: 0.0, code: 0.0 }));
        config.missing_delimiter = MissingDelimiter::Drop;
        assert_eq!(score(&passed, false, &config), Scored::Drop);
        assert_eq!(score(&passed, true, &config), Scored::Reward(Reward { plan: 1.5, code: 1.0 }));
    }
}
