//! Errands to nodes and the answers that come back: the gateway's part between the pool (or the fleet) and the wire.

use std::sync::Arc;

use rollout::completion::Completion;
use rollout::outcome::{ExecReport, Fault};

use super::{HeadMsg, HeadState};
use crate::cluster::batch;
use crate::cluster::roster::Lease;
use crate::cluster::wire::{self, Answer, Body, Errand, NodeKey, Role, ToNode, WireError};
use crate::codec;
use crate::executor::{ExecJob, ExecutedItem};
use crate::fleet::FleetMsg;
use crate::generator::GeneratorMsg;
use crate::pool::{PoolMsg, RemoteMsg};
use crate::supervise::{LEASE_LOST, fault};

impl HeadState {
    /// They go out with the next `Post`, which stands behind whatever waits for this actor by now: what came meanwhile goes along, and
    /// where nothing waits it is the next thing that happens.
    pub(super) fn execute(&mut self, key: NodeKey, jobs: &[(u32, ExecJob)]) {
        let idle = self.ready.is_empty();
        jobs.iter().for_each(|(number, job)| self.lease(key, *number, job));
        if idle && !self.ready.is_empty() {
            drop(self.myself.cast(HeadMsg::Post));
        }
    }

    fn lease(&mut self, key: NodeKey, number: u32, job: &ExecJob) {
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
        self.ready.entry(key).or_default().push(Errand { lease, rollout, attempt, task, candidate });
    }

    pub(super) fn post(&mut self) {
        for (key, mut errands) in std::mem::take(&mut self.ready) {
            // A node may have been lost since, and have come back without them.
            errands.retain(|errand| self.roster.holds(key, errand.lease));
            for errands in batch::messages(errands, self.args.limit) {
                self.say(key, &ToNode::Errands(errands));
            }
        }
    }

    fn failed(&mut self, key: NodeKey, lease: u64, fault: Fault) {
        if let Some(found) = self.roster.done(key, lease) {
            self.lapse(found, fault);
        }
    }

    /// The pool hears of all of them at once.
    pub(super) fn done(&mut self, key: NodeKey, answers: Vec<Answer>) {
        let executed = answers.into_iter().filter_map(|answer| self.answered(key, answer)).collect::<Vec<_>>();
        if !executed.is_empty() {
            self.pool(RemoteMsg::Done(executed));
        }
    }

    /// What the pool is to be told of it.
    fn answered(&mut self, key: NodeKey, Answer { lease, report }: Answer) -> Option<(u32, ExecutedItem)> {
        // First of all: a node may only end what it holds.
        let Some(found) = self.roster.done(key, lease) else {
            // A report that nobody waits for takes no room.
            if let Ok(Body::Blob(blob)) = report {
                self.args.shelf.take(&blob.digest);
            }
            return None;
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
                Some(executed(found, report))
            }
            Role::Generator => {
                let (vocab, most) = self.args.source.as_ref().map_or((0, 0), |s| (s.vocab, s.max_new_tokens));
                let read = |bytes: Vec<u8>| {
                    sound(codec::decode::<Completion>(&bytes).map_err(|e| e.to_string())?, vocab, most)
                };
                let completion = bytes.and_then(|bytes| read(bytes).map_err(|why| unreadable("answer", why)));
                self.completion(found, completion);
                None
            }
        }
    }

    /// An errand without an answer.
    pub(super) fn lapse(&self, lease: Lease, fault: Fault) {
        match lease.role {
            Role::Executor => self.pool(RemoteMsg::Done(vec![executed(lease, Err(fault))])),
            Role::Generator => self.completion(lease, Err(fault)),
        }
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

/// As the pool is told: by the executor's number.
fn executed(lease: Lease, result: Result<ExecReport, Fault>) -> (u32, ExecutedItem) {
    let item = ExecutedItem { rollout: lease.rollout, attempt: lease.attempt, result: result.map(Arc::new) };
    (lease.number, item)
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
