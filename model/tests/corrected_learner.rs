//! The corrections in the learner: both ways of computing agree, the numbers are those of the pure functions, the proximal policy is
//! the one of the update's start, and what is dropped moves nothing.
#![allow(clippy::unwrap_used)]

mod policy;

use model::config::Family;
use model::correction::geometric::Bounds;
use model::correction::icepop::Range;
use model::correction::{Correction, Credit, Mismatch, PolicyLoss};
use model::learner::{Execution, Learner, LearnerError, SftSample, TrainSample};
use model::loss::{LossConfig, TokenInput};
use model::optim::OptimConfig;
use model::stats::StepReport;
use model::{Cpu, Transformer};
use policy::{full_log_probs, network, parameters, tokens};

/// A large epsilon, so that an update is about proportional to the gradient and rounding stays rounding.
fn learner(network: &Transformer<Cpu>, execution: Execution) -> Learner<Cpu> {
    Learner::new(network.clone(), OptimConfig { lr: 1e-2, eps: 1e-2, ..OptimConfig::default() })
        .with_execution(execution, 2)
}

/// Two prompts, four answers each; the behaviour policy differs more from answer to answer, from not at all to a lot.
fn batch(network: &Transformer<Cpu>) -> Vec<TrainSample> {
    (0..8u64)
        .map(|i| {
            let prompt = tokens(100 + i / 4, 9 + 4 * (i / 4) as usize);
            let answer = tokens(200 + i, 2 + 3 * i as usize);
            let all: Vec<u32> = prompt.iter().chain(&answer).copied().collect();
            let rows = full_log_probs(network, &all, 1.0);
            let noise = |t: usize| 0.06 * i as f32 * ((i as f32 + 1.0) * (t as f32 + 2.0)).sin();
            let logprob = |(t, token): (usize, &u32)| rows[prompt.len() - 1 + t][*token as usize] as f32 + noise(t);
            TrainSample {
                logprobs: answer.iter().enumerate().map(logprob).collect(),
                prompt,
                plan_tokens: answer.len() as u32 / 2,
                tokens: answer,
                plan_advantage: 0.5 - 0.2 * i as f32,
                code_advantage: if i % 2 == 0 { 1.0 } else { -0.7 },
                plan_weight: 0.1,
                code_weight: 0.3,
            }
        })
        .collect()
}

/// Bounds in the middle of what the batch has.
fn settings() -> Vec<LossConfig> {
    let reject = Some(Bounds { low: 0.985, high: 1.015, veto: 0.67 });
    let mut all = Vec::new();
    for policy_loss in [PolicyLoss::Ppo, PolicyLoss::Decoupled, PolicyLoss::Gspo, PolicyLoss::GspoToken] {
        for mismatch in [Mismatch::None, Mismatch::Truncated, Mismatch::Icepop] {
            for reject in [None, reject] {
                let icepop = Range { low: 0.9, high: 1.15 };
                let correction = Correction { policy_loss, mismatch, truncate_at: 1.1, icepop, reject };
                if correction.check().is_ok() {
                    all.push(LossConfig { correction, micro_batch: 3, grad_clip: 0.0, ..LossConfig::default() });
                }
            }
        }
    }
    assert_eq!(all.len(), 18);
    all
}

/// Root of the mean square of the difference, relative to that of the second one's distance to `start`.
fn gap(a: &Transformer<Cpu>, b: &Transformer<Cpu>, start: &Transformer<Cpu>) -> f32 {
    let square = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| (x - y).powi(2)).sum::<f32>();
    let (a, b, start) = (parameters(a), parameters(b), parameters(start));
    let moved = square(&b, &start);
    assert!(moved > 0.0, "the update moved nothing: there is nothing to compare");
    (square(&a, &b) / moved).sqrt()
}

#[test]
fn the_executor_and_autodiff_make_the_same_updates_under_every_setting() {
    let net = network(Family::Qwen3, 31);
    let samples = batch(&net);
    let mut moved: Vec<Vec<f32>> = Vec::new();
    for loss in settings() {
        let loss = LossConfig { epochs: 3, clip_low: 0.05, clip_high: 0.07, ..loss };
        let mut host = learner(&net, Execution::Host);
        let mut autodiff = learner(&net, Execution::Autodiff);
        let (a, b) = (host.train_step(&samples, &loss).unwrap(), autodiff.train_step(&samples, &loss).unwrap());
        assert!(a.applied && b.applied && a.step == 3);
        let near = |x: f64, y: f64| (x - y).abs() < 2e-5 * (1.0 + y.abs());
        assert!(near(a.loss, b.loss) && near(a.grad_norm, b.grad_norm), "{loss:?}: {a:?} {b:?}");
        assert_eq!((a.correction.rejected, a.correction.masked), (b.correction.rejected, b.correction.masked));
        assert!(near(a.correction.weight_mean, b.correction.weight_mean), "{loss:?}");
        let error = gap(host.network(), autodiff.network(), &net);
        assert!(error < 2e-3, "{loss:?}: the networks differ by {error}");
        moved.push(parameters(host.network()));
    }
    for (i, a) in moved.iter().enumerate() {
        assert!(moved[..i].iter().all(|b| a != b), "setting {i} makes the update of another");
    }
}

/// An answer of one token has that token's ratio, in every pass. Planted and seen to fail: the terms of the first pass taken for
/// all passes.
#[test]
fn gspo_on_answers_of_one_token_is_ppo_in_every_pass() {
    let net = network(Family::Qwen3, 40);
    let mut samples = batch(&net);
    for s in &mut samples {
        s.tokens.truncate(1);
        s.logprobs.truncate(1);
        s.plan_tokens = 0;
    }
    let base = LossConfig { epochs: 4, clip_low: 0.05, clip_high: 0.08, grad_clip: 0.0, ..LossConfig::default() };
    let mut ppo = learner(&net, Execution::Host);
    let expected = ppo.train_step(&samples, &base).unwrap();
    assert!(expected.clip_fraction > 0.0 && expected.clip_fraction < 0.9, "{}", expected.clip_fraction);
    for policy_loss in [PolicyLoss::Gspo, PolicyLoss::GspoToken] {
        let correction = Correction { policy_loss, ..Correction::default() };
        let mut gspo = learner(&net, Execution::Host);
        let found = gspo.train_step(&samples, &LossConfig { correction, ..base.clone() }).unwrap();
        assert_eq!((found.loss, found.grad_norm), (expected.loss, expected.grad_norm));
        assert_eq!(found.clip_fraction, expected.clip_fraction);
        assert!(gap(gspo.network(), ppo.network(), &net) < 1e-6, "{policy_loss:?}");
    }
}

/// `full_log_probs` and the pure functions (which PyTorch checks) against the report of a step.
#[test]
fn the_reports_loss_and_shares_are_those_of_the_pure_functions() {
    let net = network(Family::Llama, 32);
    let samples = batch(&net);
    for loss in settings() {
        let report = learner(&net, Execution::Host).train_step(&samples, &loss).unwrap();
        let (mut total, mut masked, mut truncated, mut rejected, mut weights) = (0.0, 0, 0, 0, 0.0);
        for s in &samples {
            let sequence: Vec<u32> = s.prompt.iter().chain(&s.tokens).copied().collect();
            let rows = full_log_probs(&net, &sequence, 1.0);
            let now: Vec<f64> =
                s.tokens.iter().enumerate().map(|(t, id)| rows[s.prompt.len() - 1 + t][*id as usize]).collect();
            let behaviour: Vec<f64> = s.logprobs.iter().map(|l| f64::from(*l)).collect();
            let credits = match loss.correction.needs_proximal() {
                true => loss.correction.answer(&behaviour, &now),
                false => behaviour.iter().map(|l| Credit::behaviour(*l)).collect(),
            };
            let input = |(t, credit): (usize, &Credit)| {
                let plan = t < s.plan_tokens as usize;
                TokenInput {
                    credit: *credit,
                    advantage: f64::from(if plan { s.plan_advantage } else { s.code_advantage }),
                    weight: f64::from(if plan { s.plan_weight } else { s.code_weight }),
                    reference: None,
                }
            };
            let inputs: Vec<TokenInput> = credits.iter().enumerate().map(input).collect();
            total += loss.answer(&inputs, &now).iter().map(|t| t.loss).sum::<f64>();
            let dropped = credits.iter().all(|c| !c.fate.counts()) && loss.correction.reject.is_some();
            rejected += usize::from(dropped);
            let count = |yes: &dyn Fn(f64) -> bool| {
                let k = now.iter().zip(&behaviour).map(|(p, b)| (p - b).exp());
                k.filter(|k| !dropped && yes(*k)).count()
            };
            match loss.correction.mismatch {
                Mismatch::None => {}
                Mismatch::Truncated => truncated += count(&|k| k > 1.1),
                Mismatch::Icepop => masked += count(&|k| !(0.9..=1.15).contains(&k)),
            }
            weights += credits.iter().map(Credit::factor).sum::<f64>();
        }
        let found = &report.correction;
        let n = report.tokens as f64;
        assert!((report.loss - total).abs() < 1e-5, "{loss:?}: {} against {total}", report.loss);
        assert_eq!((found.masked, found.truncated), (masked as f64 / n, truncated as f64 / n), "{loss:?}");
        assert_eq!(found.rejected, rejected, "{loss:?}");
        assert!((found.weight_mean - weights / n).abs() < 1e-5, "{loss:?}: {found:?}");
        assert_eq!(report.zero_samples, rejected, "{loss:?}");
        // The setting acts: some of it, and not all of it.
        let alone = loss.correction.reject.is_none();
        match loss.correction.mismatch {
            Mismatch::None => {}
            Mismatch::Truncated => assert!(found.truncated > 0.0 && found.truncated < 0.6, "{found:?}"),
            Mismatch::Icepop => assert!(!alone || (found.masked > 0.0 && found.masked < 0.8), "{found:?}"),
        }
        assert!(loss.correction.reject.is_none() || (rejected > 0 && rejected < 6 && found.vetoed > 0), "{found:?}");
    }
}

/// A single pass takes its own log-probs for the proximal ones; more passes look first. Planted and seen to fail: credits of the
/// own pass made with `Credit::behaviour`.
#[test]
fn the_first_pass_is_the_same_whether_the_proximal_log_probs_come_from_it_or_from_a_look() {
    let net = network(Family::Qwen3, 33);
    let samples = batch(&net);
    for loss in settings() {
        let with = |epochs: usize| -> StepReport {
            learner(&net, Execution::Host).train_step(&samples, &LossConfig { epochs, ..loss.clone() }).unwrap()
        };
        let (one, two) = (with(1), with(2));
        assert_eq!((one.loss, one.grad_norm, one.correction), (two.loss, two.grad_norm, two.correction), "{loss:?}");
    }
}

/// A behaviour policy that is off by one factor everywhere: decoupled PPO is then PPO on the learner's own log-probs, weighted.
/// Planted and seen to fail: proximal log-probs computed again in each pass.
#[test]
fn the_proximal_policy_is_the_learner_as_the_update_starts() {
    let net = network(Family::Qwen2, 34);
    let mut samples = batch(&net);
    let probes: Vec<SftSample> =
        samples.iter().map(|s| SftSample { prompt: s.prompt.clone(), tokens: s.tokens.clone() }).collect();
    let own = learner(&net, Execution::Host).score(&probes, 1.0).unwrap();
    let mut plain = samples.clone();
    for ((stale, plain), own) in samples.iter_mut().zip(&mut plain).zip(own) {
        stale.logprobs = own.iter().map(|l| l - 0.5).collect();
        plain.logprobs = own;
        plain.plan_weight *= 0.5f32.exp();
        plain.code_weight *= 0.5f32.exp();
    }
    let correction = Correction { policy_loss: PolicyLoss::Decoupled, ..Correction::default() };
    let base = LossConfig { epochs: 4, clip_low: 0.02, clip_high: 0.03, grad_clip: 0.0, ..LossConfig::default() };
    let (mut a, mut b) = (learner(&net, Execution::Host), learner(&net, Execution::Host));
    let found = a.train_step(&samples, &LossConfig { correction, ..base.clone() }).unwrap();
    let expected = b.train_step(&plain, &base).unwrap();
    assert!((found.loss / expected.loss - 1.0).abs() < 1e-4, "{} against {}", found.loss, expected.loss);
    assert!((found.clip_fraction - expected.clip_fraction).abs() < 0.01);
    assert!(found.clip_low_fraction > 0.0 && found.clip_high_fraction > 0.0 && found.clip_fraction < 0.9);
    assert!(gap(a.network(), b.network(), &net) < 1e-2, "{}", gap(a.network(), b.network(), &net));
    assert!((found.correction.weight_mean - 0.5f64.exp()).abs() < 1e-5 && found.correction.weight_ess > 0.999);
    // Plain PPO on the same answers is clipped for their age alone.
    let coupled = learner(&net, Execution::Host).train_step(&samples, &base).unwrap();
    assert!(coupled.clip_high_fraction > 1.5 * found.clip_high_fraction, "{coupled:?}, {found:?}");
}

#[test]
fn one_pass_of_decoupled_ppo_clips_nothing_and_parts_of_the_clip_add_up() {
    let net = network(Family::Qwen3, 35);
    let samples = batch(&net);
    for loss in settings() {
        let loss = LossConfig { epochs: 2, clip_low: 0.01, clip_high: 0.01, ..loss };
        let report = learner(&net, Execution::Host).train_step(&samples, &loss).unwrap();
        let sum = report.clip_low_fraction + report.clip_high_fraction;
        assert!((report.clip_fraction - sum).abs() < 1e-12 && sum > 0.0, "{loss:?}");
        if loss.correction.policy_loss == PolicyLoss::Decoupled {
            let once = LossConfig { epochs: 1, ..loss };
            assert_eq!(learner(&net, Execution::Host).train_step(&samples, &once).unwrap().clip_fraction, 0.0);
        }
    }
}

#[test]
fn rejected_answers_move_nothing_and_their_backward_pass_is_skipped() {
    let net = network(Family::Qwen3, 36);
    let mut samples = batch(&net);
    samples.iter_mut().for_each(|s| s.logprobs.iter_mut().for_each(|l| *l -= 0.5));
    for policy_loss in [PolicyLoss::Ppo, PolicyLoss::Decoupled, PolicyLoss::Gspo, PolicyLoss::GspoToken] {
        for (kl_coef, skip_zero) in [(0.0, true), (0.2, true), (0.0, false)] {
            let reject = Some(Bounds { low: 0.9, high: 1.1, veto: 0.0 });
            let correction = Correction { policy_loss, reject, ..Correction::default() };
            let loss = LossConfig { correction, kl_coef, skip_zero, epochs: 2, ..LossConfig::default() };
            let mut learner = learner(&net, Execution::Host);
            learner.set_reference(&network(Family::Qwen3, 37));
            let report = learner.train_step(&samples, &loss).unwrap();
            assert_eq!((report.correction.rejected, report.correction.vetoed), (8, 0));
            assert_eq!((report.loss, report.grad_norm, report.correction.weight_mean), (0.0, 0.0, 0.0));
            assert_eq!(report.zero_samples, if skip_zero { 8 } else { 0 });
            assert_eq!(parameters(learner.network()), parameters(&net));
            // Half of them rejected is as if they were not there.
            let mut half = samples.clone();
            half[..4].clone_from_slice(&batch(&net)[..4]);
            let mut alone = self::learner(&net, Execution::Host);
            alone.set_reference(&network(Family::Qwen3, 37));
            learner.train_step(&half, &loss).unwrap();
            alone.train_step(&samples, &loss).unwrap();
            alone.train_step(&half[..4], &loss).unwrap();
            assert!(gap(learner.network(), alone.network(), &net) < 1e-5, "{policy_loss:?}");
        }
    }
}

#[test]
fn a_step_that_is_not_finite_is_skipped_under_every_setting() {
    let net = network(Family::Qwen3, 38);
    let good = batch(&net);
    for loss in settings() {
        for epochs in [1, 2] {
            let mut bad = good.clone();
            bad[0].logprobs[1] = f32::NAN;
            let mut learner = learner(&net, Execution::Host);
            let report = learner.train_step(&bad, &LossConfig { epochs, ..loss.clone() }).unwrap();
            assert!(!report.applied && report.loss.is_nan(), "{loss:?}");
            assert_eq!((learner.counters().updates, learner.counters().skipped), (0, 1));
            assert_eq!(parameters(learner.network()), parameters(&net));
        }
    }
}

#[test]
fn a_combination_that_means_nothing_is_refused_before_anything_changes() {
    let net = network(Family::Qwen3, 39);
    let mut learner = learner(&net, Execution::Host);
    let correction = Correction { mismatch: Mismatch::Truncated, ..Correction::default() };
    let error = learner.train_step(&batch(&net), &LossConfig { correction, ..LossConfig::default() }).unwrap_err();
    assert!(matches!(error, LearnerError::Correction(_)), "{error}");
    assert!(error.to_string().contains("decoupled"), "{error}");
    assert_eq!(learner.counters(), Default::default());
}
