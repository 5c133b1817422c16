//! From whole groups to a training batch: advantages, token weights, samples. Pure; the formulas are `reward`'s.

use std::sync::Arc;

use model::learner::TrainSample;
use reward::advantage::advantages;
use reward::config as rc;
use reward::weights::{ClassLengths, batch_weights};
use rollout::completion::{Completion, Finish};
use rollout::event::TrainGroup;
use rollout::id::{PolicyVersion, RolloutId};
use rollout::reward::Advantage;
use serde_json::json;

/// A batch with every token's part in the objective.
pub struct Credited {
    /// In group order, members in rollout order.
    pub samples: Vec<TrainSample>,
    pub advantages: Vec<(RolloutId, Advantage)>,
    /// What the batch was made of, for the step's row.
    pub about: serde_json::Map<String, serde_json::Value>,
}

/// Credits `groups`; `completion` finds a member's answer. A member without one is an error of ours: `Err` names it.
pub fn credit(
    groups: &[TrainGroup],
    completion: impl Fn(RolloutId) -> Option<Arc<Completion>>,
    trained_from: PolicyVersion,
    config: &rc::RewardConfig,
) -> Result<Credited, RolloutId> {
    let mut answers = Vec::with_capacity(groups.len());
    for group in groups {
        let members: Result<Vec<_>, RolloutId> =
            group.members.iter().map(|(id, _)| completion(*id).ok_or(*id)).collect();
        answers.push(members?);
    }
    let lengths: Vec<Vec<ClassLengths>> = answers
        .iter()
        .map(|group| group.iter().map(|c| ClassLengths::new(c.tokens.len(), c.plan_tokens)).collect())
        .collect();
    let weights = batch_weights(&lengths, &config.weights());

    let mut samples = Vec::new();
    let mut credited = Vec::new();
    for (g, group) in groups.iter().enumerate() {
        let rewards: Vec<_> = group.members.iter().map(|(_, reward)| *reward).collect();
        for (m, advantage) in advantages(&rewards, &config.advantage()).into_iter().enumerate() {
            let answer = &answers[g][m];
            let weight = weights.weights[g][m];
            credited.push((group.members[m].0, advantage));
            samples.push(TrainSample {
                prompt: answer.prompt_tokens.clone(),
                tokens: answer.tokens.clone(),
                logprobs: answer.logprobs.clone(),
                plan_tokens: lengths[g][m].plan,
                plan_advantage: advantage.plan as f32,
                code_advantage: advantage.code as f32,
                plan_weight: weight.plan as f32,
                code_weight: weight.code as f32,
            });
        }
    }
    let about = about(groups, &answers, &credited, trained_from, weights.plan_to_code);
    Ok(Credited { samples, advantages: credited, about })
}

fn about(
    groups: &[TrainGroup],
    answers: &[Vec<Arc<Completion>>],
    credited: &[(RolloutId, Advantage)],
    trained_from: PolicyVersion,
    plan_to_code: Option<f64>,
) -> serde_json::Map<String, serde_json::Value> {
    let members = || groups.iter().flat_map(|g| g.members.iter());
    let all = || answers.iter().flatten();
    let count = members().count().max(1) as f64;
    let lag = |c: &Arc<Completion>| c.oldest_policy().map_or(0, |p| trained_from.0.saturating_sub(p.0));
    let mut staleness = vec![0u64; 1 + all().map(lag).max().unwrap_or(0) as usize];
    all().for_each(|c| staleness[lag(c) as usize] += 1);
    let mean = |sum: f64| sum / count;
    let mixed = |group: &&Vec<Arc<Completion>>| {
        let mut policies = group.iter().flat_map(|c| c.spans.iter().map(|span| span.policy));
        policies.next().is_some_and(|first| policies.any(|policy| policy != first))
    };
    let about = json!({
        "groups": groups.len(),
        "rollouts": members().count(),
        "reward_plan": mean(members().map(|(_, r)| r.plan).sum()),
        "reward_code": mean(members().map(|(_, r)| r.code).sum()),
        "abs_advantage_plan": mean(credited.iter().map(|(_, a)| a.plan.abs()).sum()),
        "abs_advantage_code": mean(credited.iter().map(|(_, a)| a.code.abs()).sum()),
        "answer_tokens": mean(all().map(|c| c.tokens.len() as f64).sum()),
        "truncated": mean(all().filter(|c| c.finish == Finish::Length).count() as f64),
        "no_delimiter": mean(all().filter(|c| c.plan_tokens.is_none()).count() as f64),
        "mixed_policy": mean(all().filter(|c| c.spans.len() > 1).count() as f64),
        "mixed_policy_groups": answers.iter().filter(mixed).count() as f64 / groups.len().max(1) as f64,
        "staleness_mean": mean(all().map(|c| lag(c) as f64).sum()),
        "staleness_max": staleness.len() - 1,
        "staleness": staleness,
        "plan_to_code_weight": plan_to_code,
    });
    match about {
        serde_json::Value::Object(map) => map,
        _ => serde_json::Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rollout::completion::PolicySpan;
    use rollout::id::{GroupId, TaskId};
    use rollout::reward::Reward;

    fn answer(tokens: usize, plan: u32, policy: u64) -> Arc<Completion> {
        Arc::new(Completion {
            prompt_tokens: vec![1, 2, 3],
            tokens: vec![7; tokens],
            logprobs: vec![-0.5; tokens],
            spans: vec![PolicySpan { start: 0, policy: PolicyVersion(policy) }],
            finish: Finish::Stop,
            text: String::new(),
            plan_tokens: Some(plan),
        })
    }

    #[test]
    fn the_worked_example_reaches_the_samples() {
        // hrd.md 5.3: correct = [1,1,0,0], speed-up = [1.5,0.5,-,-]; one group, per-class weights 1/(4 N).
        let rewards = [(1.5, 1.0), (0.5, 1.0), (0.0, 0.0), (0.0, 0.0)];
        let members =
            rewards.iter().zip(0u64..).map(|(&(plan, code), id)| (RolloutId(id), Reward { plan, code })).collect();
        let group = TrainGroup { group: GroupId(0), task: TaskId("t".into()), members };
        let config = rc::RewardConfig::default();
        let credited = credit(
            std::slice::from_ref(&group),
            |id| Some(answer(10 + id.0 as usize, 4, 5)),
            PolicyVersion(6),
            &config,
        )
        .unwrap();
        let plan: Vec<f32> = credited.samples.iter().map(|s| s.plan_advantage).collect();
        let code: Vec<f32> = credited.samples.iter().map(|s| s.code_advantage).collect();
        assert_eq!(plan, [1.0, 0.0, -0.5, -0.5]);
        assert_eq!(code, [0.5, 0.5, -0.5, -0.5]);
        for (n, sample) in credited.samples.iter().enumerate() {
            assert_eq!(sample.plan_tokens, 4);
            assert!((sample.plan_weight - 0.1 / (4.0 * 4.0)).abs() < 1e-7);
            assert!((sample.code_weight - 1.0 / (4.0 * (6 + n) as f32)).abs() < 1e-7);
        }
        assert_eq!(credited.about["staleness"], json!([0, 4]));
        assert_eq!(credited.about["reward_code"], json!(0.5));
        assert_eq!(
            (&credited.about["no_delimiter"], &credited.about["mixed_policy_groups"]),
            (&json!(0.0), &json!(0.0))
        );
        let missing = credit(&[group], |id| (id.0 != 2).then(|| answer(9, 4, 5)), PolicyVersion(6), &config);
        assert_eq!(missing.err(), Some(RolloutId(2)));
    }

    /// Planted: `mixed_policy_groups` counts groups with an answer of several versions only. Seen: 0.25 for 0.5.
    #[test]
    fn a_batch_counts_answers_without_a_delimiter_and_groups_of_several_policies() {
        let zero = Reward { plan: 0.0, code: 0.0 };
        let group = |n: u64| TrainGroup {
            group: GroupId(n),
            task: TaskId("t".into()),
            members: vec![(RolloutId(2 * n), zero), (RolloutId(2 * n + 1), zero)],
        };
        let groups: Vec<TrainGroup> = (0..4).map(group).collect();
        let plain = |policy| (*answer(6, 2, policy)).clone();
        let switched = |at: u32| PolicySpan { start: at, policy: PolicyVersion(5) };
        let answer_of = |id: RolloutId| {
            let mut c = plain(4);
            match id.0 {
                // Two answers of group 1 from two versions, and one answer of group 2 from two.
                2 => c = plain(5),
                5 => c.spans.push(switched(3)),
                6 | 7 => c.plan_tokens = None,
                _ => {}
            }
            Some(Arc::new(c))
        };
        let about = credit(&groups, answer_of, PolicyVersion(5), &rc::RewardConfig::default()).unwrap().about;
        let share = |name: &str| about[name].as_f64().unwrap();
        assert_eq!((share("no_delimiter"), share("mixed_policy")), (0.25, 0.125));
        assert_eq!(share("mixed_policy_groups"), 0.5);
    }
}
