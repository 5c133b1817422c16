//! The CPU executor: the same network as `network`, computed on plain slices, several times faster than tensor by tensor.
//!
//! A small policy on a CPU loses most of its time between products: allocation, copies of permuted tensors, one small
//! operation after another. This module runs the decoder over ragged rows (no padding, a shared prompt computed once),
//! reuses its buffers, and writes the gradients by hand. `network` stays the definition: a test holds the logits and every
//! gradient of this module to burn's own autodiff, for all families.
//!
//! Measured with `cargo run --release -p model --example throughput` (embedded shape, 1.8 million parameters, one second of one
//! core): 5,000 tokens of SFT, 7,800 tokens of a training step with groups of 8, 9,700 decoded tokens at batch 96.
//!
//! It reads parameters of any backend (by copying them to the host) and never changes them.

pub mod attention;
pub mod backward;
pub mod decode;
mod decode_attention;
pub mod forward;
pub mod gemm;
pub mod kernels;
pub mod weights;

pub use attention::Segment;
pub use forward::{Rows, Tape};
pub use weights::{Dims, HostWeights};
