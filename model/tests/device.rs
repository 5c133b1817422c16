//! The GPU executor against the CPU executor, burn's AdamW and transformers' fixtures. Without a GPU, a driver, cuBLASLt or NVRTC every
//! test says so and passes.
//!
//!     cargo test --release -p model --features cuda --test device -- --nocapture --test-threads=1
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used)]

#[path = "device/adapters.rs"]
mod adapters;
#[path = "device/gpus.rs"]
mod gpus;
mod peer;
mod policy;
#[path = "device/sampled.rs"]
mod sampled;

use burn::optim::{AdamWConfig, SimpleOptimizer};
use burn::tensor::{Tensor, TensorData, backend::AutodiffBackend};
use model::config::{Family, ModelConfig, TinyShape};
use model::device::update::{Moved, Rule, Updates};
use model::device::{Runtime, Span};
use model::kernels::Kernels;
use model::learner::{Copies, Execution, GpuCompute, GpuType, Learner, SftSample, TrainSample, weights_digest};
use model::loss::LossConfig;
use model::optim::OptimConfig;
use model::{Cpu, CpuInner, Gpu, Transformer};
use policy::{FAMILIES, config, fixtures, shaken, tokens};

/// A runtime where this machine has one; else says why not.
fn gpu() -> Option<Runtime> {
    match Runtime::new(0) {
        Ok(runtime) => Some(runtime),
        Err(reason) => {
            println!("skipped: {reason}");
            None
        }
    }
}

const EXACT: GpuCompute = GpuCompute {
    element: GpuType::Fp32,
    recompute: false,
    plain_attention: false,
    copies: Copies::Auto,
    wait_s: 0,
    keeps_copy: false,
    gpus: 1,
    published: 0,
    longest: 0,
};
const FAST: GpuCompute = GpuCompute { element: GpuType::Bf16, ..EXACT };

fn optim() -> OptimConfig {
    OptimConfig { lr: 1e-3, weight_decay: 0.1, ..OptimConfig::default() }
}

fn host(network: Transformer<Cpu>) -> Learner<Cpu> {
    Learner::new(network, optim()).with_execution(Execution::Host, 2)
}

fn device(network: Transformer<Gpu>, compute: GpuCompute) -> Learner<Gpu> {
    Learner::new(network, optim()).with_execution(Execution::Device, 1).with_gpu(compute)
}

/// Two prompts with four answers each (one of them of one token), and lone ones; `scale` stretches all lengths. The behaviour's
/// log-probs are made up: near -3, so that ratios are of the order of 1 in a vocabulary of 40.
fn batch(scale: usize) -> Vec<TrainSample> {
    (0..10u64)
        .map(|i| {
            let prompt = tokens(100 + i / 4, scale * (9 + 4 * (i / 4) as usize));
            let answer = tokens(200 + i, 1 + scale * 3 * (i % 4) as usize);
            TrainSample {
                logprobs: answer.iter().enumerate().map(|(t, _)| -3.0 + 0.3 * (t as f32).sin()).collect(),
                plan_tokens: answer.len() as u32 / 2,
                plan_advantage: 0.4 - 0.2 * i as f32,
                code_advantage: if i % 2 == 0 { 1.0 } else { -0.7 },
                plan_weight: 0.01,
                code_weight: 0.05,
                prompt,
                tokens: answer,
            }
        })
        .collect()
}

fn loss() -> LossConfig {
    // A wide clip: nearly every token has a gradient.
    LossConfig { temperature: 0.9, grad_clip: 0.0, clip_low: 0.99, clip_high: 50.0, ..LossConfig::default() }
}

type Named = Vec<(String, Vec<f32>)>;

/// Parameters or AdamW's moments, as a checkpoint has them.
fn saved<AB: AutodiffBackend + Kernels>(learner: &Learner<AB>, part: &str) -> Named {
    let dir = tempfile::tempdir().unwrap();
    learner.save_checkpoint(&dir.path().join("c")).unwrap();
    let bytes = std::fs::read(dir.path().join("c/state.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = |data: &[u8]| data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let found = file.tensors().into_iter().filter(|(name, _)| name.starts_with(part));
    let mut out: Named = found.map(|(name, view)| (name, values(view.data()))).collect();
    out.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(!out.is_empty(), "{part}");
    out
}

/// AdamW's first moment after one step: a tenth of the gradient.
fn gradient<AB: AutodiffBackend + Kernels>(learner: &mut Learner<AB>, samples: &[TrainSample]) -> Named {
    let report = learner.train_step(samples, &loss()).unwrap();
    assert!(report.applied && report.grad_norm > 0.0, "{report:?}");
    saved(learner, "adam_m/")
}

/// The largest `|a - b| / |b|` (Euclidean) of any tensor.
fn distance(a: &Named, b: &Named) -> (f64, String) {
    assert_eq!(a.len(), b.len());
    let mut worst = (0.0, String::new());
    for ((name, a), (other, b)) in a.iter().zip(b) {
        assert_eq!(name, other);
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        let gap = norm(&mut a.iter().zip(b).map(|(x, y)| f64::from(x - y)));
        let size = norm(&mut b.iter().map(|y| f64::from(*y)));
        let error = gap / size.max(1e-12);
        // No number is worse than any.
        if error.is_nan() || error > worst.0 {
            worst = (if error.is_nan() { f64::INFINITY } else { error }, name.clone());
        }
    }
    worst
}

/// Head sizes that the tensor cores take, and more than one tile of rows.
fn large(family: Family, head_dim: usize) -> ModelConfig {
    let shape = TinyShape { hidden: 64, layers: 2, heads: 4, kv_heads: 2, ff: 96, vocab: policy::VOCAB };
    let mut config = ModelConfig::tiny_default(shape, 1024, vec![1]);
    config.family = family;
    config.tie_word_embeddings = family != Family::Llama;
    config.head_dim = head_dim;
    config
}

#[test]
fn gradients_in_fp32_are_the_cpu_executors() {
    if gpu().is_none() {
        return;
    }
    for family in FAMILIES {
        let samples = batch(1);
        let expected = gradient(&mut host(shaken(&config(family), 11)), &samples);
        let found = gradient(&mut device(shaken(&config(family), 11), EXACT), &samples);
        let (error, name) = distance(&found, &expected);
        println!("{family:?}: {name} differs by {error:.1e}");
        assert!(error < 2e-5, "{family:?}: {name} differs by {error}");
        // The comparison can fail: other advantages, another gradient.
        let mut changed = samples.clone();
        changed[3].code_advantage += 0.2;
        let other = gradient(&mut device(shaken(&config(family), 11), EXACT), &changed);
        assert!(distance(&other, &expected).0 > 1e-3);
        // Several passes add up.
        let small = LossConfig { micro_batch: 3, ..loss() };
        let mut learner = device(shaken(&config(family), 11), EXACT);
        learner.train_step(&samples, &small).unwrap();
        let (error, name) = distance(&saved(&learner, "adam_m/"), &expected);
        assert!(error < 2e-5, "{family:?} in passes of 3: {name} differs by {error}");
    }
}

/// Rope scalings, biases, tied and untied heads, as transformers has them: log-probs and gradients.
#[test]
fn fixtures_of_transformers_agree() {
    if gpu().is_none() {
        return;
    }
    for (case, network, expected) in fixtures() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(&case);
        let on_gpu = || model::load_weights::<Gpu>(&folder, &Default::default()).unwrap().1;
        let number = |x: &serde_json::Value| x.as_f64().unwrap();
        let list = |x: &serde_json::Value| x.as_array().unwrap().clone();
        let rows: Vec<Vec<u32>> =
            list(&expected["tokens"]).iter().map(|r| list(r).iter().map(|t| number(t) as u32).collect()).collect();
        let samples: Vec<SftSample> =
            rows.iter().map(|r| SftSample { prompt: vec![r[0]], tokens: r[1..].to_vec() }).collect();
        let scores = device(on_gpu(), EXACT).score(&samples, 1.0).unwrap();
        for (found, expected) in scores.iter().zip(list(&expected["following_logprobs"])) {
            for (t, (found, expected)) in found.iter().zip(list(&expected)).enumerate() {
                let expected = number(&expected) as f32;
                let gap = (found - expected).abs() / (1.0 + expected.abs());
                assert!(gap < 2e-5, "{case}, token {t}: {found}, transformers says {expected}");
            }
        }
        let close = device(on_gpu(), EXACT).score(&samples, 0.7).unwrap().concat();
        let cpu = host(network.clone()).score(&samples, 0.7).unwrap().concat();
        let gap = close.iter().zip(&cpu).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f32::max);
        println!("{case}: log-probs differ by {gap:.1e} from the CPU's");
        assert!(gap < 1e-5, "{case}: log-probs differ by {gap}");
        let mut learners = (device(on_gpu(), EXACT), host(network));
        let reports = (learners.0.sft_step(&samples, 4).unwrap(), learners.1.sft_step(&samples, 4).unwrap());
        assert!((reports.0.loss - reports.1.loss).abs() < 1e-5 * reports.1.loss.abs(), "{case}: {reports:?}");
        assert!((reports.0.grad_norm - reports.1.grad_norm).abs() < 1e-4 * reports.1.grad_norm, "{case}: {reports:?}");
        assert_eq!(reports.0.accuracy, reports.1.accuracy);
        let (error, name) = distance(&saved(&learners.0, "adam_m/"), &saved(&learners.1, "adam_m/"));
        assert!(error < 5e-5, "{case}: {name} differs by {error}");
    }
}

/// bf16 against fp32 on the CPU: what rounding leaves, for both kinds of attention, every head size class, shared prompts and
/// several tiles.
#[test]
fn gradients_in_bf16_are_near() {
    if gpu().is_none() {
        return;
    }
    for (family, head_dim) in [(Family::Qwen3, 128), (Family::Qwen2, 64), (Family::Llama, 24), (Family::Qwen3, 10)] {
        let samples = batch(14);
        let config = large(family, head_dim);
        let expected = gradient(&mut host(shaken(&config, 5)), &samples);
        for plain_attention in [true, false] {
            let options = GpuCompute { plain_attention, ..FAST };
            let found = gradient(&mut device(shaken(&config, 5), options), &samples);
            let (error, name) = distance(&found, &expected);
            println!("{family:?} head {head_dim}, plain {plain_attention}: {name} differs by {error:.1e}");
            assert!(error < 0.05, "{family:?} head {head_dim}, plain {plain_attention}: {name} differs by {error}");
        }
    }
}

#[test]
fn a_pass_is_the_same_to_the_bit_again_with_recomputed_layers_and_with_fresh_copies() {
    if gpu().is_none() {
        return;
    }
    let samples = batch(9);
    let config = large(Family::Qwen3, 64);
    let first = gradient(&mut device(shaken(&config, 3), FAST), &samples);
    let fresh = GpuCompute { copies: Copies::Fresh, ..FAST };
    for options in [FAST, GpuCompute { recompute: true, ..FAST }, fresh, GpuCompute { recompute: true, ..fresh }] {
        assert_eq!(gradient(&mut device(shaken(&config, 3), options), &samples), first, "{options:?}");
    }
    // An untied head has a copy of its own.
    let config = large(Family::Llama, 64);
    let first = gradient(&mut device(shaken(&config, 3), FAST), &samples);
    assert_eq!(gradient(&mut device(shaken(&config, 3), fresh), &samples), first, "untied");
}

/// What is planned before the first step is what is held after it.
#[test]
fn the_planned_memory_is_what_is_held() {
    if gpu().is_none() {
        return;
    }
    // Wide enough that alignment and tables do not count.
    let shape = TinyShape { hidden: 512, layers: 4, heads: 8, kv_heads: 4, ff: 1536, vocab: 4096 };
    let mut config = ModelConfig::tiny_default(shape, 4096, vec![1]);
    (config.family, config.head_dim) = (Family::Qwen3, 64);
    // One pass of all the rows that the plan allows.
    let samples: Vec<TrainSample> = batch(1)
        .iter()
        .take(8)
        .enumerate()
        .map(|(i, s)| {
            let answer = tokens(300 + i as u64, 1024);
            TrainSample { prompt: tokens(i as u64, 1), logprobs: vec![-3.0; answer.len()], tokens: answer, ..s.clone() }
        })
        .collect();
    for (recompute, copies) in [(false, Copies::Kept), (true, Copies::Kept), (true, Copies::Fresh)] {
        let mut learner = device(shaken(&config, 3), GpuCompute { recompute, copies, ..FAST });
        learner.train_step(&samples, &loss()).unwrap();
        let (budget, held) = learner.gpu_memory().unwrap();
        let own = |what: &str| !["weights", "AdamW's two moments", "gradients", "left free"].contains(&what);
        let planned: usize = budget.lines.iter().filter(|l| own(l.what)).map(|l| l.bytes).sum();
        println!("recompute {recompute}, {copies:?}: {held} bytes held, {planned} planned for {} rows", budget.rows);
        assert!(held <= planned && held as f64 > 0.9 * planned as f64, "{held} of {planned}: {budget}");
    }
}

/// Uploads, for a test's own use of a runtime.
fn upload(rt: &Runtime, values: &[f32]) -> (Span, model::device::Buffer) {
    let mut buffer = model::device::Buffer::default();
    let span = buffer.span(rt, "a test", values.len() * 4).unwrap();
    rt.upload(values, span).unwrap();
    (span, buffer)
}

#[test]
fn adamw_and_the_norm_are_burns() {
    let Some(rt) = gpu() else { return };
    let mut updates = Updates::load(&rt).unwrap();
    for (n, decays) in [(1, true), (5, false), (40_003, true)] {
        let number = |i: usize, salt: f32| ((i as f32 + salt) * 0.7).sin();
        let at = |salt: f32| (0..n).map(|i| number(i, salt)).collect::<Vec<f32>>();
        let tensor = |v: Vec<f32>| Tensor::<CpuInner, 1>::from_data(TensorData::new(v, [n]), &Default::default());
        let weight_decay = if decays { 0.1 } else { 0.0 };
        let burns = AdamWConfig::new().with_beta_2(0.95).with_epsilon(1e-8).with_weight_decay(weight_decay).build();
        let (mut weights, mut state) = (tensor(at(1.0)), None);
        let (w, _keep) = upload(&rt, &at(1.0));
        let ((m, _m), (v, _v)) = (upload(&rt, &vec![f32::NAN; n]), upload(&rt, &vec![f32::NAN; n]));
        for time in 1..4 {
            let gradient = at(10.0 * time as f32);
            let grad = tensor(gradient.clone()).mul_scalar(0.5);
            (weights, state) = burns.step(1e-2, weights, grad, state);
            let (g, _g) = upload(&rt, &gradient);
            let moments = (time > 1).then_some([m, v]);
            let moved = Moved { weights: w, moments, gradient: g, new_weights: w, new_moments: [m, v], decays };
            let rule = Rule { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, time, scale: 0.5 };
            updates.adamw(&rt, &[moved], &rule).unwrap();
            let found: Vec<f32> = rt.download(w, n).unwrap();
            let expected: Vec<f32> = weights.to_data().iter::<f32>().collect();
            for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
                assert!((f - e).abs() <= 1e-6 + 1e-6 * e.abs(), "{n}, step {time}, element {i}: {f}, burn has {e}");
            }
        }
        let values = at(2.0);
        let expected: f64 = values.iter().map(|x| f64::from(*x).powi(2)).sum();
        let (a, _a) = upload(&rt, &values);
        let found = updates.squares(&rt, &[a, a]).unwrap();
        assert!((found - 2.0 * expected).abs() < 1e-12 * expected, "{found} for {}", 2.0 * expected);
    }
}

#[test]
fn a_reference_network_is_scored_on_the_gpu() {
    if gpu().is_none() {
        return;
    }
    let samples = batch(2);
    let config = large(Family::Llama, 24);
    let loss = LossConfig { kl_coef: 0.1, ..loss() };
    let (mut ours, mut cpu) = (device(shaken(&config, 8), EXACT), host(shaken(&config, 8)));
    for seed in [9, 10] {
        // The second takes the first one's place.
        let other: Transformer<Cpu> = shaken(&config, seed);
        ours.set_reference(&other);
        cpu.set_reference(&other);
        let (a, b) = (ours.train_step(&samples, &loss).unwrap(), cpu.train_step(&samples, &loss).unwrap());
        assert!(b.reference_kl > 1e-2, "{b:?}");
        assert!((a.reference_kl / b.reference_kl - 1.0).abs() < 1e-3, "{seed}: {a:?} {b:?}");
        assert!((a.grad_norm / b.grad_norm - 1.0).abs() < 1e-2, "{seed}: {a:?} {b:?}");
    }
}

/// Updates are made in place only where nobody else looks: what was published stays.
#[test]
fn published_weights_do_not_change_and_training_is_the_cpus() {
    if gpu().is_none() {
        return;
    }
    let samples = batch(2);
    let config = large(Family::Qwen3, 24);
    let (mut ours, mut cpu) = (device(shaken(&config, 8), EXACT), host(shaken(&config, 8)));
    let two = LossConfig { epochs: 2, grad_clip: 0.5, ..loss() };
    for step in 0..3 {
        let published = ours.publish();
        let before = published.manifest.digest.clone();
        let reports = (ours.train_step(&samples, &two).unwrap(), cpu.train_step(&samples, &two).unwrap());
        assert!(reports.0.applied && reports.1.applied);
        assert!((reports.0.loss - reports.1.loss).abs() < 1e-3 * (1.0 + reports.1.loss.abs()), "{step}: {reports:?}");
        assert!((reports.0.grad_norm / reports.1.grad_norm - 1.0).abs() < 1e-2, "{step}: {reports:?}");
        assert_eq!(weights_digest(&*published.network), before, "step {step} changed what was published");
        assert_ne!(ours.publish().manifest.digest, before);
    }
    let (error, name) = distance(&saved(&ours, "param/"), &saved(&cpu, "param/"));
    println!("after 6 updates {name} differs by {error:.1e}");
    assert!(error < 2e-3, "{name} differs by {error}");
}

/// See `peer`.
#[test]
fn everything_equals_transformers_on_the_same_weights() {
    if gpu().is_none() {
        return;
    }
    // All cases, and then what missed: a run on a GPU is dear.
    let mut misses = Vec::new();
    for case in peer::cases() {
        let with = |compute| {
            move |network, optim| {
                Learner::<Gpu>::new(network, optim).with_execution(Execution::Device, 1).with_gpu(compute)
            }
        };
        let first = case.batches().next().unwrap();
        misses.extend(peer::single(&case, &first, &peer::found(&case, &first, with(EXACT))));
        misses.extend(peer::half(&case, |batch| peer::found(&case, batch, with(FAST))));
    }
    assert!(misses.is_empty(), "{misses:#?}");
}
