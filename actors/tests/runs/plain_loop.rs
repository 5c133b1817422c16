//! With `rollout.staleness_max = 0` the actors compute what a plain synchronous loop computes: same draws, same
//! answers, same losses and gradient norms, bit for bit, step for step.

use crate::rig;

use std::sync::{Arc, Mutex};

use actors::observe::Progress;
use actors::orchestrator::RunEnd;
use actors::stop::StopToken;
use model::engine::{Engine, EngineConfig, Request};
use model::learner::{Execution, Learner, TrainSample};
use rig::{MAX_NEW_TOKENS, Rig, SEED, Watch};
use rollout::curriculum::{Curriculum, CurriculumKind};
use rollout::reward::Reward;
use rollout::seed::{Stream, derive};
use rollout::task::Split;

/// One step's loss and gradient norm.
type Figures = (f64, f64);

/// The same run as one loop: no actor, no machine, no store.
fn plain_loop(rig: &Rig) -> Vec<Figures> {
    let tokenizer = rig::tokenizer(&rig.policy);
    let tasks: Vec<_> = rig.entries().into_iter().filter(|e| e.spec.split == Split::Train).collect();
    let ids = tasks.iter().map(|t| t.spec.id.clone()).collect();
    let mut curriculum = Curriculum::new(CurriculumKind::Uniform, SEED, ids);
    let network = model::load_weights::<model::Cpu>(&rig.policy, &Default::default()).unwrap().1;
    let mut learner = Learner::new(network, rig.optim.clone()).with_execution(Execution::Auto, 1);
    let reward_config = reward::RewardConfig::default();
    let mut next_rollout = 0u64;
    let mut figures = Vec::new();
    for _ in 0..rig.machine.steps {
        let mut groups: Vec<Vec<(TrainSample, Reward)>> = Vec::new();
        for _ in 0..rig.machine.groups_per_step {
            let (_, id) = curriculum.draw().unwrap();
            let prompt = tasks.iter().find(|t| t.spec.id == id).unwrap().prompt.tokens.clone();
            let mut group = Vec::new();
            for _ in 0..rig.machine.group_size {
                // One answer at a time: what an answer is must not depend on its neighbours.
                let config = EngineConfig { max_batch: 1, max_seq_len: 128, threads: 1 };
                let mut engine = Engine::<model::CpuInner>::new(&learner.inference(), config);
                engine
                    .admit(Request {
                        id: next_rollout,
                        prompt: prompt.clone(),
                        seed: derive(SEED, Stream::Sample, next_rollout),
                        sampling: rig.sampling(),
                        max_new_tokens: MAX_NEW_TOKENS,
                        eos: tokenizer.eos_token_ids().to_vec(),
                    })
                    .unwrap();
                next_rollout += 1;
                let answer = loop {
                    if let Some(answer) = engine.step().unwrap().pop() {
                        break answer;
                    }
                };
                let passed = f64::from(u8::from(rig::passes(&answer.tokens)));
                let sample = TrainSample {
                    prompt: prompt.clone(),
                    plan_tokens: rig::plan_tokens(&answer.tokens).unwrap(),
                    tokens: answer.tokens,
                    logprobs: answer.logprobs,
                    plan_advantage: 0.0,
                    code_advantage: 0.0,
                    plan_weight: 0.0,
                    code_weight: 0.0,
                };
                group.push((sample, Reward { plan: passed, code: passed }));
            }
            groups.push(group);
        }
        // Mean-centred advantages, per-class weights 1 / (groups * members * tokens of the class), alpha = 0.1.
        let all = (rig.machine.groups_per_step * rig.machine.group_size) as f64;
        let mut batch = Vec::new();
        for group in &mut groups {
            let mean = group.iter().map(|(_, r)| r.code).sum::<f64>() / group.len() as f64;
            for (sample, reward) in group {
                let code = sample.tokens.len() as u32 - sample.plan_tokens;
                let weight = |tokens: u32| if tokens == 0 { 0.0 } else { 1.0 / (all * f64::from(tokens)) };
                sample.plan_advantage = (reward.plan - mean) as f32;
                sample.code_advantage = (reward.code - mean) as f32;
                sample.plan_weight = (reward_config.alpha * weight(sample.plan_tokens)) as f32;
                sample.code_weight = weight(code) as f32;
                batch.push(sample.clone());
            }
        }
        let report = learner.train_step(&batch, &rig.loss).unwrap();
        figures.push((report.loss, report.grad_norm));
    }
    figures
}

#[test]
fn synchronous_actors_equal_a_plain_loop() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path());
    // Not from the store: reading a number from JSON may round its last bit.
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = told.clone();
    let observer = Watch(move |progress| {
        if let Progress::Step(row) = progress {
            let of = |name: &str| row.report[name].as_f64().unwrap();
            sink.lock().unwrap().push((of("loss"), of("grad_norm")));
        }
    });
    let end = rig.play(rig.crew(), Arc::new(observer), &StopToken::default(), |_| {});
    assert_eq!(end, RunEnd::Completed);
    let found: Vec<Figures> = told.lock().unwrap().clone();
    let expected = plain_loop(&rig);
    assert!(expected.iter().filter(|(_, norm)| *norm > 0.0).count() >= 4, "the toy must learn something: {expected:?}");
    assert_eq!(found, expected);
}
