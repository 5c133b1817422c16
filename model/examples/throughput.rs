//! How fast the embedded policy learns and decodes on this machine: tokens per second of SFT, of a training step, of decoding.
//!
//! `cargo run --release -p model --example throughput -- [threads] [batch] [rank]`; with a rank the learner trains
//! adapters of it on every matrix.

use std::time::Instant;

use burn::backend::Flex;
use model::config::{ModelConfig, TinyShape};
use model::engine::{Engine, EngineConfig, Request};
use model::learner::{Execution, Learner, SftSample, TrainSample};
use model::lora::{LoraConfig, Target};
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
    if let Some(rank) = args.next().filter(|rank| *rank > 0) {
        let adapters = LoraConfig { rank, alpha: 2.0 * rank as f64, targets: Target::ALL.to_vec(), rslora: false };
        learner = learner.with_lora(&adapters, 1)?;
        println!(
            "{} more in adapters of rank {rank}: only they are trained",
            learner.lora().map_or(0, |l| l.num_parameters())
        );
    }
    sft(&mut learner)?;
    train(&mut learner, batch)?;
    decode(&learner.inference(), threads, batch)?;
    Ok(())
}

/// Wall and processor seconds since a start; the second is what the work costs on a machine that is busy with other things.
struct Clock(Instant, f64);

impl Clock {
    fn start() -> Self {
        Self(Instant::now(), cpu_seconds())
    }

    fn rates(&self, tokens: f64) -> String {
        let (wall, cpu) = (self.0.elapsed().as_secs_f64(), cpu_seconds() - self.1);
        format!(
            "{:.0} tokens/s ({:.0} per processor second; {wall:.2} s, {cpu:.2} processor s)",
            tokens / wall,
            tokens / cpu.max(1e-3)
        )
    }
}

/// User and system time of this process, all threads, from `/proc` (0 where there is none), at 100 ticks a second.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|x| x.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// `n` tokens that look random.
fn tokens(seed: usize, n: usize) -> Vec<u32> {
    (0..n).map(|i| 2 + ((seed * 7919 + i * i * 31 + i * 17) % 1000) as u32).collect()
}

fn sft(learner: &mut Learner<Cpu>) -> Result<(), Box<dyn std::error::Error>> {
    let samples: Vec<SftSample> =
        (0..16).map(|i| SftSample { prompt: tokens(i, PROMPT), tokens: tokens(i + 100, ANSWER) }).collect();
    learner.sft_step(&samples, 16)?;
    let (steps, clock) = (4, Clock::start());
    for _ in 0..steps {
        learner.sft_step(&samples, 16)?;
    }
    let rows = (steps * samples.len() * (PROMPT + ANSWER)) as f64;
    println!("sft, 16 examples of {PROMPT} + {ANSWER} tokens, both counted: {}", clock.rates(rows));
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
    let clock = Clock::start();
    let report = learner.train_step(&samples, &LossConfig::default())?;
    let all = (batch * (PROMPT + ANSWER)) as f64;
    println!(
        "train step, {batch} answers of {ANSWER} tokens in groups of {GROUP}, prompts of {PROMPT} counted per answer: {} (loss {:.4})",
        clock.rates(all),
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
    engine.step()?;
    let prefill = started.elapsed().as_secs_f64();
    let clock = Clock::start();
    let mut done = 0;
    while !engine.is_idle() {
        done += engine.step()?.iter().map(|f| f.tokens.len() - 1).sum::<usize>();
    }
    let rates = clock.rates(done as f64);
    let prompts = batch.div_ceil(GROUP);
    println!("prefill: {prompts} prompts of {PROMPT} tokens in {prefill:.3} s");
    println!("decode at batch {batch}: {rates}");
    Ok(())
}
