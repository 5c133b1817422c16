//! LoRA: adapters against PEFT and against burn's autodiff, what they change and what they leave, checkpoints and folders.
#![allow(clippy::unwrap_used)]

mod factored;
mod peft;
#[path = "../policy/mod.rs"]
mod policy;
mod training;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use model::learner::{Execution, Learner, SftSample, TrainSample};
use model::lora::{LoraConfig, Target};
use model::optim::OptimConfig;
use model::{Cpu, Transformer};

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub fn lora(rank: usize, targets: &[Target]) -> LoraConfig {
    LoraConfig { rank, alpha: 2.0 * rank as f64, targets: targets.to_vec(), rslora: false }
}

/// Without momentum, weight decay or clipping: AdamW's first moment after one step is the gradient itself.
pub fn plain() -> OptimConfig {
    OptimConfig { lr: 1e-3, beta1: 0.0, grad_clip: 0.0, ..OptimConfig::default() }
}

pub fn learner(network: Transformer<Cpu>, execution: Execution) -> Learner<Cpu> {
    Learner::new(network, plain()).with_execution(execution, 2)
}

/// The tensors of a checkpoint of `learner` by name.
pub fn saved(learner: &Learner<Cpu>) -> BTreeMap<String, Vec<f32>> {
    let dir = tempfile::tempdir().unwrap();
    learner.save_checkpoint(&dir.path().join("c")).unwrap();
    tensors(&dir.path().join("c/state.safetensors"))
}

pub fn tensors(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = |data: &[u8]| data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    file.tensors().into_iter().map(|(name, view)| (name, values(view.data()))).collect()
}

/// The gradients of one step of `samples`, by the adapters' names (`layers.0.q_proj.lora_a`).
pub fn gradients(mut learner: Learner<Cpu>, samples: &[SftSample]) -> BTreeMap<String, Vec<f32>> {
    assert!(learner.sft_step(samples, 2).unwrap().applied);
    let moments = saved(&learner);
    moments.into_iter().filter_map(|(name, g)| Some((name.strip_prefix("adam_m/")?.to_string(), g))).collect()
}

/// The largest difference over the largest element.
pub fn distance(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let size = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    assert!(size > 0.0, "there is nothing to compare with");
    found.iter().zip(expected).fold(0.0f32, |m, (x, y)| m.max((x - y).abs())) / size
}

pub fn norm<'a>(tensors: impl IntoIterator<Item = &'a Vec<f32>>) -> f64 {
    tensors.into_iter().flatten().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt()
}

/// Texts to imitate, of one length.
pub fn examples() -> Vec<SftSample> {
    (0..4).map(|i| SftSample { prompt: policy::tokens(i, 6), tokens: policy::tokens(50 + i, 12) }).collect()
}

/// Scored answers, sampled by something near the base.
pub fn answers(base: &Transformer<Cpu>) -> Vec<TrainSample> {
    let texts: Vec<SftSample> = (0..6u64)
        .map(|i| SftSample {
            prompt: policy::tokens(100 + i / 3, 9),
            tokens: policy::tokens(200 + i, 4 + 2 * i as usize),
        })
        .collect();
    let scores = learner(base.clone(), Execution::Host).score(&texts, 1.0).unwrap();
    let answer = |(i, (text, scores)): (usize, (SftSample, Vec<f32>))| TrainSample {
        logprobs: scores.iter().enumerate().map(|(t, l)| l + 0.02 * ((i + 2 * t) as f32).sin()).collect(),
        plan_tokens: text.tokens.len() as u32 / 2,
        prompt: text.prompt,
        tokens: text.tokens,
        plan_advantage: 0.4 - 0.2 * i as f32,
        code_advantage: if i % 2 == 0 { 1.0 } else { -0.7 },
        plan_weight: 0.01,
        code_weight: 0.05,
    };
    texts.into_iter().zip(scores).enumerate().map(answer).collect()
}
