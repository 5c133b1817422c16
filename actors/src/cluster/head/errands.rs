//! Errands to nodes and the answers that come back: the gateway's part between the pool (or the fleet) and the wire.

use std::sync::Arc;

use rollout::completion::Completion;
use rollout::outcome::{ExecReport, Fault};

use super::HeadState;
use crate::cluster::roster::Lease;
use crate::cluster::wire::{self, Body, Errand, NodeKey, Role, ToNode, WireError};
use crate::codec;
use crate::executor::{ExecJob, ExecutedItem};
use crate::fleet::FleetMsg;
use crate::generator::GeneratorMsg;
use crate::pool::{PoolMsg, RemoteMsg};
use crate::supervise::{LEASE_LOST, fault};

impl HeadState {
    pub(super) fn execute(&mut self, key: NodeKey, number: u32, job: &ExecJob) {
        let now = self.now_ms();
        let Some(lease) = self.roster.assign(now, key, number, job.rollout, job.attempt) else {
            // Given up a moment ago; the pool hears of it by a `Detach` that is on its way.
            return;
        };
        let candidate = job.candidate().ok_or(WireError::Damaged("no candidate".into()));
        let bytes = match candidate.and_then(wire::candidate_bytes) {
            Ok(bytes) => bytes,
            Err(error) => return self.failed(key, lease, fault(LEASE_LOST, error)),
        };
        let candidate = if bytes.len() > self.args.limit / 2 {
            Body::Blob(self.lent.lend(key, lease, bytes))
        } else {
            Body::Here(bytes)
        };
        let (rollout, attempt, task) = (job.rollout, job.attempt, job.task.id.clone());
        self.say(key, &ToNode::Errand(Errand { lease, rollout, attempt, task, candidate }));
    }

    fn failed(&mut self, key: NodeKey, lease: u64, fault: Fault) {
        if let Some(found) = self.roster.done(key, lease) {
            self.lapse(found, fault);
        }
    }

    pub(super) fn done(&mut self, key: NodeKey, lease: u64, report: Result<Body, Fault>) {
        // First of all: a node may only end what it holds.
        let Some(found) = self.roster.done(key, lease) else {
            // A report that nobody waits for takes no room.
            if let Ok(Body::Blob(blob)) = report {
                self.args.shelf.take(&blob.digest);
            }
            return;
        };
        self.lent.back(key, lease);
        let bytes = match report {
            Ok(Body::Here(bytes)) => Ok(bytes),
            Ok(Body::Blob(blob)) => self
                .args
                .shelf
                .take(&blob.digest)
                .ok_or_else(|| fault(LEASE_LOST, "the report is not on the side channel")),
            Err(fault) => Err(fault),
        };
        let unreadable = |what: &str, why: String| fault(LEASE_LOST, format!("the {what} cannot be read: {why}"));
        match found.role {
            Role::Executor => {
                let read = |bytes: Vec<u8>| serde_json::from_slice::<ExecReport>(&bytes).map_err(|e| e.to_string());
                let report = bytes.and_then(|bytes| read(bytes).map_err(|why| unreadable("report", why)));
                self.report(found, report);
            }
            Role::Generator => {
                let (vocab, most) = self.args.source.as_ref().map_or((0, 0), |s| (s.vocab, s.max_new_tokens));
                let read = |bytes: Vec<u8>| {
                    sound(codec::decode::<Completion>(&bytes).map_err(|e| e.to_string())?, vocab, most)
                };
                let completion = bytes.and_then(|bytes| read(bytes).map_err(|why| unreadable("answer", why)));
                self.completion(found, completion);
            }
        }
    }

    /// An errand without an answer.
    pub(super) fn lapse(&self, lease: Lease, fault: Fault) {
        match lease.role {
            Role::Executor => self.report(lease, Err(fault)),
            Role::Generator => self.completion(lease, Err(fault)),
        }
    }

    fn report(&self, lease: Lease, result: Result<ExecReport, Fault>) {
        let item = ExecutedItem { rollout: lease.rollout, attempt: lease.attempt, result: result.map(Arc::new) };
        self.pool(RemoteMsg::Done { number: lease.number, item });
    }

    fn completion(&self, lease: Lease, result: Result<Completion, Fault>) {
        let Lease { key, rollout, attempt, .. } = lease;
        self.fleet(FleetMsg::Done { key, rollout, attempt, result: result.map(Box::new) });
    }

    pub(super) fn pool(&self, message: RemoteMsg) {
        if let Some(pool) = &self.pool {
            let _ = pool.cast(PoolMsg::Remote(message));
        }
    }

    pub(super) fn fleet(&self, message: FleetMsg) {
        if let Some(fleet) = &self.fleet {
            let _ = fleet.cast(GeneratorMsg::Fleet(message));
        }
    }
}

/// What the learner relies on: it refuses the whole batch of an answer with a token that the policy (`vocab` tokens) does not have, or
/// that is longer than asked for.
fn sound(completion: Completion, vocab: usize, most: usize) -> Result<Completion, String> {
    let tokens = completion.tokens.len();
    if tokens > most {
        return Err(format!("{tokens} tokens, at most {most} were asked for"));
    }
    if let Some(token) = completion.tokens.iter().find(|token| **token as usize >= vocab) {
        return Err(format!("token {token} of a vocabulary of {vocab}"));
    }
    if tokens == 0 || completion.logprobs.len() != tokens {
        return Err(format!("{tokens} tokens and {} log-probs", completion.logprobs.len()));
    }
    if let Some(bad) = completion.logprobs.iter().find(|p| !p.is_finite() || **p > 1e-3) {
        return Err(format!("a log-prob of {bad}"));
    }
    let spans = &completion.spans;
    let ascending = spans.is_sorted_by(|a, b| a.start < b.start && a.policy < b.policy);
    let within = spans.first().is_some_and(|s| s.start == 0) && spans.iter().all(|s| (s.start as usize) < tokens);
    if !ascending || !within {
        return Err("spans of policy versions that are in no order".into());
    }
    match completion.plan_tokens {
        Some(plan) if plan as usize > tokens => Err(format!("a plan of {plan} of {tokens} tokens")),
        _ => Ok(completion),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rollout::completion::{Finish, PolicySpan};
    use rollout::id::PolicyVersion;

    #[test]
    fn an_answer_that_the_learner_could_not_use_is_none() {
        let span = |start, policy| PolicySpan { start, policy: PolicyVersion(policy) };
        let good = || Completion {
            prompt_tokens: vec![],
            tokens: vec![1, 2, 3],
            logprobs: vec![-0.5, 0.0, -2.0],
            spans: vec![span(0, 4), span(2, 6)],
            finish: Finish::Stop,
            text: String::new(),
            plan_tokens: Some(1),
        };
        assert_eq!(sound(good(), 4, 3), Ok(good()));
        assert!(sound(good(), 3, 3).is_err() && sound(good(), 4, 2).is_err(), "a token that is none, or too many");
        let bad: [fn(&mut Completion); 7] = [
            |c| c.logprobs.truncate(2),
            |c| c.logprobs[1] = f32::NAN,
            |c| c.logprobs[1] = 0.7,
            |c| c.spans[0].start = 1,
            |c| c.spans[1].policy = PolicyVersion(3),
            |c| c.spans[1].start = 3,
            |c| c.plan_tokens = Some(4),
        ];
        for (n, spoil) in bad.into_iter().enumerate() {
            let mut completion = good();
            spoil(&mut completion);
            assert!(sound(completion, 4, 3).is_err(), "{n}");
        }
    }
}
