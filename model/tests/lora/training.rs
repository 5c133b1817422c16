//! What training with adapters changes and what it leaves; checkpoints; what is refused.

use burn::module::Param;
use model::checkpoint::CheckpointError;
use model::config::Family;
use model::guard::{GuardConfig, Kind, Reaction};
use model::learner::{Execution, weights_digest};
use model::lora::{LoraError, Target};
use model::loss::LossConfig;
use model::optim::LrSchedule;

use crate::policy::{FAMILIES, network, parameters};
use crate::*;

fn values<const D: usize>(p: &Param<burn::tensor::Tensor<Cpu, D>>) -> Vec<f32> {
    p.val().into_data().iter::<f32>().collect()
}

/// With a weight of -0, which a sum with 0 would turn into 0. Planted: no `mask_where` in `Lora::add`. Seen: other digests.
#[test]
fn fresh_adapters_are_the_base_to_the_bit_and_the_base_stays_it() {
    for family in FAMILIES {
        let mut base = network(family, 41);
        let weight = &mut base.layers[1].mlp.gate_up.weight;
        *weight = weight.clone().map(|t| {
            let last = t.dims()[1] - 1;
            let zero = burn::tensor::Tensor::from_floats([[-0.0]], &t.device());
            burn::tensor::Tensor::from_inner(t.inner().slice_assign([0..1, last..last + 1], zero)).require_grad()
        });
        let bits: Vec<u32> = parameters(&base).iter().map(|x| x.to_bits()).collect();
        assert!(bits.contains(&(-0.0f32).to_bits()));
        let digest = weights_digest(&learner(base.clone(), Execution::Host).inference());
        let mut learner = learner(base.clone(), Execution::Host).with_lora(&lora(2, &Target::ALL), 3).unwrap();
        assert_eq!(learner.publish().manifest.digest, digest, "{family:?}");
        assert_eq!(learner.lora().unwrap().base_digest(), &digest);
        for _ in 0..3 {
            learner.train_step(&answers(&base), &LossConfig::default()).unwrap();
        }
        assert_ne!(learner.publish().manifest.digest, digest);
        let off: Vec<u32> = parameters(learner.lora().unwrap().base()).iter().map(|x| x.to_bits()).collect();
        assert!(off == bits, "{family:?}: with the adapters off it is W0");
    }
}

#[test]
fn only_the_targets_columns_change() {
    for family in FAMILIES {
        let base = network(family, 42);
        let config = lora(2, &[Target::KProj, Target::UpProj]);
        let mut learner = learner(base.clone(), Execution::Host).with_lora(&config, 3).unwrap();
        for _ in 0..2 {
            assert!(learner.train_step(&answers(&base), &LossConfig::default()).unwrap().applied);
        }
        let net = learner.network();
        let a = &base.layers[0].attention;
        let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
        for (new, old) in net.layers.iter().zip(&base.layers) {
            let changed = |new: &Param<_>, old: &Param<burn::tensor::Tensor<Cpu, 2>>| -> Vec<bool> {
                let (width, new, old) = (old.dims()[1], values(new), values(old));
                (0..width)
                    .map(|c| (c..new.len()).step_by(width).any(|i| new[i].to_bits() != old[i].to_bits()))
                    .collect()
            };
            let qkv = changed(&new.attention.qkv.weight, &old.attention.qkv.weight);
            assert!(
                qkv.iter().enumerate().all(|(c, changed)| *changed == (q..q + kv).contains(&c)),
                "{family:?}: {qkv:?}"
            );
            let gate_up = changed(&new.mlp.gate_up.weight, &old.mlp.gate_up.weight);
            assert!(gate_up.iter().enumerate().all(|(c, changed)| *changed == (c >= 40)), "{family:?}: {gate_up:?}");
            assert!(!changed(&new.attention.output.weight, &old.attention.output.weight).contains(&true));
            assert!(!changed(&new.mlp.down.weight, &old.mlp.down.weight).contains(&true));
            assert_eq!(values(&new.attention_norm.weight), values(&old.attention_norm.weight));
            let bias = |l: &model::network::Linear<Cpu>| l.bias.as_ref().map(values);
            assert_eq!(bias(&new.attention.qkv), bias(&old.attention.qkv));
        }
        assert_eq!((values(&net.embed), values(&net.norm.weight)), (values(&base.embed), values(&base.norm.weight)));
        // And the optimizer knows nothing else.
        let names: Vec<String> = saved(&learner).into_keys().collect();
        assert_eq!(names.len(), 3 * 2 * 2 * 2, "{names:?}");
        assert!(names.iter().all(|n| n.ends_with(".lora_a") || n.ends_with(".lora_b")), "{names:?}");
        assert_eq!(learner.lora().unwrap().num_parameters(), 2 * 2 * ((24 + kv) + (24 + 40)));
    }
}

#[test]
fn an_adapter_learns_its_examples_and_both_executions_agree() {
    let config = OptimConfig { lr: 2e-2, schedule: LrSchedule::constant(3), ..OptimConfig::default() };
    let start = |execution| {
        let learner = Learner::new(network(Family::Qwen3, 43), config.clone()).with_execution(execution, 2);
        learner.with_lora(&lora(8, &Target::ALL), 5).unwrap()
    };
    let (mut host, mut autodiff) = (start(Execution::Host), start(Execution::Autodiff));
    let (a, b) = (host.sft_step(&examples(), 2).unwrap(), autodiff.sft_step(&examples(), 4).unwrap());
    assert!((a.loss - b.loss).abs() < 1e-5 && (a.grad_norm / b.grad_norm - 1.0).abs() < 1e-4, "{a:?} {b:?}");
    let mut last = a.clone();
    for _ in 0..100 {
        last = host.sft_step(&examples(), 4).unwrap();
    }
    assert!(last.loss < 0.5 * a.loss && last.accuracy == 1.0, "{a:?} {last:?}");
}

/// Planted: the norm of the whole network's gradients. Seen: a norm several times as large.
#[test]
fn norm_clipping_and_guard_look_at_adapters_alone() {
    let base = network(Family::Llama, 44);
    let samples = answers(&base);
    let start = || learner(base.clone(), Execution::Host).with_lora(&lora(2, &[Target::QProj]), 3).unwrap();
    let free = LossConfig { grad_clip: 0.0, ..LossConfig::default() };
    let mut whole = learner(base.clone(), Execution::Host);
    let (mut plain, mut clipped) = (start(), start());
    let all = whole.train_step(&samples, &free).unwrap().grad_norm;
    let own = plain.train_step(&samples, &free).unwrap().grad_norm;
    let moments = |l: &Learner<Cpu>| norm(saved(l).iter().filter(|(n, _)| n.starts_with("adam_m/")).map(|(_, g)| g));
    assert!((moments(&plain) / own - 1.0).abs() < 1e-6 && all > 3.0 * own, "{own} of {all}");
    let limit = own / 4.0;
    clipped.train_step(&samples, &LossConfig { grad_clip: limit as f32, ..LossConfig::default() }).unwrap();
    assert!((moments(&clipped) / limit - 1.0).abs() < 1e-5, "{} for {limit}", moments(&clipped));
    // A spike is one of the adapters' norm; a skipped step leaves them to the bit.
    let guard =
        GuardConfig { gradient_spike: Reaction::Skip, gradient_spike_factor: 5.0, window: 2, ..GuardConfig::default() };
    let mut watched = start().with_guard(guard);
    for _ in 0..2 {
        watched.train_step(&samples, &free).unwrap();
    }
    let mut loud = samples.clone();
    loud.iter_mut().for_each(|s| (s.plan_weight, s.code_weight) = (10.0 * s.plan_weight, 10.0 * s.code_weight));
    let before = (saved(&watched), parameters(watched.network()), watched.counters().updates);
    let report = watched.train_step(&loud, &LossConfig { epochs: 2, ..free.clone() }).unwrap();
    assert!(!report.applied && report.alarms.iter().any(|a| a.kind == Kind::GradientSpike), "{report:?}");
    let mut bad = samples.clone();
    bad[0].logprobs[1] = f32::NAN;
    assert!(!watched.train_step(&bad, &LossConfig { epochs: 3, ..free }).unwrap().applied);
    assert!(before == (saved(&watched), parameters(watched.network()), watched.counters().updates));
}

/// As TRL does with PEFT. Planted: no `refer_to_base`. Seen: `NoReference`.
#[test]
fn the_reference_of_the_kl_term_is_the_base() {
    let base = network(Family::Qwen3, 45);
    let samples = answers(&base);
    let loss = LossConfig { kl_coef: 0.3, ..LossConfig::default() };
    let start = || learner(base.clone(), Execution::Host).with_lora(&lora(4, &Target::ALL), 3).unwrap();
    let (mut silent, mut told) = (start(), start());
    told.set_reference(&base);
    for step in 0..3 {
        let (a, b) = (silent.train_step(&samples, &loss).unwrap(), told.train_step(&samples, &loss).unwrap());
        assert_eq!((a.loss, a.reference_kl, a.grad_norm), (b.loss, b.reference_kl, b.grad_norm));
        // At first the policy is the base; rounding is all that is between the two passes.
        assert_eq!(a.reference_kl.abs() < 1e-9, step == 0, "{}", a.reference_kl);
    }
}

#[test]
fn a_loaded_checkpoint_goes_on_bit_for_bit() {
    let base = network(Family::Qwen2, 46);
    let samples = answers(&base);
    let config = OptimConfig { weight_decay: 0.1, schedule: LrSchedule::cosine(2, 9, 10), ..OptimConfig::default() };
    let loss = LossConfig { epochs: 2, kl_coef: 0.1, ..LossConfig::default() };
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("c");
    let start = |seed| Learner::new(base.clone(), config.clone()).with_lora(&lora(3, &Target::ALL), seed).unwrap();
    let mut through = start(8);
    for _ in 0..2 {
        through.train_step(&samples, &loss).unwrap();
    }
    let manifest = through.save_checkpoint(&place).unwrap();
    assert_eq!((manifest.format, manifest.counters.updates), (2, 4));
    // Another start; all of it is replaced.
    let mut resumed = start(9);
    assert_ne!(parameters(resumed.network()), parameters(through.network()));
    assert_eq!(resumed.load_checkpoint(&place).unwrap(), manifest);
    assert_eq!(resumed.publish().manifest, through.publish().manifest);
    for _ in 0..2 {
        let (a, b) = (through.train_step(&samples, &loss).unwrap(), resumed.train_step(&samples, &loss).unwrap());
        assert_eq!((a.loss, a.grad_norm, a.lr, a.step), (b.loss, b.grad_norm, b.lr, b.step));
    }
    assert_eq!(through.publish().manifest, resumed.publish().manifest);
    let bytes = |l: &Learner<Cpu>, name: &str| {
        l.save_checkpoint(&dir.path().join(name)).unwrap();
        let read = |file: &str| std::fs::read(dir.path().join(name).join(file)).unwrap();
        (read("state.safetensors"), read("manifest.json"))
    };
    assert!(bytes(&through, "a") == bytes(&resumed, "b"));
    let whole = parameters(&base).len() * 4;
    assert!(bytes(&through, "a").0.len() < 3 * whole, "the base is not in it");
}

/// Planted: no look at the base. Seen: it is loaded.
#[test]
fn a_checkpoint_of_something_else_is_refused_and_changes_nothing() {
    let (base, other) = (network(Family::Qwen3, 47), network(Family::Qwen3, 48));
    let dir = tempfile::tempdir().unwrap();
    let (adapted, whole) = (dir.path().join("adapted"), dir.path().join("whole"));
    let start = |net: &Transformer<Cpu>, c: &LoraConfig| learner(net.clone(), Execution::Host).with_lora(c, 3).unwrap();
    let config = lora(2, &[Target::QProj]);
    let mut source = start(&base, &config);
    source.sft_step(&examples(), 4).unwrap();
    source.save_checkpoint(&adapted).unwrap();
    learner(base.clone(), Execution::Host).save_checkpoint(&whole).unwrap();
    let refused = |mut learner: Learner<Cpu>, place: &Path| {
        let before = saved(&learner);
        let error = learner.load_checkpoint(place).unwrap_err();
        assert!(saved(&learner) == before);
        error
    };
    let error = refused(start(&other, &config), &adapted);
    let text = error.to_string();
    assert!(
        matches!(error, CheckpointError::Base { .. }) && text.contains("hint") && text.contains("warm-start"),
        "{text}"
    );
    assert!(text.contains(&source.lora().unwrap().base_digest().0), "{text}");
    let error = refused(learner(base.clone(), Execution::Host), &adapted);
    let text = error.to_string();
    assert!(matches!(error, CheckpointError::Trained { .. }), "{text}");
    assert!(text.contains("holds LoRA of rank 2 and alpha 4 on q_proj, this learner trains every weight"), "{text}");
    let text = refused(start(&base, &config), &whole).to_string();
    assert!(text.contains("holds every weight, this learner trains LoRA of rank 2"), "{text}");
    for c in [lora(3, &[Target::QProj]), lora(2, &[Target::VProj]), LoraConfig { rslora: true, ..config.clone() }] {
        let text = refused(start(&base, &c), &adapted).to_string();
        assert!(text.contains("manifest.json holds LoRA of rank 2 and alpha 4 on q_proj"), "{text}");
    }
    assert!(start(&base, &config).load_checkpoint(&adapted).is_ok());
}

#[test]
fn adapters_that_do_not_fit_are_refused() {
    let try_one = |config: LoraConfig| learner(network(Family::Llama, 49), Execution::Host).with_lora(&config, 1).err();
    assert!(matches!(
        try_one(lora(9, &[Target::KProj])),
        Some(LoraError::Rank { rank: 9, target: "k_proj", output: 8, .. })
    ));
    assert!(try_one(lora(8, &[Target::KProj])).is_none());
    assert!(matches!(try_one(lora(2, &[])), Some(LoraError::Targets { .. })));
    assert!(matches!(try_one(LoraConfig { alpha: 0.0, ..lora(2, &[Target::KProj]) }), Some(LoraError::Alpha { .. })));
}
