//! Micro-batches on several GPUs against one. Needs two GPUs and libnccl.

use model::config::Family;
use model::device::Runtime;
use model::learner::{Copies, GpuCompute};
use model::lora::{LoraConfig, Target};
use model::loss::LossConfig;

use super::policy::shaken;
use super::{EXACT, FAST, adapters, batch, device, distance, gpu, gradient, large, loss, saved};

fn two() -> bool {
    if gpu().is_none() {
        return false;
    }
    let second = Runtime::new(1);
    if let Err(reason) = &second {
        println!("skipped: no second GPU: {reason}");
    }
    second.is_ok()
}

/// The same sum, in another order of addition.
#[test]
fn two_gpus_make_the_gradient_of_one() {
    if !two() {
        return;
    }
    // Prompts are shared, so that most rows are answers'; two micro-batches at least, one for each GPU (`learner::batch` tests that).
    let samples = batch(9);
    for family in [Family::Qwen3, Family::Llama] {
        let config = large(family, 24);
        let expected = gradient(&mut device(shaken(&config, 11), EXACT), &samples);
        let found = gradient(&mut device(shaken(&config, 11), GpuCompute { gpus: 2, ..EXACT }), &samples);
        let (error, name) = distance(&found, &expected);
        println!("{family:?}: {name} differs by {error:.1e}");
        assert!(error < 2e-5, "{family:?}: {name} differs by {error}");
        // bf16: gradients of each pass are rounded as before, but for their share of the sum.
        let one = gradient(&mut device(shaken(&config, 11), FAST), &samples);
        for copies in [Copies::Kept, Copies::Fresh] {
            let both = GpuCompute { gpus: 2, copies, ..FAST };
            let found = gradient(&mut device(shaken(&config, 11), both), &samples);
            let (error, name) = distance(&found, &one);
            println!("{family:?} in bf16, {copies:?}: {name} differs by {error:.1e}");
            assert!(error < 0.02, "{family:?}, {copies:?}: {name} differs by {error}");
            assert_eq!(gradient(&mut device(shaken(&config, 11), both), &samples), found, "another run, other bits");
        }
        // The comparison can fail: a sample less.
        let less = gradient(&mut device(shaken(&config, 11), GpuCompute { gpus: 2, ..EXACT }), &samples[1..]);
        assert!(distance(&less, &expected).0 > 1e-3);
    }
}

/// Several updates, one of which is not spread (a single sample, so one GPU has nothing to do).
#[test]
fn two_gpus_train_as_one() {
    if !two() {
        return;
    }
    let config = large(Family::Qwen3, 64);
    let mut one = device(shaken(&config, 8), EXACT);
    let mut both = device(shaken(&config, 8), GpuCompute { gpus: 2, ..EXACT });
    let loss = LossConfig { epochs: 2, grad_clip: 0.5, micro_batch: 2, ..loss() };
    for step in 0..3 {
        let mut samples = batch(2);
        samples.truncate(if step == 1 { 1 } else { 10 });
        let reports = (one.train_step(&samples, &loss).unwrap(), both.train_step(&samples, &loss).unwrap());
        assert!(reports.0.applied && reports.1.applied);
        assert!((reports.0.loss - reports.1.loss).abs() < 1e-3 * (1.0 + reports.0.loss.abs()), "{step}: {reports:?}");
        assert!((reports.0.grad_norm / reports.1.grad_norm - 1.0).abs() < 1e-2, "{step}: {reports:?}");
        assert_eq!((reports.0.tokens, reports.0.samples), (reports.1.tokens, reports.1.samples));
    }
    let (error, name) = distance(&saved(&both, "param/"), &saved(&one, "param/"));
    println!("after 6 updates {name} differs by {error:.1e}");
    assert!(error < 2e-3, "{name} differs by {error}");
}

/// Adapters: what is shared has them merged, and only their gradients are summed.
#[test]
fn two_gpus_make_the_adapters_gradient_of_one() {
    if !two() {
        return;
    }
    let (samples, config) = (batch(9), large(Family::Qwen3, 24));
    let lora = LoraConfig { rank: 8, alpha: 12.0, targets: Target::ALL.to_vec(), rslora: false };
    let dir = adapters::trained(&config, &lora, &samples);
    let learner = |compute| device(shaken(&config, 11), compute).with_adapter(dir.path()).unwrap();
    for (compute, limit) in [(EXACT, 2e-5), (FAST, 0.02)] {
        let expected = gradient(&mut learner(compute), &samples);
        let found = gradient(&mut learner(GpuCompute { gpus: 2, ..compute }), &samples);
        let (error, name) = distance(&found, &expected);
        println!("adapters, {:?}: {name} differs by {error:.1e}", compute.element);
        assert!(error < limit, "{:?}: {name} differs by {error}", compute.element);
        assert!(distance(&gradient(&mut learner(compute), &samples[1..]), &expected).0 > 1e-3, "it cannot fail");
    }
    let (mut one, mut both) = (learner(EXACT), learner(GpuCompute { gpus: 2, ..EXACT }));
    for step in 0..3 {
        let reports = (one.train_step(&samples, &loss()).unwrap(), both.train_step(&samples, &loss()).unwrap());
        assert!(reports.0.applied && reports.1.applied, "{step}: {reports:?}");
    }
    let (error, name) = distance(&saved(&both, "param/"), &saved(&one, "param/"));
    println!("adapters after 3 updates: {name} differs by {error:.1e}");
    assert!(error < 2e-3, "{name} differs by {error}");
}

#[test]
fn more_gpus_than_there_are_is_an_error_with_both_numbers() {
    if gpu().is_none() {
        return;
    }
    let config = large(Family::Qwen3, 24);
    let mut learner = device(shaken(&config, 8), GpuCompute { gpus: 65, ..EXACT });
    let error = learner.train_step(&batch(1), &loss()).unwrap_err().to_string();
    assert!(
        error.contains("learner.gpus") && error.contains("65") && error.contains("CUDA_VISIBLE_DEVICES"),
        "{error}"
    );
}
