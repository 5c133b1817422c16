//! Runs whose generator is a server that really samples: its log-probs are the learner's, spans over reloads are what the
//! server itself has on record, and whatever it does wrong is masked, never scored.

use crate::lab;
use crate::rig;
use crate::server;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actors::observe::Progress;
use actors::openai::{ServerSettings, Setup, Tuning, sampler_factory};
use actors::orchestrator::RunEnd;
use actors::policy::cpu;
use actors::stop::StopToken;
use actors::store::reader::RolloutDetail;
use lab::{Lab, Mishap};
use model::learner::{Execution, Learner, SftSample};
use rig::{MAX_NEW_TOKENS, Rig, Watch};
use server::Form;

/// How far a log-prob of the server's may be from the learner's, nats.
const TOLERANCE: f32 = 1e-3;

struct Played {
    rollouts: Vec<RolloutDetail>,
    faults: Vec<String>,
    /// Of every step: mismatch KL, ratio's 1st and 99th percentile, effective sample size.
    steps: Vec<[f64; 4]>,
    lab: Lab,
    folders: Vec<String>,
}

fn play(form: Form, pace: Duration, mishap: Mishap, set: impl FnOnce(&mut Rig)) -> Played {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(dir.path());
    set(&mut rig);
    let lab = Lab::open(form, pace, mishap);
    let section = lab.server.section(form.server());
    let tuning = Tuning { backoff: Duration::from_millis(5), ..Tuning::default() };
    let setup = Setup::with(&section, None, Duration::from_secs(60), &rig.run_dir, tuning).unwrap();
    let config = model::load_config(&rig.policy).unwrap();
    let tokenizer = rig::tokenizer(&rig.policy);
    let settings = ServerSettings {
        sampling: rig.sampling(),
        max_new_tokens: MAX_NEW_TOKENS,
        tokenizer: tokenizer.clone(),
        vocab: config.vocab_size,
    };
    let writer = cpu::writer(config, tokenizer);
    let mut crew = rig.crew();
    crew.sampler = rig::tagged(sampler_factory(setup, settings, writer));
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = told.clone();
    let observer = Watch(move |progress| {
        if let Progress::Step(row) = progress {
            let of = |name: &str| row.report[name].as_f64().unwrap();
            sink.lock().unwrap().push([of("mismatch_kl"), of("ratio_p01"), of("ratio_p99"), of("ess")]);
        }
    });
    let end = rig.play(crew, Arc::new(observer), &StopToken::default(), |_| {});
    let reader = rig.reader();
    let faults: Vec<String> = reader.faults().unwrap().into_iter().map(|f| f.code).collect();
    assert_eq!(end, RunEnd::Completed, "{faults:?}");
    let mut ids = Vec::new();
    reader
        .each_summary(|s| {
            ids.push(s.id);
            true
        })
        .unwrap();
    let served = std::fs::read_dir(rig.run_dir.join("served")).unwrap();
    let folders = served.map(|e| e.unwrap().file_name().into_string().unwrap()).filter(|n| n != "lock").collect();
    let steps = told.lock().unwrap().clone();
    let rollouts = ids.into_iter().map(|id| reader.rollout(id).unwrap().unwrap()).collect();
    Played { rollouts, faults, steps, lab, folders }
}

/// The version of each token by the spans that the run stored.
fn versions(rollout: &RolloutDetail) -> Vec<u64> {
    let completion = rollout.completion.as_ref().unwrap();
    let of = |at: usize| completion.spans.iter().rfind(|s| s.start as usize <= at).unwrap().policy.0;
    (0..completion.tokens.len()).map(of).collect()
}

/// Every answer against the server's own record, and every log-prob against the learner's of the same version. The number of answers
/// that more than one version sampled.
fn check_against_server_and_learner(played: &Played, prompts: &BTreeMap<String, Vec<u32>>) -> usize {
    let given = played.lab.given();
    let (mut mixed, mut worst) = (0, 0.0f32);
    for rollout in played.rollouts.iter().filter(|r| r.completion.is_some()) {
        let completion = rollout.completion.as_ref().unwrap();
        let record = &given[&(rollout.seed >> 1)];
        let found = versions(rollout);
        assert_eq!((&completion.tokens, &found), (&record.tokens, &record.versions), "rollout {}", rollout.summary.id);
        let prompt = prompts[&rollout.summary.task.0].clone();
        let distinct: BTreeSet<u64> = found.iter().copied().collect();
        mixed += usize::from(distinct.len() > 1);
        for version in distinct {
            let mut learner = Learner::new(played.lab.weights(version), Default::default());
            learner = learner.with_execution(Execution::Autodiff, 1);
            let sample = SftSample { prompt: prompt.clone(), tokens: completion.tokens.clone() };
            let scored = learner.score(&[sample], 1.0).unwrap().remove(0);
            for at in (0..found.len()).filter(|at| found[*at] == version) {
                worst = worst.max((scored[at] - completion.logprobs[at]).abs());
            }
        }
    }
    assert!(worst < TOLERANCE, "a log-prob is {worst} nats from the learner's");
    mixed
}

fn prompts(rig: &Rig) -> BTreeMap<String, Vec<u32>> {
    rig.entries().into_iter().map(|e| (e.spec.id.0.clone(), e.prompt.tokens.clone())).collect()
}

/// One update a batch, all of it on policy: whatever the ratios are not 1 by is the difference between server and learner.
/// Planted: the server's log-probs are off by 0.01. Seen: mismatch KL of 5e-5, ratios of 1.01.
#[test]
fn a_synchronous_run_trains_on_log_probs_that_are_the_learners_own() {
    for form in [Form::Vllm, Form::SglangWhole, Form::SglangNew] {
        let mut known = BTreeMap::new();
        let played = play(
            form,
            Duration::ZERO,
            |_| false,
            |rig| {
                rig.loss.epochs = 1;
                known = prompts(rig);
            },
        );
        assert_eq!(played.steps.len(), 6);
        for [mismatch_kl, p01, p99, ess] in &played.steps {
            assert!(*mismatch_kl < 1e-6, "{:?}", played.steps);
            assert!((p01 - 1.0).abs() < 1e-3 && (p99 - 1.0).abs() < 1e-3 && *ess > 0.9999, "{:?}", played.steps);
        }
        assert_eq!(check_against_server_and_learner(&played, &known), 0, "nothing is under way when weights change");
        assert!(played.rollouts.iter().all(|r| r.summary.ending.as_deref() == Some("trained")));
        let trained: BTreeSet<u64> = played.rollouts.iter().map(|r| versions(r)[0]).collect();
        assert_eq!(trained, (0..6).collect(), "each step is sampled from the version before it");
        assert!(played.faults.is_empty(), "{:?}", played.faults);
    }
}

/// Planted: the version counts 30 ms after the server goes on. Seen: 4 tokens of version 1, where the server has 1 on record.
#[test]
fn answers_over_reloads_have_the_servers_own_versions_and_the_learners_log_probs_of_each() {
    for form in [Form::Vllm, Form::SglangWhole] {
        let mut known = BTreeMap::new();
        let played = play(
            form,
            Duration::from_millis(20),
            |_| false,
            |rig| {
                rig.machine.staleness_max = 2;
                rig.machine.credits = 36;
                rig.machine.steps = 8;
                known = prompts(rig);
            },
        );
        let mixed = check_against_server_and_learner(&played, &known);
        assert!(mixed >= 5, "{mixed} answers were under way when weights changed");
        assert_eq!(played.steps.len(), 8);
        assert!(played.faults.is_empty(), "{:?}", played.faults);
        // Two, and one more where the run ended before the last version was loaded.
        // Step 8 trains on nothing older than version 5, two before its own.
        assert!(played.folders.len() <= 3 && played.lab.version() >= 5, "{:?}", played.folders);
    }
}

/// Planted: a log-prob that is `null` is taken for -1. Seen: rollout 5, which is spoilt, is scored.
#[test]
fn an_answer_that_cannot_be_used_is_masked_and_never_scored() {
    let spoilt: Mishap = |seed| seed.is_multiple_of(6);
    let played = play(Form::Vllm, Duration::ZERO, spoilt, |rig| rig.machine.retries = 1);
    let mut masked = 0;
    for rollout in &played.rollouts {
        if spoilt(rollout.seed >> 1) {
            masked += 1;
            let (summary, reward) = (&rollout.summary, rollout.reward());
            assert!(rollout.completion.is_none() && reward.is_none(), "{summary:?}");
            assert_ne!(summary.ending.as_deref(), Some("trained"), "{summary:?}");
        } else {
            assert_eq!(rollout.summary.ending.as_deref(), Some("trained"), "{:?}", rollout.summary);
        }
    }
    assert!(masked >= 3 && played.faults.len() == 2 * masked, "{masked} {:?}", played.faults);
    assert!(played.faults.iter().all(|code| code == "F121"), "{:?}", played.faults);
}
