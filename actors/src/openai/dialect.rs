//! The two servers' ways to say it: what a request for one answer looks like, and what an event of its stream adds.
//!
//! Both get the prompt as token ids and every sampling parameter, so that no default of theirs counts (vLLM takes
//! missing ones from the model's `generation_config.json`). Their log-probs are explained in `docs/generator.md`.

mod sglang;
mod vllm;

use model::sampling::Sampling;
use serde_json::Value;

use super::answer::{Answer, Piece, Unusable};
use crate::config::ServerKind;

/// The stream's last event.
const DONE: &str = "[DONE]";

/// One answer to ask for.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// The name the server knows; not sent to SGLang, which serves one.
    pub model: &'a str,
    pub prompt: &'a [u32],
    pub sampling: &'a Sampling,
    pub max_new_tokens: usize,
    pub eos: &'a [u32],
    pub seed: u64,
}

/// What an event is.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Piece(Piece),
    /// Nothing about the answer (usage, a comment).
    Nothing,
    /// The stream is over.
    Done,
    /// An error in the middle of the stream.
    Error(String),
}

/// Where requests for answers go, below the server's root.
pub fn path(server: ServerKind) -> &'static str {
    match server {
        ServerKind::Vllm => "v1/completions",
        ServerKind::Sglang => "generate",
    }
}

pub fn body(server: ServerKind, ask: &Ask<'_>) -> Value {
    match server {
        ServerKind::Vllm => vllm::body(ask),
        ServerKind::Sglang => sglang::body(ask),
    }
}

/// Reads one event; `so_far` is the answer before it, of a prompt of `prompt` tokens.
///
/// # Errors
/// The event is not what was asked for.
pub fn read(server: ServerKind, event: &str, so_far: &Answer, prompt: usize) -> Result<Said, Unusable> {
    if event.trim() == DONE {
        return Ok(Said::Done);
    }
    // Python's `NaN` is no JSON; whoever writes it says nothing usable.
    let value: Value = serde_json::from_str(event).map_err(|e| {
        Unusable::Form(format!("an event is no JSON: {e} in {}", event.chars().take(80).collect::<String>()))
    })?;
    if let Some(error) = value.get("error") {
        let said = error.get("message").and_then(Value::as_str).map_or_else(|| error.to_string(), str::to_string);
        return Ok(Said::Error(said));
    }
    match server {
        ServerKind::Vllm => vllm::read(value, so_far, prompt),
        ServerKind::Sglang => sglang::read(value, so_far, prompt),
    }
}

/// Seeds are 64 bits, and both servers take signed ones.
fn signed(seed: u64) -> i64 {
    (seed >> 1) as i64
}

fn form(error: impl std::fmt::Display) -> Unusable {
    Unusable::Form(error.to_string())
}
