//! What is refused before anything is computed.

use super::{LearnerError, TrainSample};

/// Prompts and answers: neither empty, every token in the vocabulary, no text longer than the network's positions.
pub fn check<'a>(
    samples: impl Iterator<Item = (&'a [u32], &'a [u32])>,
    vocab: usize,
    limit: usize,
) -> Result<(), LearnerError> {
    let mut any = false;
    for (sample, (prompt, tokens)) in samples.enumerate() {
        any = true;
        let bad = |what: String| Err(LearnerError::BadSample { sample, what });
        if prompt.is_empty() || tokens.is_empty() {
            return bad(format!("{} prompt tokens and {} answer tokens", prompt.len(), tokens.len()));
        }
        if let Some(token) = prompt.iter().chain(tokens).find(|t| **t as usize >= vocab) {
            return bad(format!("token {token} is not in a vocabulary of {vocab}"));
        }
        let tokens = prompt.len() + tokens.len();
        if tokens > limit {
            return Err(LearnerError::TooLong { sample, tokens, limit });
        }
    }
    if any { Ok(()) } else { Err(LearnerError::EmptyBatch) }
}

/// A log-prob for every token.
pub fn check_train(samples: &[TrainSample]) -> Result<(), LearnerError> {
    for (sample, s) in samples.iter().enumerate() {
        if s.logprobs.len() != s.tokens.len() {
            let what = format!("{} log-probs for {} tokens", s.logprobs.len(), s.tokens.len());
            return Err(LearnerError::BadSample { sample, what });
        }
    }
    Ok(())
}
