//! One answer as it arrives: tokens, log-probs and the policy of each, verified before any of them counts.

use rollout::completion::{Finish, PolicySpan};
use rollout::id::PolicyVersion;

/// How far above 0 a log-prob may be by rounding.
const ROUNDING: f32 = 1e-3;
/// What vLLM writes for minus infinity. No token that was sampled has it.
const IMPOSSIBLE: f32 = -9999.0;

/// Why an answer cannot be used; asking again would not help, the server is not what it has to be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Unusable {
    #[error("the answer is not in the form that was asked for: {0}")]
    Form(String),
    #[error("no token ids in the answer: the server must return them ({0})")]
    NoTokenIds(&'static str),
    #[error("no log-probs in the answer: the server must return one for each sampled token ({0})")]
    NoLogprobs(&'static str),
    #[error("{tokens} token ids and {logprobs} log-probs in one piece of the answer")]
    Lengths { tokens: usize, logprobs: usize },
    #[error("token {at} has the log-prob {found}, not a finite number that is at most 0")]
    Logprob { at: usize, found: String },
    #[error("token {at} is {token}, and the vocabulary has {vocab} entries: is it the same model?")]
    UnknownToken { at: usize, token: u64, vocab: usize },
    #[error("token {at} ended the answer ({token}), and more came after it")]
    AfterEnd { at: usize, token: u32 },
    #[error("{found} tokens, and {limit} were the limit (sampling.max_new_tokens)")]
    TooLong { found: usize, limit: usize },
    #[error("the server read a prompt of {found} tokens, {sent} were sent")]
    Prompt { sent: usize, found: usize },
    #[error("the answer stopped without an end-of-sequence token of the model ({0})")]
    NoEnd(String),
    #[error("the answer is empty")]
    Empty,
}

/// What an answer must keep to.
#[derive(Clone, Debug)]
pub struct Bounds {
    pub vocab: usize,
    /// Any of them ends the answer.
    pub eos: Vec<u32>,
    pub max_new_tokens: usize,
}

/// Why the server ended an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Stop,
    Length,
    /// It was ended from outside: by somebody else, a restart, a pause that does not keep requests.
    Aborted(String),
}

/// What one event adds to the answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    pub tokens: Vec<u64>,
    pub logprobs: Vec<f64>,
    /// The version the server itself says each token was sampled under; empty where it says nothing.
    pub stamps: Vec<Option<PolicyVersion>>,
    /// The server's label of its weights, where it is none of ours.
    pub foreign: Option<String>,
    pub end: Option<End>,
}

/// The answer so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub tokens: Vec<u32>,
    pub logprobs: Vec<f32>,
    pub spans: Vec<PolicySpan>,
}

impl Answer {
    /// Adds a piece that arrived while `policy` counted. A stamp of the server's can only make a token older than that.
    ///
    /// # Errors
    /// The piece breaks a bound; the answer is then of no use.
    pub fn extend(&mut self, piece: &Piece, policy: PolicyVersion, bounds: &Bounds) -> Result<(), Unusable> {
        if piece.tokens.len() != piece.logprobs.len() {
            return Err(Unusable::Lengths { tokens: piece.tokens.len(), logprobs: piece.logprobs.len() });
        }
        for (n, (&token, &logprob)) in piece.tokens.iter().zip(&piece.logprobs).enumerate() {
            let at = self.tokens.len();
            if let Some(&last) = self.tokens.last()
                && bounds.eos.contains(&last)
            {
                return Err(Unusable::AfterEnd { at: at - 1, token: last });
            }
            let known = u32::try_from(token).ok().filter(|t| (*t as usize) < bounds.vocab);
            let token = known.ok_or(Unusable::UnknownToken { at, token, vocab: bounds.vocab })?;
            if at >= bounds.max_new_tokens {
                return Err(Unusable::TooLong { found: at + 1, limit: bounds.max_new_tokens });
            }
            let logprob = logprob as f32;
            if !logprob.is_finite() || logprob > ROUNDING || logprob <= IMPOSSIBLE {
                return Err(Unusable::Logprob { at, found: logprob.to_string() });
            }
            let stamp = piece.stamps.get(n).copied().flatten().unwrap_or(policy);
            self.note(at as u32, stamp.min(policy));
            self.tokens.push(token);
            self.logprobs.push(logprob.min(0.0));
        }
        Ok(())
    }

    fn note(&mut self, start: u32, policy: PolicyVersion) {
        if self.spans.last().is_none_or(|span| policy != span.policy) {
            self.spans.push(PolicySpan { start, policy });
        }
    }

    /// Why the whole answer ended, by its tokens; the server's own word must not contradict them.
    ///
    /// # Errors
    /// Empty, or stopped at something that is no end-of-sequence token.
    pub fn finish(&self, end: &End, bounds: &Bounds) -> Result<Finish, Unusable> {
        let last = self.tokens.last().ok_or(Unusable::Empty)?;
        match end {
            _ if bounds.eos.contains(last) => Ok(Finish::Stop),
            End::Length => Ok(Finish::Length),
            End::Stop | End::Aborted(_) => Err(Unusable::NoEnd(format!("its last token is {last}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> Bounds {
        Bounds { vocab: 10, eos: vec![9], max_new_tokens: 4 }
    }

    fn piece(tokens: &[u64], logprobs: &[f64]) -> Piece {
        Piece { tokens: tokens.to_vec(), logprobs: logprobs.to_vec(), ..Piece::default() }
    }

    #[test]
    fn what_breaks_a_bound_is_refused_and_named() {
        let try_ = |tokens: &[u64], logprobs: &[f64]| {
            Answer::default().extend(&piece(tokens, logprobs), PolicyVersion(0), &bounds()).unwrap_err()
        };
        assert_eq!(try_(&[1, 2], &[-0.1]), Unusable::Lengths { tokens: 2, logprobs: 1 });
        assert_eq!(try_(&[1, 10], &[-0.1, -0.1]), Unusable::UnknownToken { at: 1, token: 10, vocab: 10 });
        assert_eq!(try_(&[1 << 40], &[-0.1]), Unusable::UnknownToken { at: 0, token: 1 << 40, vocab: 10 });
        for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.5, -9999.0, -1e300] {
            assert!(matches!(try_(&[1], &[odd]), Unusable::Logprob { at: 0, .. }), "{odd}");
        }
        assert_eq!(try_(&[9, 1], &[-0.1, -0.1]), Unusable::AfterEnd { at: 0, token: 9 });
        assert_eq!(try_(&[1; 5], &[-0.1; 5]), Unusable::TooLong { found: 5, limit: 4 });
        let mut rounded = Answer::default();
        rounded.extend(&piece(&[1], &[1e-5]), PolicyVersion(0), &bounds()).unwrap();
        assert_eq!(rounded.logprobs, [0.0]);
    }

    #[test]
    fn the_end_is_what_the_tokens_say() {
        let ended = |tokens: &[u64], end: End| {
            let mut answer = Answer::default();
            answer.extend(&piece(tokens, &vec![-0.5; tokens.len()]), PolicyVersion(0), &bounds()).unwrap();
            answer.finish(&end, &bounds())
        };
        assert_eq!(ended(&[1, 9], End::Stop), Ok(Finish::Stop));
        assert_eq!(ended(&[1, 2, 3, 9], End::Length), Ok(Finish::Stop));
        assert_eq!(ended(&[1, 2, 3, 4], End::Length), Ok(Finish::Length));
        assert!(matches!(ended(&[1, 2], End::Stop), Err(Unusable::NoEnd(_))));
        assert_eq!(ended(&[], End::Length), Err(Unusable::Empty));
    }

    /// Planted: a stamp wins over what counts. Seen: token 2 is of version 4.
    #[test]
    fn spans_follow_what_counts_and_a_stamp_only_makes_older() {
        let mut answer = Answer::default();
        let mut extend = |n: usize, policy: u64, stamps: &[Option<u64>]| {
            let stamps = stamps.iter().map(|s| s.map(PolicyVersion)).collect();
            let piece = Piece { stamps, ..piece(&vec![1; n], &vec![-0.5; n]) };
            let wide = Bounds { max_new_tokens: 100, ..bounds() };
            answer.extend(&piece, PolicyVersion(policy), &wide).unwrap();
        };
        extend(2, 3, &[]);
        extend(1, 3, &[Some(4)]);
        extend(3, 4, &[Some(3), Some(4), None]);
        let spans: Vec<(u32, u64)> = answer.spans.iter().map(|s| (s.start, s.policy.0)).collect();
        assert_eq!(spans, [(0, 3), (4, 4)]);
    }
}
