//! What a generator returns for one rollout.

use serde::{Deserialize, Serialize};

use crate::id::PolicyVersion;

/// Why generation of one answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The policy emitted an end-of-sequence token (which is the last of `tokens`), or closed its code block where that ends an
    /// answer.
    Stop,
    /// The limit on new tokens was reached.
    Length,
}

/// `tokens[start..]` up to the next span's start were sampled under `policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PolicySpan {
    pub start: u32,
    pub policy: PolicyVersion,
}

/// One sampled answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    pub prompt_tokens: Vec<u32>,
    /// The answer's tokens, an end-of-sequence token included.
    pub tokens: Vec<u32>,
    /// Behaviour log-probs, natural log, one per token: under the distribution that was sampled from
    /// (after temperature, top-k, top-p and min-p).
    pub logprobs: Vec<f32>,
    /// Policy version per token span, ascending, first `start` is 0.
    pub spans: Vec<PolicySpan>,
    pub finish: Finish,
    /// The decoded answer, without the end-of-sequence token.
    pub text: String,
    /// How many leading `tokens` belong to the plan (through the first `</think>`, delimiter included);
    /// `None` when the answer has no delimiter.
    pub plan_tokens: Option<u32>,
}

impl Completion {
    /// The oldest policy version that sampled any token; staleness is measured from it.
    pub fn oldest_policy(&self) -> Option<PolicyVersion> {
        self.spans.iter().map(|s| s.policy).min()
    }
}
