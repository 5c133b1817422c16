//! Adapters on the GPU executor against the CPU executor's.

use burn::tensor::backend::AutodiffBackend;
use model::Transformer;
use model::config::Family;
use model::kernels::Kernels;
use model::learner::{Copies, GpuCompute, Learner, TrainSample};
use model::lora::{LoraConfig, Target};
use model::loss::LossConfig;

use super::policy::shaken;
use super::{EXACT, FAST, batch, device, distance, gpu, gradient, host, large, loss, saved};

fn adapters(targets: &[Target]) -> LoraConfig {
    LoraConfig { rank: 8, alpha: 12.0, targets: targets.to_vec(), rslora: false }
}

/// An adapter whose B is not zero, in PEFT's format.
pub fn trained(config: &model::ModelConfig, lora: &LoraConfig, samples: &[TrainSample]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut learner = host(shaken(config, 11)).with_lora(lora, 5).unwrap();
    for _ in 0..5 {
        assert!(learner.train_step(samples, &loss()).unwrap().applied);
    }
    assert!(learner.save_adapter(dir.path(), "base").unwrap());
    dir
}

fn with<AB: AutodiffBackend + Kernels>(learner: Learner<AB>, dir: &tempfile::TempDir) -> Learner<AB> {
    learner.with_adapter(dir.path()).unwrap()
}

/// Every elements' type, all targets or some, several passes, a prompt that answers share.
#[test]
fn gradients_of_adapters_are_the_cpu_executors() {
    if gpu().is_none() {
        return;
    }
    let some = [Target::VProj, Target::OProj, Target::UpProj];
    for (family, targets) in [(Family::Qwen3, &Target::ALL[..]), (Family::Llama, &some), (Family::Qwen2, &Target::ALL)]
    {
        let (samples, config, lora) = (batch(3), large(family, 24), adapters(targets));
        let dir = trained(&config, &lora, &samples);
        let expected = gradient(&mut with(host(shaken(&config, 11)), &dir), &samples);
        assert_eq!(expected.len(), 2 * 2 * targets.len(), "only adapters have moments");
        let found = gradient(&mut with(device(shaken(&config, 11), EXACT), &dir), &samples);
        let (error, name) = distance(&found, &expected);
        println!("{family:?}: {name} differs by {error:.1e}");
        assert!(error < 5e-5, "{family:?}: {name} differs by {error}");
        let mut learner = with(device(shaken(&config, 11), EXACT), &dir);
        learner.train_step(&samples, &LossConfig { micro_batch: 3, ..loss() }).unwrap();
        let (error, name) = distance(&saved(&learner, "adam_m/"), &expected);
        assert!(error < 5e-5, "{family:?} in passes of 3: {name} differs by {error}");
        for recompute in [false, true] {
            let options = GpuCompute { recompute, copies: Copies::Auto, ..FAST };
            let found = gradient(&mut with(device(shaken(&config, 11), options), &dir), &samples);
            let (error, name) = distance(&found, &expected);
            println!("{family:?} in bf16, recompute {recompute}: {name} differs by {error:.1e}");
            assert!(error < 0.08, "{family:?} in bf16: {name} differs by {error}");
        }
        // The comparison can fail: another scale.
        let half = LoraConfig { alpha: 6.0, ..lora };
        let other = gradient(&mut device(shaken(&config, 11), EXACT).with_lora(&half, 5).unwrap(), &samples);
        assert!(distance(&other, &expected).0 > 1e-2);
    }
}

/// The base stays, the adapters learn as on the processor, and what is published has them merged.
#[test]
fn adapters_are_trained_and_published_as_on_the_processor() {
    if gpu().is_none() {
        return;
    }
    let (samples, config, lora) = (batch(2), large(Family::Qwen3, 24), adapters(&Target::ALL));
    let dir = trained(&config, &lora, &samples);
    let (mut ours, mut cpu) = (with(device(shaken(&config, 11), EXACT), &dir), with(host(shaken(&config, 11)), &dir));
    let base = ours.lora().unwrap().base_digest().clone();
    let two = LossConfig { epochs: 2, grad_clip: 0.5, kl_coef: 0.05, ..loss() };
    for step in 0..3 {
        let before = ours.publish();
        let reports = (ours.train_step(&samples, &two).unwrap(), cpu.train_step(&samples, &two).unwrap());
        assert!(reports.0.applied && reports.1.applied);
        assert!((reports.0.grad_norm / reports.1.grad_norm - 1.0).abs() < 1e-2, "{step}: {reports:?}");
        assert!((reports.0.reference_kl - reports.1.reference_kl).abs() < 1e-3, "{step}: {reports:?}");
        assert_ne!(ours.publish().manifest.digest, before.manifest.digest);
    }
    let (error, name) = distance(&saved(&ours, "param/"), &saved(&cpu, "param/"));
    println!("after 6 updates {name} differs by {error:.1e}");
    assert!(error < 5e-3, "{name} differs by {error}");
    assert_eq!(&model::learner::weights_digest(&ours.network().clone()), &base, "the base changed");
    let values =
        |n: &Transformer<model::CpuInner>| model::host::HostWeights::from_network(n).layers[1].qkv.weight.data.clone();
    let merged = model::host::HostWeights::from_network(&ours.inference()).layers[1].qkv.weight.data.clone();
    let expected = values(&cpu.inference());
    let gap = merged.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(gap < 1e-4, "merged weights differ by {gap}");
}
