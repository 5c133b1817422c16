//! Tokens per second of the network as burn runs it, in the shape of the embedded policy: a training step and cached decoding.
//!
//!     cargo run --release -p model --example network_speed
//!
//! The CPU executor (`host`) is what the engine and the learner use on a CPU; this measures what it replaces.

use std::time::Instant;

use burn::module::AutodiffModule;
use burn::optim::{AdamWConfig, GradientsParams, Optimizer};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use model::config::TinyShape;
use model::{Cpu, CpuInner, KvCache, ModelConfig};

const BATCH: usize = 16;
const SEQ: usize = 160;
const ROWS: usize = 96;

fn main() {
    let device = Default::default();
    let shape = TinyShape { hidden: 192, layers: 4, heads: 6, kv_heads: 2, ff: 512, vocab: 1024 };
    let config = ModelConfig::tiny_default(shape, 512, vec![1]);
    println!("{} parameters", config.num_parameters());
    let mut network = config.init::<Cpu>(1, &device);
    let ids = |n: usize| (0..n).map(|i| (i * 7919 % 1024) as i64).collect::<Vec<_>>();
    let mut optimizer = AdamWConfig::new().init::<Cpu, model::Transformer<Cpu>>();
    for _ in 0..3 {
        let start = Instant::now();
        let tokens = Tensor::<Cpu, 2, Int>::from_data(TensorData::new(ids(BATCH * SEQ), [BATCH, SEQ]), &device);
        let positions = Tensor::<Cpu, 1, Int>::arange(0..SEQ as i64, &device).reshape([1, SEQ]).repeat_dim(0, BATCH);
        let logits = network.logits(network.forward(tokens.clone(), positions, None));
        let loss = log_softmax(logits, 2).gather(2, tokens.reshape([BATCH, SEQ, 1])).mean().neg();
        let forward = start.elapsed();
        let gradients = GradientsParams::from_grads(loss.backward(), &network);
        let backward = start.elapsed() - forward;
        network = optimizer.step(1e-3, network, gradients);
        let total = start.elapsed();
        println!(
            "training step of {BATCH}x{SEQ}: {:.0} tokens/s (forward {forward:.2?}, backward {backward:.2?}, AdamW {:.2?})",
            (BATCH * SEQ) as f64 / total.as_secs_f64(),
            total - forward - backward
        );
    }
    let network = network.valid();
    let mut cache = KvCache::<CpuInner>::new(&config, &device);
    let rows = cache.add_rows(ROWS);
    let prompt = Tensor::<CpuInner, 2, Int>::from_data(TensorData::new(ids(ROWS * 50), [ROWS, 50]), &device);
    let start = Instant::now();
    network.forward_cached(prompt, &mut cache, rows.clone(), &[50; ROWS]);
    println!("prefill of {ROWS}x50: {:.0} tokens/s", (ROWS * 50) as f64 / start.elapsed().as_secs_f64());
    let start = Instant::now();
    let mut checksum = 0.0;
    for _ in 0..100 {
        let tokens = Tensor::<CpuInner, 2, Int>::from_data(TensorData::new(ids(ROWS), [ROWS, 1]), &device);
        let hidden = network.forward_cached(tokens, &mut cache, rows.clone(), &[1; ROWS]);
        checksum += network.logits(hidden).into_data().iter::<f32>().next().unwrap_or_default();
    }
    println!(
        "decode at batch {ROWS}, lengths 50 to 150: {:.0} tokens/s ({checksum:.3})",
        (ROWS * 100) as f64 / start.elapsed().as_secs_f64()
    );
}
