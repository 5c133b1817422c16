//! The worked example of the design's reward chapter (section 5.3) to five digits, and the advantage properties.

use proptest::prelude::*;

use reward::advantage::{advantages, advantages_masked, is_degenerate};
use reward::config::{AdvNorm, Baseline, Mode, RewardConfig, StdEstimator};
use reward::score::score;
use rollout::outcome::Outcome;
use rollout::reward::Reward;

/// G = 4, correct = [1, 1, 0, 0], speed-up = [1.5, 0.5, -, -], all valid.
fn group() -> Vec<Reward> {
    let config = RewardConfig::default();
    [
        Outcome::Passed { speedup: Some(1.5) },
        Outcome::Passed { speedup: Some(0.5) },
        Outcome::WrongAnswer { message: String::new() },
        Outcome::WrongAnswer { message: String::new() },
    ]
    .iter()
    .map(|outcome| score(outcome, true, &config).reward().expect("scored"))
    .collect()
}

fn check(config: &RewardConfig, plan: [f64; 4], code: [f64; 4]) {
    let found = advantages(&group(), &config.advantage());
    for j in 0..4 {
        assert!((found[j].plan - plan[j]).abs() < 5e-6, "plan {j}: {} for {}", found[j].plan, plan[j]);
        assert!((found[j].code - code[j]).abs() < 5e-6, "code {j}: {} for {}", found[j].code, code[j]);
    }
}

#[test]
fn rewards() {
    let parts: Vec<(f64, f64)> = group().iter().map(|r| (r.plan, r.code)).collect();
    assert_eq!(parts, [(1.5, 1.0), (0.5, 1.0), (0.0, 0.0), (0.0, 0.0)]);
}

#[test]
fn mean_centred() {
    check(&RewardConfig::default(), [1.0, 0.0, -0.5, -0.5], [0.5, 0.5, -0.5, -0.5]);
}

#[test]
#[allow(clippy::approx_constant)] // the digits printed in the design, not constants
fn unbiased_std() {
    let config = RewardConfig { adv_norm: AdvNorm::Std, ..RewardConfig::default() };
    check(&config, [1.41421, 0.0, -0.70711, -0.70711], [0.86603, 0.86603, -0.86603, -0.86603]);
}

#[test]
fn population_std() {
    let config =
        RewardConfig { adv_norm: AdvNorm::Std, std_estimator: StdEstimator::Population, ..RewardConfig::default() };
    // sqrt(1.5 / 4) = 0.612372, sqrt(1 / 4) = 0.5
    check(&config, [1.63299, 0.0, -0.81650, -0.81650], [1.0, 1.0, -1.0, -1.0]);
}

#[test]
fn leave_one_out() {
    let config = RewardConfig { baseline: Baseline::LeaveOneOut, ..RewardConfig::default() };
    // 1.5 - mean(0.5, 0, 0) = 1.33333; 0.5 - mean(1.5, 0, 0) = 0; 0 - mean(1.5, 0.5, 0) = -0.66667
    check(&config, [1.33333, 0.0, -0.66667, -0.66667], [0.66667, 0.66667, -0.66667, -0.66667]);
}

#[test]
fn uniform_baseline() {
    let config = RewardConfig { mode: Mode::Uniform, ..RewardConfig::default() };
    // r = [1.35, 0.65, 0, 0], mean 0.5
    let expected = [0.85, 0.15, -0.5, -0.5];
    check(&config, expected, expected);
}

#[test]
fn correct_but_slow_tells_hrd_from_uniform() {
    let hrd = advantages(&group(), &RewardConfig::default().advantage())[1];
    assert!(hrd.plan.abs() < 1e-12 && hrd.code > 0.0);
}

#[test]
fn ablation_switch() {
    let config = RewardConfig { zero_advantages: true, ..RewardConfig::default() };
    check(&config, [0.0; 4], [0.0; 4]);
}

#[test]
fn a_group_is_dead_only_when_both_classes_are() {
    let r = |plan, code| Reward { plan, code };
    assert!(is_degenerate(&[r(1.0, 1.0), r(1.0, 1.0)]));
    assert!(!is_degenerate(&[r(1.5, 1.0), r(1.0, 1.0)]));
    let found = advantages(&[r(1.5, 1.0), r(1.0, 1.0)], &RewardConfig::default().advantage());
    assert_eq!((found[0].plan, found[0].code, found[1].code), (0.25, 0.0, 0.0));
    assert!(is_degenerate(&[r(1.5, 1.0)]) && is_degenerate(&[]));
}

#[test]
fn defaults_and_names_equal_the_run_file() {
    let text = include_str!("../../cluster.toml");
    let table: toml::Table = text.parse().expect("cluster.toml parses");
    let section = table["reward"].clone();
    let parsed: RewardConfig = section.clone().try_into().expect("[reward] deserialises");
    assert_eq!(parsed, RewardConfig::default());
    let back = toml::Value::try_from(parsed).expect("serialises");
    let keys = |v: &toml::Value| v.as_table().expect("a table").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&back), keys(&section), "every key is present in both");
    let unknown: Result<RewardConfig, _> = "alpah = 1".parse::<toml::Table>().expect("toml").try_into();
    assert!(unknown.is_err());
    assert!(RewardConfig { uniform_beta: 1.5, ..parsed }.validate().is_err());
    assert!(RewardConfig { alpha: f64::NAN, ..parsed }.validate().is_err());
    assert!(RewardConfig { len_norm_constant: 0, ..parsed }.validate().is_err());
    assert!(parsed.validate().is_ok());
}

fn any_config() -> impl Strategy<Value = RewardConfig> {
    (any::<bool>(), 0.0..=1.0f64, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(u, beta, s, p, l)| {
        RewardConfig {
            mode: if u { Mode::Uniform } else { Mode::Hrd },
            uniform_beta: beta,
            adv_norm: if s { AdvNorm::Std } else { AdvNorm::Center },
            std_estimator: if p { StdEstimator::Population } else { StdEstimator::Unbiased },
            baseline: if l { Baseline::LeaveOneOut } else { Baseline::GroupMean },
            ..RewardConfig::default()
        }
    })
}

fn any_group() -> impl Strategy<Value = Vec<Reward>> {
    let member = (any::<bool>(), 0.0..2.0f64).prop_map(|(correct, speed)| {
        let code = f64::from(u8::from(correct));
        Reward { plan: code * speed, code }
    });
    prop::collection::vec(member, 0..17)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn centred_advantages_sum_to_zero(rewards in any_group(), config in any_config()) {
        let found = advantages(&rewards, &config.advantage());
        prop_assert_eq!(found.len(), rewards.len());
        let scale: f64 = found.iter().map(|a| a.plan.abs() + a.code.abs()).sum::<f64>().max(1.0);
        prop_assert!(found.iter().map(|a| a.plan).sum::<f64>().abs() < 1e-9 * scale);
        prop_assert!(found.iter().map(|a| a.code).sum::<f64>().abs() < 1e-9 * scale);
        prop_assert!(found.iter().all(|a| a.plan.is_finite() && a.code.is_finite()));
    }

    #[test]
    fn order_of_members_does_not_matter(rewards in any_group(), config in any_config(), turn in 0usize..17) {
        let found = advantages(&rewards, &config.advantage());
        let mut turned = rewards.clone();
        let turn = if rewards.is_empty() { 0 } else { turn % rewards.len() };
        turned.rotate_left(turn);
        turned.reverse();
        let mut expected = found;
        expected.rotate_left(turn);
        expected.reverse();
        for (a, b) in advantages(&turned, &config.advantage()).iter().zip(&expected) {
            prop_assert!((a.plan - b.plan).abs() < 1e-9 * (1.0 + b.plan.abs()));
            prop_assert!((a.code - b.code).abs() < 1e-9 * (1.0 + b.code.abs()));
        }
    }

    #[test]
    fn a_better_reward_never_has_a_smaller_advantage(rewards in any_group(), config in any_config()) {
        let config = RewardConfig { mode: Mode::Hrd, ..config };
        let found = advantages(&rewards, &config.advantage());
        for (a, ra) in found.iter().zip(&rewards) {
            for (b, rb) in found.iter().zip(&rewards) {
                prop_assert!(ra.plan <= rb.plan || a.plan >= b.plan);
                prop_assert!(ra.code <= rb.code || a.code >= b.code);
            }
        }
    }

    #[test]
    fn equal_rewards_give_exact_zeros(size in 0usize..17, plan in 0.0..2.0f64, config in any_config()) {
        let rewards = vec![Reward { plan, code: 1.0 }; size];
        for a in advantages(&rewards, &config.advantage()) {
            prop_assert_eq!((a.plan, a.code), (0.0, 0.0));
        }
    }

    #[test]
    fn masked_members_leave_no_trace(
        members in prop::collection::vec((any::<bool>(), any::<bool>(), 0.0..2.0f64), 0..17),
        config in any_config(),
    ) {
        let slots: Vec<Option<Reward>> = members
            .iter()
            .map(|(alive, correct, speed)| {
                let code = f64::from(u8::from(*correct));
                alive.then_some(Reward { plan: code * speed, code })
            })
            .collect();
        let survivors: Vec<Reward> = slots.iter().flatten().copied().collect();
        let alone = advantages(&survivors, &config.advantage());
        let masked = advantages_masked(&slots, &config.advantage());
        for (slot, credited) in slots.iter().zip(&masked) {
            prop_assert_eq!(slot.is_some(), credited.is_some());
        }
        prop_assert_eq!(masked.into_iter().flatten().collect::<Vec<_>>(), alone);
    }
}
