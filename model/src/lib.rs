//! model: the policy network in burn, its tokenizer and chat template, generation, losses, the optimizer step, and weights in
//! and out. It knows nothing of rewards, tasks or actors; no decision looks at a clock (reports say how long a step took).
//!
//! Reading order: `config` (shape of a network), `network` (forward pass), `kernels` (its products, per backend), `load` / `save` (Hugging Face folders), `gguf` (the other
//! format that is read), `tokenizer` and `chat` (text to tokens and back); `sampling` and `engine` (generation); `loss`, `correction`,
//! `learner`, `optim`, `lora`, `stats` and `checkpoint` (training); `host` (the same network on plain slices, which both use on a CPU).

pub mod bpe;
#[cfg_attr(not(any(feature = "cuda", test)), allow(dead_code))]
pub mod budget;
pub mod chat;
pub mod checkpoint;
pub mod config;
pub mod correction;
#[cfg(feature = "cuda")]
pub mod device;
pub mod engine;
pub mod error;
mod gguf;
pub mod guard;
mod hf_config;
pub mod host;
pub mod kernels;
pub mod learner;
pub mod load;
pub mod lora;
pub mod loss;
pub mod network;
pub mod optim;
#[cfg(any(feature = "cuda", test))]
mod packing;
pub mod sampling;
pub mod save;
pub mod stats;
pub mod tokenizer;
mod weights;

pub use bpe::train_bpe;
pub use chat::Message;
pub use config::ModelConfig;
pub use error::ModelError;
pub use gguf::find as find_gguf;
pub use load::{Loaded, load_config, load_hf, load_weights};
pub use network::{KvCache, Transformer};
pub use save::{save_hf, save_weights};
pub use tokenizer::Tokenizer;

/// The CPU backend for inference. Single precision.
pub type CpuInner = burn::backend::Flex;
/// The CPU backend for training.
pub type Cpu = burn::backend::Autodiff<CpuInner>;

/// The CUDA backend for inference; the libraries are loaded at run time.
#[cfg(feature = "cuda")]
pub type GpuInner = burn::backend::Cuda<f32, i32>;
/// The CUDA backend for training.
#[cfg(feature = "cuda")]
pub type Gpu = burn::backend::Autodiff<GpuInner>;
