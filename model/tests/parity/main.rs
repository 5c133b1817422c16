//! The model room against transformers: logits, chat templates, folders in and out, tokens and text.
//!
//! One binary, so that the network is compiled for tests once. Fixtures: `scripts/make_model_fixtures.py` and
//! `scripts/make_gguf_fixtures.py`.

#![allow(clippy::unwrap_used)]

mod cache;
mod chat;
mod engine;
mod folders;
mod gguf;
mod gguf_broken;
mod gguf_writer;
mod gradients;
mod logits;
mod tokens;

use std::path::PathBuf;

use burn::tensor::{Int, Tensor, TensorData};
use model::network::Transformer;

pub type B = model::CpuInner;

/// Every fixture of a network.
pub const CASES: [&str; 9] = [
    "llama-untied",
    "llama-bias-tied",
    "llama-linear",
    "llama-dynamic-plain",
    "llama-llama3",
    "qwen2-tied",
    "qwen2-yarn",
    "qwen3-sharded",
    "qwen3-tied-yarn",
];

pub fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub fn fixture(case: &str) -> PathBuf {
    fixtures().join(case)
}

pub fn json(path: PathBuf) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Rows of equal length as a tensor.
pub fn tokens(rows: &[Vec<u32>]) -> Tensor<B, 2, Int> {
    let flat: Vec<i64> = rows.iter().flatten().map(|id| i64::from(*id)).collect();
    Tensor::from_data(TensorData::new(flat, [rows.len(), rows[0].len()]), &Default::default())
}

/// `0..seq` for every row.
pub fn positions(batch: usize, seq: usize) -> Tensor<B, 2, Int> {
    Tensor::<B, 1, Int>::arange(0..seq as i64, &Default::default()).reshape([1, seq]).repeat_dim(0, batch)
}

/// Logits of whole rows, `[batch * seq][vocab]`.
pub fn full_logits(network: &Transformer<B>, rows: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let hidden = network.forward(tokens(rows), positions(rows.len(), rows[0].len()), None);
    to_rows(network.logits(hidden))
}

/// The last axis as rows.
pub fn to_rows(tensor: Tensor<B, 3>) -> Vec<Vec<f32>> {
    let [_, _, width] = tensor.dims();
    let flat: Vec<f32> = tensor.into_data().iter::<f32>().collect();
    flat.chunks_exact(width).map(<[f32]>::to_vec).collect()
}

/// The largest difference, in units of `1 + |expected|`.
pub fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f32::max)
}
