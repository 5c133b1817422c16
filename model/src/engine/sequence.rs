//! One answer on its way: what has been sampled, under which policies, and whether it is over.

use rollout::completion::{Finish, PolicySpan};
use rollout::id::PolicyVersion;

use super::stop::{Scanner, StopRule};
use super::{Finished, Request};
use crate::sampling::{SamplingScratch, TokenRng, sample};

pub(crate) struct Sequence {
    pub request: Request,
    pub rng: TokenRng,
    /// Where the executor keeps its cache.
    pub slot: usize,
    pub tokens: Vec<u32>,
    logprobs: Vec<f32>,
    spans: Vec<PolicySpan>,
    read: Scanner,
}

impl Sequence {
    pub fn new(request: Request, slot: usize, room: usize) -> Self {
        Self {
            rng: TokenRng::new(request.seed),
            slot,
            tokens: Vec::with_capacity(request.max_new_tokens.min(room)),
            logprobs: Vec::new(),
            spans: Vec::new(),
            read: Scanner::default(),
            request,
        }
    }

    /// The next token from a row of logits.
    pub fn sample(&mut self, logits: &[f32], scratch: &mut SamplingScratch) {
        let (token, logprob) = sample(logits, &self.request.sampling, &mut self.rng, scratch);
        self.push(token, logprob);
    }

    pub fn push(&mut self, token: u32, logprob: f32) {
        self.tokens.push(token);
        self.logprobs.push(logprob);
    }

    /// Called after each sampled token: a new span where the version changed.
    pub fn note_version(&mut self, policy: PolicyVersion) {
        if self.spans.last().map(|s| s.policy) != Some(policy) {
            self.spans.push(PolicySpan { start: self.tokens.len() as u32 - 1, policy });
        }
    }

    /// Called once after each sampled token.
    pub fn end(&mut self, max_seq_len: usize, stop: &StopRule) -> Option<Finish> {
        let last = self.tokens.last().copied()?;
        if self.request.eos.contains(&last) || stop.ends(&mut self.read, last) {
            Some(Finish::Stop)
        } else if self.tokens.len() >= self.request.max_new_tokens
            || self.request.prompt.len() + self.tokens.len() >= max_seq_len
        {
            Some(Finish::Length)
        } else {
            None
        }
    }

    pub fn into_finished(self, finish: Finish) -> Finished {
        Finished { id: self.request.id, tokens: self.tokens, logprobs: self.logprobs, spans: self.spans, finish }
    }
}
