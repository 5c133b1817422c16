//! How a rollout's rewards and advantages came about, in lines of text; for the terminal and the web page.

use rollout::reward::{Advantage, Reward};

pub use super::verify::verdict_line;
use crate::config::{AdvNorm, Config, PlanFallback, RewardConfig, RewardMode};
use crate::store::reader::{RolloutDetail, RolloutSummary};

/// The plan through its delimiter, and what comes after it; no plan without a delimiter.
pub fn split(answer: &str) -> (Option<&str>, &str) {
    match answer.find(reward::extract::DELIMITER) {
        Some(at) => {
            let (plan, rest) = answer.split_at(at + reward::extract::DELIMITER.len());
            (Some(plan), rest)
        }
        None => (None, answer),
    }
}

/// How the rewards and advantages came about.
pub fn reward_lines(detail: &RolloutDetail, config: Option<&Config>) -> Vec<String> {
    let Some(reward) = detail.reward() else { return Vec::new() };
    let mut out = vec![String::new(), "-- reward".to_string()];
    let verdict = detail.summary.verdict.as_deref().unwrap_or("not known");
    out.push(format!("  verdict {verdict}"));
    if let Some(config) = config {
        let r = &config.reward;
        out.push(match r.mode {
            RewardMode::Hrd => "  mode hrd: plan tokens get the speed-up, code tokens the correctness".to_string(),
            RewardMode::Uniform => format!(
                "  mode uniform: all tokens get {} * correct + {} * speed-up",
                r.uniform_beta,
                1.0 - r.uniform_beta
            ),
        });
        if verdict == "passed" {
            out.push(match (timed(detail), r.plan_fallback) {
                (Some(x), _) if r.speed_clip > 0.0 => {
                    format!("  speed-up {x:.3}, rewarded up to {}", r.speed_clip)
                }
                (Some(x), _) => format!("  speed-up {x:.3}, no cap"),
                (None, PlanFallback::Correctness) => {
                    "  nothing was timed: the plan reward is the correctness (plan_fallback)".to_string()
                }
                (None, PlanFallback::Zero) => {
                    "  nothing was timed: the plan reward is zero (plan_fallback)".to_string()
                }
            });
        }
    }
    out.push(format!("  reward     plan {:.4}   code {:.4}", reward.plan, reward.code));
    if let Some(advantage) = detail.advantage() {
        out.push(format!("  advantage  plan {:+.4}   code {:+.4}", advantage.plan, advantage.code));
        if let Some(config) = config {
            out.push(format!(
                "  in the objective the plan tokens' part counts {} times (reward.alpha)",
                config.reward.alpha
            ));
        }
    }
    out
}

fn timed(detail: &RolloutDetail) -> Option<f64> {
    match &detail.report.as_ref()?.outcome {
        rollout::outcome::Outcome::Passed { speedup } => *speedup,
        _ => None,
    }
}

/// The advantage from the rewards of the group, with the numbers put in. `group` are its members, this one included.
pub fn advantage_lines(
    group: &[RolloutSummary],
    detail: &RolloutDetail,
    advantage: Advantage,
    config: &RewardConfig,
) -> Vec<String> {
    // Those without a reward were lost to faults of ours and are in no mean.
    let scored: Vec<(u64, Reward)> =
        group.iter().filter_map(|s| Some((s.id, Reward { plan: s.reward_plan?, code: s.reward_code? }))).collect();
    let rewards: Vec<Reward> = scored.iter().map(|(_, reward)| *reward).collect();
    let computed = reward::advantage::advantages(&rewards, &config.advantage());
    let own = scored.iter().position(|(id, _)| *id == detail.summary.id).and_then(|n| computed.get(n));
    let mean = |of: fn(&Reward) -> f64| rewards.iter().map(of).sum::<f64>() / rewards.len().max(1) as f64;
    let (plan, code) = (mean(|r| r.plan), mean(|r| r.code));
    let mut out = vec![format!("group of {}: mean reward plan {plan:.4}, code {code:.4}", rewards.len())];
    if config.zero_advantages {
        out.push("reward.zero_advantages: every advantage is zero".to_string());
        return out;
    }
    if config.mode == RewardMode::Hrd {
        let by = match config.adv_norm {
            AdvNorm::Center => "",
            AdvNorm::Std => ", divided by the group's standard deviation",
        };
        if let Some(r) = detail.reward() {
            out.push(format!("plan: {:.4} - {plan:.4} = {:+.4}{by}", r.plan, r.plan - plan));
            out.push(format!("code: {:.4} - {code:.4} = {:+.4}{by}", r.code, r.code - code));
        }
    }
    let agrees = |a: &Advantage| (a.plan - advantage.plan).abs() < 1e-9 && (a.code - advantage.code).abs() < 1e-9;
    out.push(match own {
        Some(own) if agrees(own) => "computed again from the group just now: the same".to_string(),
        Some(own) => format!(
            "computed again from the group just now: plan {:+.4}, code {:+.4}; members may have been dropped since",
            own.plan, own.code
        ),
        None => "this rollout has no reward in its group".to_string(),
    });
    out
}
