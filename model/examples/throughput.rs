//! How fast the embedded policy learns and decodes on this machine: tokens per second of SFT, of a training step, of decoding.
//!
//! `cargo run --release -p model --example throughput -- [threads] [batch]`; the numbers in `docs/benchmarks` come from it.

use std::time::Instant;

use burn::backend::Flex;
use model::config::{ModelConfig, TinyShape};
use model::engine::{Engine, EngineConfig, Request};
use model::learner::{Execution, Learner, SftSample, TrainSample};
use model::loss::LossConfig;
use model::optim::OptimConfig;
use model::sampling::Sampling;
use model::{Cpu, Transformer};

const PROMPT: usize = 160;
const ANSWER: usize = 192;
const GROUP: usize = 8;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1).filter_map(|a| a.parse::<usize>().ok());
    let threads = args.next().unwrap_or(2);
    let batch = args.next().unwrap_or(96);
    let shape = TinyShape { hidden: 192, layers: 4, heads: 6, kv_heads: 2, ff: 512, vocab: 1024 };
    let config = ModelConfig::tiny_default(shape, 2048, vec![1]);
    let network: Transformer<Cpu> = config.init(1, &Default::default());
    println!("{} parameters, {threads} threads, batch {batch}", config.num_parameters());
    let mut learner = Learner::new(network, OptimConfig::default()).with_execution(Execution::Auto, threads);
    sft(&mut learner)?;
    train(&mut learner, batch)?;
    decode(&learner.inference(), threads, batch)?;
    Ok(())
}

/// `n` tokens that look random.
fn tokens(seed: usize, n: usize) -> Vec<u32> {
    (0..n).map(|i| 2 + ((seed * 7919 + i * i * 31 + i * 17) % 1000) as u32).collect()
}

fn sft(learner: &mut Learner<Cpu>) -> Result<(), Box<dyn std::error::Error>> {
    let samples: Vec<SftSample> =
        (0..16).map(|i| SftSample { prompt: tokens(i, PROMPT), tokens: tokens(i + 100, ANSWER) }).collect();
    learner.sft_step(&samples, 16)?;
    let (steps, started) = (4, Instant::now());
    for _ in 0..steps {
        learner.sft_step(&samples, 16)?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let rows = (steps * samples.len() * (PROMPT + ANSWER)) as f64;
    println!("sft: {:.0} tokens/s (prompt and answer; 16 examples, {PROMPT} + {ANSWER} tokens)", rows / seconds);
    Ok(())
}

fn train(learner: &mut Learner<Cpu>, batch: usize) -> Result<(), Box<dyn std::error::Error>> {
    let samples: Vec<TrainSample> = (0..batch)
        .map(|i| TrainSample {
            prompt: tokens(i / GROUP, PROMPT),
            tokens: tokens(i + 1000, ANSWER),
            logprobs: vec![-6.9; ANSWER],
            plan_tokens: 60,
            plan_advantage: if i % 2 == 0 { 0.5 } else { -0.5 },
            code_advantage: if i % 3 == 0 { 1.0 } else { -0.5 },
            plan_weight: 1e-4,
            code_weight: 1e-3,
        })
        .collect();
    let started = Instant::now();
    let report = learner.train_step(&samples, &LossConfig::default())?;
    let seconds = started.elapsed().as_secs_f64();
    let answer = (batch * ANSWER) as f64;
    let all = (batch * (PROMPT + ANSWER)) as f64;
    println!(
        "train step: {seconds:.2} s for {batch} answers in groups of {GROUP}: {:.0} answer tokens/s, {:.0} tokens/s with each answer's prompt counted (loss {:.4})",
        answer / seconds,
        all / seconds,
        report.loss
    );
    Ok(())
}

fn decode(network: &Transformer<Flex>, threads: usize, batch: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut engine: Engine<Flex> = Engine::new(network, EngineConfig { max_batch: batch, max_seq_len: 1024, threads });
    for i in 0..batch {
        engine.admit(Request {
            id: i as u64,
            prompt: tokens(i / GROUP, PROMPT),
            seed: i as u64,
            sampling: Sampling::default(),
            max_new_tokens: ANSWER,
            eos: vec![],
        })?;
    }
    let started = Instant::now();
    engine.step();
    let prefill = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let mut done = 0;
    while !engine.is_idle() {
        done += engine.step().iter().map(|f| f.tokens.len() - 1).sum::<usize>();
    }
    let seconds = started.elapsed().as_secs_f64();
    let prompts = batch.div_ceil(GROUP);
    println!("prefill: {prompts} prompts of {PROMPT} tokens in {prefill:.3} s");
    println!("decode: {:.0} tokens/s at batch {batch} ({done} tokens in {seconds:.2} s)", done as f64 / seconds);
    Ok(())
}
