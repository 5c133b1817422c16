//! What another GPU would do, done on the learner's own, beside what the first does: all but NCCL's part. Needs a GPU; says so where there
//! is none.
#![allow(clippy::unwrap_used)]

use burn::optim::GradientsParams;

use super::*;
use crate::budget::Copies;
use crate::config::{Family, ModelConfig, TinyShape};
use crate::device::F32;
use crate::host::Dims;
use crate::learner::device::OnDevice;
use crate::learner::gpu::Trained;
use crate::learner::{Execution, GpuCompute, GpuType, Learner, TrainSample};
use crate::lora::{LoraConfig, Target};
use crate::loss::{LossConfig, Term};
use crate::optim::OptimConfig;
use crate::{Gpu, Transformer};

const COUNT: usize = 6;

fn config(family: Family) -> ModelConfig {
    let shape = TinyShape { hidden: 64, layers: 2, heads: 4, kv_heads: 2, ff: 96, vocab: 40 };
    let mut config = ModelConfig::tiny_default(shape, 512, vec![1]);
    config.family = family;
    config.tie_word_embeddings = family != Family::Llama;
    config
}

fn samples() -> Vec<TrainSample> {
    let text = |from: u32, len: u32| (0..len).map(|i| 2 + (from * 7 + i * 5) % 38).collect::<Vec<u32>>();
    let sample = |i: u32| TrainSample {
        prompt: text(i / 2, 9),
        tokens: text(i + 3, 5 + 3 * i),
        logprobs: vec![-3.0; 5 + 3 * i as usize],
        plan_tokens: 2,
        plan_advantage: 0.5,
        code_advantage: if i % 2 == 0 { 1.0 } else { -0.7 },
        plan_weight: 0.05,
        code_weight: 0.05,
    };
    (0..COUNT as u32).map(sample).collect()
}

fn learner(family: Family, compute: GpuCompute, lora: bool) -> Learner<Gpu> {
    let network: Transformer<Gpu> = config(family).init(7, &Default::default());
    let optim = OptimConfig { lr: 1e-2, ..OptimConfig::default() };
    let learner = Learner::new(network, optim).with_execution(Execution::Device, 1).with_gpu(compute);
    if !lora {
        return learner;
    }
    let config = LoraConfig { rank: 8, alpha: 12.0, targets: Target::ALL.to_vec(), rslora: false };
    let mut learner = learner.with_lora(&config, 5).unwrap();
    let loss = LossConfig { clip_low: 0.99, clip_high: 50.0, ..LossConfig::default() };
    for _ in 0..3 {
        // So that no adapter's B is zero.
        assert!(learner.train_step(&samples(), &loss).unwrap().applied);
    }
    learner
}

fn values(executor: &Executor, spans: &[Span]) -> Vec<Vec<f32>> {
    spans.iter().map(|s| executor.runtime().download(*s, s.bytes / 4).unwrap()).collect()
}

/// The first's gradients and scores, and those of a second executor that has only what the first shares.
fn both(device: &mut OnDevice, trained: &Trained<'_, Gpu>) -> [(Vec<Vec<f32>>, Vec<Scored>); 2] {
    let samples = samples();
    let items: Vec<Item> =
        samples.iter().map(|s| Item { prompt: &s.prompt, tokens: &s.tokens, backward: true }).collect();
    let term = |item: usize, token: usize, _: f64| Term {
        d_logprob: 0.1 * (1.0 + item as f64) * if token % 2 == 0 { 1.0 } else { -0.5 },
        ..Term::default()
    };
    let mut params = GradientsParams::new();
    let held = Held::new(trained, true, &mut params).unwrap();
    crate::learner::device::wait_for_burn::<Gpu>(&trained.network().embed.val().device()).unwrap();
    let batches = device.batches(&items, 4, 1).unwrap();
    let first = &mut device.executor;
    held.prepare(first).unwrap();
    let scored = passes(first, &items, &batches, 0.9, Some(&term), held.sink()).unwrap();
    let ours = (values(first, &held.gradients()), scored);

    let network = trained.network();
    let qk_norm = network.layers[0].attention.q_norm.is_some();
    let mut other = Executor::new(Runtime::new(0).unwrap(), Dims::of(network), qk_norm, first.options()).unwrap();
    let mut own = Own::default();
    let place = own.place(&other, held.masters(), held.adapters()).unwrap();
    let mut to = place.shared.iter();
    let mut send = |rt: &Runtime, span: Span, element: Element| {
        let (place, expected) = to.next().unwrap();
        assert_eq!((place.bytes, expected.bytes()), (span.bytes, element.bytes()));
        rt.copy(span, *place)
    };
    first.reserve_fresh().unwrap();
    first.each_weight(&mut send).unwrap();
    for part in held.adapters().into_iter().flat_map(AdaptersAt::parts) {
        [part.a, part.b].into_iter().for_each(|span| send(first.runtime(), span, F32).unwrap());
    }
    assert!(to.next().is_none(), "not all of it was shared");
    first.runtime().synchronize().unwrap();
    other.take(place.weights, place.adapters).unwrap();
    let sink = place.grads.as_ref().map_or(Sink::Adapters, Sink::All);
    let scored = passes(&mut other, &items, &batches, 0.9, Some(&term), Some(sink)).unwrap();
    [ours, (values(&other, &place.gradients), scored)]
}

/// Planted bugs: what is shared are the base's weights without the adapters, or the adapters' scale is forgotten; gradients come back in
/// another order.
#[test]
fn another_gpu_makes_the_first_ones_gradients_of_what_is_shared() {
    if let Err(reason) = Runtime::new(0) {
        println!("skipped: {reason}");
        return;
    }
    for (element, copies, recompute) in [
        (GpuType::Fp32, Copies::Auto, false),
        (GpuType::Bf16, Copies::Kept, true),
        (GpuType::Bf16, Copies::Fresh, false),
    ] {
        for (family, lora) in [(Family::Qwen3, true), (Family::Llama, true), (Family::Llama, false)] {
            let compute = GpuCompute { element, copies, recompute, ..GpuCompute::default() };
            let mut learner = learner(family, compute, lora);
            learner.prepare().unwrap();
            let (device, trained) = learner.on_device().unwrap().unwrap();
            let [ours, theirs] = both(device, &trained);
            let what = format!("{family:?} {element:?} {copies:?} adapters: {lora}");
            assert_eq!(ours.0.len(), theirs.0.len(), "{what}");
            assert!(ours.0.iter().all(|g| g.iter().any(|x| *x != 0.0)), "{what}: a gradient of nothing");
            assert!(ours.0 == theirs.0, "{what}: other gradients");
            assert!(ours.1 == theirs.1, "{what}: other scores");
            println!("{what}: {} gradients are the same to the bit", ours.0.len());
        }
    }
}
