//! What the generator says of its own tokens beside what the learner says of them, both on the GPU with the same weights: the
//! difference that importance ratios begin with. The two round in different places.

use burn::backend::Flex;
use model::config::Family;
use model::engine::{Engine, EngineConfig, GpuConfig, Request};
use model::learner::SftSample;
use model::sampling::Sampling;

use super::policy::{shaken, tokens};
use super::{EXACT, FAST, device, gpu, large};

/// Of one token, and of all on average, natural log. bf16's are what docs/learner-gpu.md promises.
const SINGLE: (f64, f64) = (2e-4, 2e-5);
const HALF: (f64, f64) = (0.1, 0.01);

#[test]
fn the_learner_finds_the_generators_log_probs() {
    if gpu().is_none() {
        return;
    }
    for (family, head_dim) in [(Family::Qwen3, 128), (Family::Qwen2, 64), (Family::Llama, 64)] {
        let config = large(family, head_dim);
        for (single_precision, compute, (most, average)) in [(true, EXACT, SINGLE), (false, FAST, HALF)] {
            let how = GpuConfig { ordinal: 0, single_precision, cache_bytes: 0, wait_s: 0 };
            let engine = EngineConfig { max_batch: 16, max_seq_len: 256, threads: 2 };
            let mut engine = Engine::<Flex>::on_gpu(&shaken(&config, 21), engine, &how).unwrap();
            let prompts: Vec<Vec<u32>> = (0..16).map(|id| tokens(40 + id / 8, 60)).collect();
            for (id, prompt) in prompts.iter().enumerate() {
                let (prompt, sampling) = (prompt.clone(), Sampling::default());
                let (id, seed) = (id as u64, 7 + id as u64);
                engine.admit(Request { id, prompt, seed, sampling, max_new_tokens: 120, eos: vec![] }).unwrap();
            }
            let mut done = Vec::new();
            while !engine.is_idle() {
                done.extend(engine.step().unwrap());
            }
            let sample = |f: &model::engine::Finished| SftSample {
                prompt: prompts[f.id as usize].clone(),
                tokens: f.tokens.clone(),
            };
            let samples: Vec<SftSample> = done.iter().map(sample).collect();
            let gaps = |seed| -> Vec<f64> {
                let scored = device(shaken(&config, seed), compute).score(&samples, 1.0).unwrap();
                let pairs = scored.iter().zip(&done).flat_map(|(s, f)| s.iter().zip(&f.logprobs));
                pairs.map(|(learner, sampler)| f64::from(learner - sampler)).collect()
            };
            let found = gaps(21);
            assert_eq!(found.len(), 16 * 120);
            let count = found.len() as f64;
            let worst = found.iter().fold(0.0f64, |worst, gap| worst.max(gap.abs()));
            let mean = found.iter().map(|gap| gap.abs()).sum::<f64>() / count;
            let kl = found.iter().map(|gap| gap.exp() - 1.0 - gap).sum::<f64>() / count;
            println!(
                "{family:?}, single precision {single_precision}: at most {worst:.1e}, on average {mean:.1e}, k3 {kl:.1e}"
            );
            assert!(worst < most && mean < average, "{family:?}, {single_precision}: {worst}, {mean}");
            // The comparison can fail: another network.
            assert!(gaps(22).iter().map(|gap| gap.abs()).sum::<f64>() / count > 10.0 * average);
        }
    }
}
