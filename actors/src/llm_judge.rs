//! The LLM judge: turns candidates that passed into opinions, by asking an OpenAI-compatible endpoint. Off unless
//! `judge.enabled`. The pool asks it and supervises it; `troupe verify` asks one of its own.
//!
//! Owns the questions under way (tasks that die with it) and what was answered before. It can object, never grant
//! (`reward::rubric`); whatever goes wrong with the endpoint is a fault of ours, which masks. Killed by: nothing of its
//! own; what it held is then a fault, and a new one starts without a memory but with the same `Ledger`.

mod client;
mod ledger;
mod setup;

use std::collections::HashMap;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use reward::rubric::{Opinion, Question, Stripped, key, strip};
use rollout::id::Digest;
use rollout::outcome::{Candidate, Fault};
use rollout::task::TaskSpec;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};

pub use ledger::Counts;
pub use setup::{Setup, Tuning};

use crate::supervise::{LLM_JUDGE_LOST, LLM_JUDGE_UNAVAILABLE, fault};

/// Opinions remembered, each of a kilobyte at most; beyond it new ones are not.
const OPINIONS_MAX: usize = 100_000;
/// How much longer than a question may take its asker waits.
const GRACE: Duration = Duration::from_secs(5);

/// Called once with what came of a question.
pub type Reply = Box<dyn FnOnce(Result<Opinion, Fault>) + Send>;

pub enum LlmJudgeMsg {
    /// "Is this candidate, which passed, an honest one?"
    Ask { task: Arc<TaskSpec>, candidate: Candidate, reply: Reply },
    /// From the task of a question.
    Answered { key: Digest, result: Result<Opinion, Fault> },
}

impl ractor::Message for LlmJudgeMsg {}

pub struct LlmJudgeState {
    setup: Arc<Setup>,
    /// Requests at once (`judge.concurrency`); fair, so questions are asked in order.
    seats: Arc<Semaphore>,
    opinions: HashMap<Digest, Opinion>,
    /// Whoever waits for a question that is under way: identical ones are asked once.
    waiting: HashMap<Digest, Vec<Reply>>,
    /// Owns the tasks: dropped with the actor, on kill and on panic.
    tasks: JoinSet<()>,
}

pub struct LlmJudge;

impl Actor for LlmJudge {
    type Msg = LlmJudgeMsg;
    type State = LlmJudgeState;
    type Arguments = Arc<Setup>;

    async fn pre_start(
        &self,
        _myself: ActorRef<LlmJudgeMsg>,
        setup: Arc<Setup>,
    ) -> Result<LlmJudgeState, ActorProcessingErr> {
        Ok(LlmJudgeState {
            seats: Arc::new(Semaphore::new(setup.concurrency)),
            setup,
            opinions: HashMap::new(),
            waiting: HashMap::new(),
            tasks: JoinSet::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<LlmJudgeMsg>,
        message: LlmJudgeMsg,
        state: &mut LlmJudgeState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            LlmJudgeMsg::Ask { task, candidate, reply } => state.ask(&myself, task, &candidate, reply),
            LlmJudgeMsg::Answered { key, result } => state.answered(key, &result),
        }
        // Tasks that have ended.
        while state.tasks.try_join_next().is_some() {}
        Ok(())
    }
}

impl LlmJudgeState {
    fn ask(&mut self, myself: &ActorRef<LlmJudgeMsg>, task: Arc<TaskSpec>, candidate: &Candidate, reply: Reply) {
        let setup = self.setup.clone();
        setup.ledger.count(|counts| counts.asked += 1);
        // Some 50 microseconds for a usual candidate, milliseconds for the largest that is let through.
        let program = match strip(&candidate.source) {
            Ok(program) => program,
            Err(error) => return self.tell(reply, Err(fault(LLM_JUDGE_UNAVAILABLE, error))),
        };
        let key = key(&program, &task.source, &setup.model);
        if let Some(opinion) = self.opinions.get(&key).cloned() {
            setup.ledger.count(|counts| counts.cached += 1);
            return self.tell(reply, Ok(opinion));
        }
        if let Some(waiting) = self.waiting.get_mut(&key) {
            setup.ledger.count(|counts| counts.cached += 1);
            return waiting.push(reply);
        }
        self.waiting.insert(key.clone(), vec![reply]);
        let (seats, promise) = (self.seats.clone(), Promise { to: myself.clone(), key, result: None });
        let until = Instant::now() + setup.deadline;
        self.tasks.spawn(async move {
            let asked = tokio::time::timeout_at(until, question(&setup, &seats, &task, &program, until)).await;
            promise.keep(asked.unwrap_or_else(|_| {
                let limit = setup.deadline.as_secs_f64();
                Err(fault(LLM_JUDGE_UNAVAILABLE, format!("no opinion within judge.deadline_s = {limit}")))
            }));
        });
    }

    fn answered(&mut self, key: Digest, result: &Result<Opinion, Fault>) {
        for reply in self.waiting.remove(&key).unwrap_or_default() {
            self.tell(reply, result.clone());
        }
        if let Ok(opinion) = result
            && self.opinions.len() < OPINIONS_MAX
        {
            self.opinions.insert(key, opinion.clone());
        }
    }

    fn tell(&self, reply: Reply, result: Result<Opinion, Fault>) {
        self.setup.ledger.count(|counts| match &result {
            Ok(Opinion::NoObjection) => {}
            Ok(Opinion::Objects { .. }) => counts.rejected += 1,
            Err(_) => counts.faults += 1,
        });
        reply(result);
    }
}

async fn question(
    setup: &Setup,
    seats: &Semaphore,
    task: &TaskSpec,
    program: &Stripped,
    until: Instant,
) -> Result<Opinion, Fault> {
    let _seat = seats.acquire().await.map_err(|e| fault(LLM_JUDGE_LOST, e))?;
    client::ask(setup, &Question { task_source: &task.source, program }, until).await
}

/// Reports the task's result, or that it panicked: whoever waits hears of it either way.
struct Promise {
    to: ActorRef<LlmJudgeMsg>,
    key: Digest,
    result: Option<Result<Opinion, Fault>>,
}

impl Promise {
    fn keep(mut self, result: Result<Opinion, Fault>) {
        self.result = Some(result);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let lost = || Err(fault(LLM_JUDGE_LOST, "the task of a question ended without a result"));
        let result = self.result.take().unwrap_or_else(lost);
        let _ = self.to.cast(LlmJudgeMsg::Answered { key: self.key.clone(), result });
    }
}

/// One question to a judge of its own, for a command that is no run.
///
/// # Errors
/// No opinion could be had.
pub async fn ask_once(setup: Arc<Setup>, task: &TaskSpec, candidate: &Candidate) -> Result<Opinion, Fault> {
    let limit = setup.deadline + GRACE;
    let (actor, _handle) = Actor::spawn(None, LlmJudge, setup).await.map_err(|e| fault(LLM_JUDGE_LOST, e))?;
    let (to, answer) = oneshot::channel();
    let reply: Reply = Box::new(move |result| drop(to.send(result)));
    let _ = actor.cast(LlmJudgeMsg::Ask { task: Arc::new(task.clone()), candidate: candidate.clone(), reply });
    let result = tokio::time::timeout(limit, answer).await;
    actor.kill();
    match result {
        Ok(Ok(result)) => result,
        Ok(Err(_)) | Err(_) => Err(fault(LLM_JUDGE_LOST, "the judge ended without an answer")),
    }
}
