//! The generator on somebody else's engine: a vLLM or SGLang server is asked for answers over HTTP and given the new
//! weights through its own API. Chosen by `generator.kind = "openai"`; `docs/generator.md` says how to run one.
//!
//! ```text
//! generator's thread            runtime of 2 threads                                        server
//!   admit, cancel  -----------> request (one task an answer; `generator.max_batch` at once) <- SSE - tokens, log-probs
//!   step           <- results -   sse -> dialect (vllm, sglang) -> answer (verified, spans)
//!   adopt          -----------> reload (one at a time): write a folder, pause, load, count, go on
//! ```
//!
//! Whatever goes wrong with the server is a fault of one rollout (`SERVER_UNAVAILABLE`, `SERVER_UNUSABLE`), or, in a
//! reload, of the generator (`SERVER_RELOAD`); it never becomes an outcome.

mod answer;
mod dialect;
mod line;
mod probe;
mod reload;
mod request;
mod sampler;
mod setup;
mod sse;

pub use reload::Publish;
pub use sampler::{ServerSettings, sampler_factory};
pub use setup::{Setup, Tuning, no_address, root, secret};
