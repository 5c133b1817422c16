//! The leave-one-out baseline (TRLOO, Dr.Kernel, arXiv 2602.05885: `A = N / (N - 1) (R - mean)`) against PyTorch, which computed
//! the mean of the others as such.
#![allow(clippy::unwrap_used)]

use reward::advantage::{AdvantageConfig, advantages};
use reward::config::Baseline;
use rollout::reward::Reward;
use serde::Deserialize;

#[derive(Deserialize)]
struct Group {
    plan: Vec<f64>,
    code: Vec<f64>,
    plan_advantage: Vec<f64>,
    code_advantage: Vec<f64>,
}

/// Planted and seen to fail: `(count - 1) / count` as the factor.
#[test]
fn advantages_are_rewards_minus_the_mean_of_the_others() {
    let groups: Vec<Group> = serde_json::from_str(include_str!("fixtures/leave_one_out.json")).unwrap();
    let config = AdvantageConfig { baseline: Baseline::LeaveOneOut, ..AdvantageConfig::default() };
    assert_eq!(groups.iter().map(|g| g.plan.len()).collect::<Vec<_>>(), [2, 3, 4, 8]);
    for group in groups {
        let rewards: Vec<Reward> =
            group.plan.iter().zip(&group.code).map(|(plan, code)| Reward { plan: *plan, code: *code }).collect();
        for (j, found) in advantages(&rewards, &config).into_iter().enumerate() {
            let pairs = [(found.plan, group.plan_advantage[j]), (found.code, group.code_advantage[j])];
            for (found, expected) in pairs {
                assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1e-6), "{found} against {expected}");
            }
        }
    }
}
