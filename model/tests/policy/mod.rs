//! Small networks of every family with weights large enough that nothing is uniform, and made-up tokens.
#![allow(dead_code, clippy::unwrap_used)]

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData, backend::Backend};
use model::config::{Family, ModelConfig, TinyShape};
use model::{Cpu, Transformer};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub const VOCAB: usize = 40;

pub fn config(family: Family) -> ModelConfig {
    let shape = TinyShape { hidden: 24, layers: 2, heads: 6, kv_heads: 2, ff: 40, vocab: VOCAB };
    let mut config = ModelConfig::tiny_default(shape, 256, vec![1]);
    config.family = family;
    config.tie_word_embeddings = family != Family::Llama;
    config.mlp_bias = family == Family::Llama;
    config.head_dim = if family == Family::Qwen3 { 10 } else { 4 };
    config
}

pub const FAMILIES: [Family; 3] = [Family::Llama, Family::Qwen2, Family::Qwen3];

/// Weights, norms and biases all random, so that no term is 0 or 1 by accident.
pub fn network(family: Family, seed: u64) -> Transformer<Cpu> {
    shaken(&config(family), seed)
}

/// The same weights on every backend.
pub fn shaken<B: Backend>(config: &ModelConfig, seed: u64) -> Transformer<B> {
    let network: Transformer<B> = config.init(seed, &Default::default());
    network.map(&mut Shake(ChaCha8Rng::seed_from_u64(seed)))
}

struct Shake(ChaCha8Rng);

impl<B: Backend> ModuleMapper<B> for Shake {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let (id, tensor, mapper) = param.consume();
        let shape = tensor.dims();
        let (center, width) = if D == 1 { (0.7, 0.5) } else { (0.0, 0.6) };
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|_| center + width * (self.0.random::<f32>() - 0.5)).collect();
        let tensor = Tensor::<B, D>::from_data(TensorData::new(values, shape), &tensor.device()).require_grad();
        Param::from_mapped_value(id, tensor, mapper)
    }
}

pub fn tokens(seed: u64, n: usize) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| 2 + (rng.random::<u32>() % (VOCAB as u32 - 2))).collect()
}

/// Every fixture of transformers: its name, its network, and what transformers computed.
pub fn fixtures() -> Vec<(String, Transformer<Cpu>, serde_json::Value)> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let entries = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path());
    let mut folders: Vec<_> = entries.filter(|p| p.join("config.json").is_file()).collect();
    folders.sort();
    assert!(folders.len() >= 9, "{folders:?}");
    let read = |dir: &std::path::PathBuf| {
        let (_, network) = model::load_weights::<Cpu>(dir, &Default::default()).unwrap();
        let expected = serde_json::from_str(&std::fs::read_to_string(dir.join("expected.json")).unwrap()).unwrap();
        (dir.file_name().unwrap().to_string_lossy().into_owned(), network, expected)
    };
    folders.iter().map(read).collect()
}

/// Every parameter, in the module's order.
pub fn parameters(network: &Transformer<Cpu>) -> Vec<f32> {
    struct Collect(Vec<f32>);
    impl burn::module::ModuleVisitor<Cpu> for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<Cpu, D>>) {
            self.0.extend(param.val().into_data().iter::<f32>());
        }
    }
    let mut collect = Collect(Vec::new());
    network.visit(&mut collect);
    collect.0
}

/// Log-softmax of the network's own full forward pass over one sequence: `[tokens, vocab]`.
pub fn full_log_probs(network: &Transformer<Cpu>, all: &[u32], temperature: f32) -> Vec<Vec<f64>> {
    let device = Default::default();
    let n = all.len();
    let ids: Vec<i32> = all.iter().map(|t| *t as i32).collect();
    let positions: Vec<i32> = (0..n as i32).collect();
    let hidden = network.forward(
        Tensor::from_data(TensorData::new(ids, [1, n]), &device),
        Tensor::from_data(TensorData::new(positions, [1, n]), &device),
        None,
    );
    let logits: Vec<f32> = network.logits(hidden).into_data().iter::<f32>().collect();
    logits
        .chunks_exact(VOCAB)
        .map(|row| {
            let z: Vec<f64> = row.iter().map(|x| f64::from(*x) / f64::from(temperature)).collect();
            let lse = z.iter().map(|x| x.exp()).sum::<f64>().ln();
            z.iter().map(|x| x - lse).collect()
        })
        .collect()
}
