//! Generation on a GPU against generation on the CPU, and what of it can be repeated to the bit. Without a GPU, a driver or a
//! library every test says so and passes.
//!
//!     cargo test --release -p model --features cuda --test device_engine -- --nocapture
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used)]

mod policy;

use burn::backend::Flex;
use burn::module::AutodiffModule;
use burn::tensor::backend::Backend;
use model::config::{Family, ModelConfig, TinyShape};
use model::device::runtime;
use model::engine::{Engine, EngineConfig, EngineError, Finished, GpuConfig, Request};
use model::sampling::Sampling;
use model::{Cpu, GpuInner, Transformer};
use policy::{FAMILIES, full_log_probs, network, shaken, tokens};
use rollout::completion::Finish;
use rollout::id::PolicyVersion;

const FP32: GpuConfig = GpuConfig { ordinal: 0, single_precision: true, cache_bytes: 0, wait_s: 0 };
const BF16: GpuConfig = GpuConfig { ordinal: 0, single_precision: false, cache_bytes: 0, wait_s: 0 };
/// Natural log, of one token: fp32 against fp32 in other orders of sums.
const TOLERANCE: f32 = 2e-4;
/// The same, bf16 factors against fp32 ones.
const BF16_TOLERANCE: f64 = 0.03;

fn no_gpu() -> bool {
    let missing = runtime::missing();
    if let Some(reason) = &missing {
        println!("skipped: {reason}");
    }
    missing.is_some()
}

fn config(max_batch: usize, max_seq_len: usize) -> EngineConfig {
    EngineConfig { max_batch, max_seq_len, threads: 2 }
}

fn gpu(network: &Transformer<Flex>, config: EngineConfig, how: &GpuConfig) -> Engine<Flex> {
    Engine::on_gpu(network, config, how).unwrap()
}

fn request(id: u64, prompt: Vec<u32>, sampling: Sampling) -> Request {
    Request { id, prompt, seed: 1000 + id, sampling, max_new_tokens: 30, eos: vec![] }
}

fn drain<B: Backend>(engine: &mut Engine<B>) -> Vec<Finished> {
    let mut done = Vec::new();
    while !engine.is_idle() {
        done.extend(engine.step().unwrap());
    }
    done.sort_by_key(|f| f.id);
    done
}

/// The same tokens, spans and ends, and log-probs within `TOLERANCE`; returns the largest difference.
fn same(what: &str, found: &[Finished], expected: &[Finished]) -> f32 {
    assert_eq!(found.len(), expected.len(), "{what}");
    let mut worst = 0.0f32;
    for (f, e) in found.iter().zip(expected) {
        assert_eq!((f.id, &f.tokens, f.finish, &f.spans), (e.id, &e.tokens, e.finish, &e.spans), "{what}");
        for (i, (a, b)) in f.logprobs.iter().zip(&e.logprobs).enumerate() {
            let gap = (a - b).abs();
            assert!(gap < TOLERANCE, "{what}: request {}, token {i}: log-prob {a}, on the CPU {b}", f.id);
            worst = worst.max(gap);
        }
    }
    worst
}

/// All requests at once on both.
fn compare(what: &str, network: &Transformer<Flex>, config: &EngineConfig, requests: &[Request]) {
    let mut cpu = Engine::new(network, config.clone());
    let mut device = gpu(network, config.clone(), &FP32);
    for request in requests {
        cpu.admit(request.clone()).unwrap();
        device.admit(request.clone()).unwrap();
    }
    let worst = same(what, &drain(&mut device), &drain(&mut cpu));
    println!("{what}: {} answers, log-probs at most {worst:.1e} off", requests.len());
}

#[test]
fn single_precision_draws_the_cpus_tokens_for_every_family() {
    if no_gpu() {
        return;
    }
    for family in FAMILIES {
        let network = network(family, 3).valid();
        let mut requests = vec![request(0, tokens(1, 1), Sampling::GREEDY), request(1, tokens(2, 2), Sampling::GREEDY)];
        for id in 2..20 {
            let sampling =
                if id % 2 == 0 { Sampling::GREEDY } else { Sampling { temperature: 0.8, ..Sampling::default() } };
            // Around the ends of blocks of 16, and some prompts more than once.
            requests.push(request(id, tokens(id / 2, 14 + id as usize / 2), sampling));
        }
        compare(&format!("{family:?}"), &network, &config(8, 200), &requests);
    }
}

/// Weights that burn holds on the GPU: copied there, or through the host where burn pads their rows, at the start and in between.
#[test]
fn weights_on_the_gpu_are_read_as_they_are_padded_or_not() {
    if no_gpu() {
        return;
    }
    for hidden in [24, 144, 576, 512] {
        let shape =
            TinyShape { hidden, layers: 2, heads: 6, kv_heads: 2, ff: 3 * hidden / 2 + 8, vocab: policy::VOCAB };
        let mut shape = ModelConfig::tiny_default(shape, 256, vec![1]);
        shape.head_dim = 16;
        let network =
            |seed| -> (Transformer<Flex>, Transformer<GpuInner>) { (shaken(&shape, seed), shaken(&shape, seed)) };
        let ((first, first_there), (second, second_there)) = (network(5), network(6));
        let padded = <GpuInner as model::kernels::Kernels>::memory(
            &first_there.layers[0].mlp.down.weight.val().into_primitive().tensor(),
        );
        println!("hidden {hidden}: dense {:?}", padded.map(|m| m.dense()));
        let mut cpu = Engine::new(&first, config(4, 64));
        let mut device = Engine::on_gpu(&first_there, config(4, 64), &FP32).unwrap();
        for round in 0..2 {
            if round == 1 {
                cpu.adopt(&second, PolicyVersion(1)).unwrap();
                device.adopt(&second_there, PolicyVersion(1)).unwrap();
            }
            for id in 0..4 {
                let request = Request { max_new_tokens: 12, ..request(id, tokens(id, 5), Sampling::GREEDY) };
                cpu.admit(request.clone()).unwrap();
                device.admit(request).unwrap();
            }
            same(&format!("hidden {hidden}, round {round}"), &drain(&mut device), &drain(&mut cpu));
        }
    }
}

#[test]
fn single_precision_draws_the_cpus_tokens_for_every_fixture_of_transformers() {
    if no_gpu() {
        return;
    }
    for (name, network, expected) in policy::fixtures() {
        let row = |r: &serde_json::Value| r.as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect();
        let rows: Vec<Vec<u32>> = expected["tokens"].as_array().unwrap().iter().map(row).collect();
        let requests: Vec<Request> = rows
            .iter()
            .enumerate()
            .map(|(id, row)| Request { max_new_tokens: 12, ..request(id as u64, row[..5].to_vec(), Sampling::GREEDY) })
            .collect();
        compare(&name, &network.valid(), &config(4, 64), &requests);
    }
}

/// Texts over several splits of the context, chunks of prompts and tiles; a vocabulary over many warps; every filter.
#[test]
fn single_precision_draws_the_cpus_tokens_in_long_texts_under_every_filter() {
    if no_gpu() {
        return;
    }
    let shape = TinyShape { hidden: 64, layers: 2, heads: 8, kv_heads: 2, ff: 96, vocab: 4_099 };
    let network: Transformer<Cpu> = ModelConfig::tiny_default(shape, 2_000, vec![]).init(11, &Default::default());
    let mut network = network.valid();
    // Sharper than a fresh network's nearly uniform rows.
    network.norm.weight = network.norm.weight.map(|w| w * 12.0);
    let filters = [
        Sampling::GREEDY,
        Sampling::default(),
        Sampling { temperature: 0.7, ..Sampling::default() },
        Sampling { top_k: 1, ..Sampling::default() },
        Sampling { top_k: 50, ..Sampling::default() },
        Sampling { top_p: 0.9, ..Sampling::default() },
        Sampling { top_p: 0.0, ..Sampling::default() },
        Sampling { min_p: 0.05, ..Sampling::default() },
        Sampling { temperature: 1.3, top_k: 300, top_p: 0.8, min_p: 0.02 },
    ];
    let requests: Vec<Request> = filters
        .iter()
        .enumerate()
        .map(|(id, how)| {
            let prompt = (0..[250, 700, 1_500][id % 3]).map(|i| (i * 37 + id as u32 / 3 * 11) % 4_099).collect();
            request(id as u64, prompt, *how)
        })
        .collect();
    compare("long texts", &network, &config(4, 1_600), &requests);
}

/// Teacher-forced on the CPU in fp32: the recorded log-probs of what bf16 sampled. The last network's prompts go through tensor
/// cores, over several tiles and chunks.
#[test]
fn bf16_log_probs_are_near_those_of_a_full_forward_pass_in_single_precision() {
    if no_gpu() {
        return;
    }
    let shape = TinyShape { hidden: 48, layers: 2, heads: 4, kv_heads: 2, ff: 64, vocab: policy::VOCAB };
    let wide = ModelConfig { head_dim: 24, ..ModelConfig::tiny_default(shape, 600, vec![]) };
    let mut cases: Vec<(String, Transformer<Cpu>, usize)> =
        FAMILIES.iter().map(|f| (format!("{f:?}"), network(*f, 4), 4)).collect();
    cases.push(("tensor cores".into(), policy::shaken::<Cpu>(&wide, 4), 63));
    for (name, network, longer) in cases {
        let mut engine = gpu(&network.valid(), config(8, 600), &BF16);
        let prompts: Vec<Vec<u32>> = (0..8).map(|id| tokens(id, 5 + longer * id as usize)).collect();
        for (id, prompt) in prompts.iter().enumerate() {
            engine.admit(request(id as u64, prompt.clone(), Sampling::default())).unwrap();
        }
        let (mut worst, mut sum, mut count) = (0.0f64, 0.0, 0.0);
        for (answer, prompt) in drain(&mut engine).iter().zip(&prompts) {
            let all: Vec<u32> = prompt.iter().chain(&answer.tokens).copied().collect();
            let rows = full_log_probs(&network, &all, 1.0);
            for (i, (token, found)) in answer.tokens.iter().zip(&answer.logprobs).enumerate() {
                let gap = (f64::from(*found) - rows[prompt.len() - 1 + i][*token as usize]).abs();
                worst = worst.max(gap);
                sum += gap;
                count += 1.0;
            }
        }
        println!("{name} in bf16: log-probs {:.4} off on average, at most {worst:.4}", sum / count);
        assert!(worst < BF16_TOLERANCE, "{name}: {worst}");
    }
}

/// To the bit, in bf16, where products could choose otherwise for other sizes.
#[test]
fn samples_do_not_depend_on_neighbours_rows_or_late_admission() {
    if no_gpu() {
        return;
    }
    let network = network(Family::Qwen3, 5).valid();
    let sampling = Sampling { temperature: 1.0, top_k: 20, top_p: 0.95, min_p: 0.01 };
    let ours = request(7, tokens(9, 23), sampling);
    let config = config(20, 200);
    let mut alone = gpu(&network, config.clone(), &BF16);
    alone.admit(ours.clone()).unwrap();
    let expected = drain(&mut alone);

    let mut crowd = gpu(&network, config.clone(), &BF16);
    for id in 20..33 {
        let prompt = if id == 25 { ours.prompt.clone() } else { tokens(id, 3 + id as usize) };
        crowd.admit(request(id, prompt, sampling)).unwrap();
    }
    crowd.admit(ours.clone()).unwrap();
    let found: Vec<_> = drain(&mut crowd).into_iter().filter(|f| f.id == 7).collect();
    assert_eq!(found, expected);

    let mut late = gpu(&network, config, &BF16);
    for id in 40..61 {
        late.admit(request(id, tokens(id, 12), sampling)).unwrap();
    }
    for _ in 0..5 {
        assert!(late.step().unwrap().is_empty());
    }
    late.admit(ours.clone()).unwrap();
    assert_eq!((late.active(), late.waiting()), (20, 2));
    let found: Vec<_> = drain(&mut late).into_iter().filter(|f| f.id == 7).collect();
    assert_eq!(found, expected);

    // Another seed gives another answer: the comparison above can fail.
    alone.admit(Request { seed: 1, ..ours }).unwrap();
    assert_ne!(drain(&mut alone)[0].tokens, expected[0].tokens);
}

#[test]
fn adopting_between_tokens_and_cancelling_do_as_on_the_cpu() {
    if no_gpu() {
        return;
    }
    let (old, new) = (network(Family::Qwen3, 7).valid(), network(Family::Qwen3, 8).valid());
    let prompt = tokens(5, 20);
    let play = |mut engine: Engine<Flex>| {
        engine.adopt(&old, PolicyVersion(3)).unwrap();
        for id in 0..3 {
            engine.admit(request(id, prompt.clone(), Sampling::default())).unwrap();
        }
        for _ in 0..10 {
            engine.step().unwrap();
        }
        assert!(engine.cancel(1) && !engine.cancel(1));
        engine.adopt(&new, PolicyVersion(4)).unwrap();
        // The same prompt after the change: its cache is made anew.
        engine.admit(request(5, prompt.clone(), Sampling::default())).unwrap();
        (drain(&mut engine), engine)
    };
    let (expected, _) = play(Engine::new(&old, config(4, 200)));
    let (found, engine) = play(gpu(&old, config(4, 200), &FP32));
    same("adoption", &found, &expected);
    let starts: Vec<(u32, u64)> = found[0].spans.iter().map(|s| (s.start, s.policy.0)).collect();
    assert_eq!(starts, [(0, 3), (10, 4)]);
    let blocks = engine.gpu().unwrap().blocks();
    assert_eq!(blocks.0, blocks.1, "all blocks are free again");
}

/// Room for about two of the requests: the others wait, nothing is stuck, and the answers are those of a large cache.
#[test]
fn a_small_cache_makes_requests_wait_and_changes_no_answer() {
    if no_gpu() {
        return;
    }
    let network = network(Family::Llama, 6).valid();
    let requests: Vec<Request> =
        (0..9).map(|id| Request { eos: vec![7], ..request(id, tokens(id / 2, 40), Sampling::default()) }).collect();
    let mut large = gpu(&network, config(8, 200), &FP32);
    let bytes = large.gpu().unwrap().position_bytes();
    let mut small = gpu(&network, config(8, 200), &GpuConfig { cache_bytes: bytes * 16 * 12, ..FP32 });
    assert_eq!(small.gpu().unwrap().blocks(), (12, 12));
    for request in &requests {
        large.admit(request.clone()).unwrap();
        small.admit(request.clone()).unwrap();
    }
    small.step().unwrap();
    assert!(small.active() < 8 && small.active() > 0, "{} active", small.active());
    let expected = drain(&mut large);
    assert!(expected.iter().any(|f| f.finish == Finish::Stop) && expected.iter().any(|f| f.finish == Finish::Length));
    let mut found = drain(&mut small);
    found.sort_by_key(|f| f.id);
    same("a small cache", &found, &expected);
    assert_eq!(small.gpu().unwrap().blocks(), (12, 12));
    let long = Request { max_new_tokens: 160, ..request(99, tokens(1, 40), Sampling::default()) };
    assert_eq!(small.admit(long), Err(EngineError::TooLarge { id: 99, blocks: 14, limit: 12 }));
}
