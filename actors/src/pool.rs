//! The executors' pool: gives each idle executor the oldest waiting job, and answers repeated candidates from memory.
//!
//! Owns and supervises the executor actors. Killed by: executors that keep dying. Identical candidates for one task
//! are executed once per run (`executor.reuse_verdicts`), also when the first is still being executed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use rollout::id::{Digest, RolloutId, TaskId};
use rollout::outcome::ExecReport;

use crate::crew::VerifierFactory;
use crate::executor::{ExecJob, ExecutedItem, Executor, ExecutorArgs, ExecutorMsg};
use crate::orchestrator::OrchestratorMsg;
use crate::supervise::{Deaths, EXECUTOR_LOST, Role, Verdict, fault};
use crate::verdicts::remembered;

#[derive(Debug)]
pub enum PoolMsg {
    Execute(Vec<ExecJob>),
    Cancel(Vec<RolloutId>),
    /// From executor `number`.
    Done {
        number: u32,
        item: ExecutedItem,
    },
    /// For tests: kills executor `number` as a crash would.
    KillExecutor {
        number: u32,
    },
}

pub struct PoolArgs {
    pub factory: VerifierFactory,
    pub workers: u32,
    pub deadline: Duration,
    pub reuse_verdicts: bool,
    /// Verdicts kept for reuse; beyond it new ones are not remembered.
    pub verdicts_max: usize,
    pub out: ActorRef<OrchestratorMsg>,
}

/// A task and the candidate's digest: all that a verdict depends on.
type Key = (TaskId, Digest);

struct Slot {
    actor: ActorRef<ExecutorMsg>,
    job: Option<ExecJob>,
    deaths: Deaths,
}

pub struct PoolState {
    args: PoolArgs,
    slots: Vec<Slot>,
    waiting: VecDeque<ExecJob>,
    /// What is kept of each report has a fixed size (`verdicts`).
    verdicts: HashMap<Key, Arc<ExecReport>>,
    /// Jobs that wait for the same candidate's evaluation.
    followers: HashMap<Key, Vec<ExecJob>>,
    /// Answers for the orchestrator, sent together at the end of a handler.
    outbox: Vec<ExecutedItem>,
}

pub struct Pool;

impl Actor for Pool {
    type Msg = PoolMsg;
    type State = PoolState;
    type Arguments = PoolArgs;

    async fn pre_start(&self, myself: ActorRef<PoolMsg>, args: PoolArgs) -> Result<PoolState, ActorProcessingErr> {
        let mut slots = Vec::new();
        for number in 0..args.workers {
            let actor = spawn(&args, number, &myself).await?;
            slots.push(Slot { actor, job: None, deaths: Deaths::new(Role::Executor) });
        }
        Ok(PoolState {
            args,
            slots,
            waiting: VecDeque::new(),
            verdicts: HashMap::new(),
            followers: HashMap::new(),
            outbox: Vec::new(),
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<PoolMsg>,
        message: PoolMsg,
        state: &mut PoolState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PoolMsg::Execute(jobs) => jobs.into_iter().for_each(|job| state.take(job)),
            PoolMsg::Cancel(rollouts) => state.cancel(&rollouts),
            PoolMsg::Done { number, item } => state.done(number, item),
            PoolMsg::KillExecutor { number } => {
                if let Some(slot) = state.slots.get(number as usize) {
                    slot.actor.kill();
                }
            }
        }
        state.dispatch();
        state.post();
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<PoolMsg>,
        event: SupervisionEvent,
        state: &mut PoolState,
    ) -> Result<(), ActorProcessingErr> {
        let (who, reason) = match event {
            SupervisionEvent::ActorFailed(who, error) => (who, error.to_string()),
            SupervisionEvent::ActorTerminated(who, _, reason) => (who, reason.unwrap_or_else(|| "was killed".into())),
            _ => return Ok(()),
        };
        let found = state.slots.iter().position(|slot| slot.actor.get_id() == who.get_id());
        let Some(number) = found else { return Ok(()) };
        let slot = &mut state.slots[number];
        let verdict = slot.deaths.on_death(Instant::now());
        if let Some(job) = slot.job.take() {
            let fault = fault(EXECUTOR_LOST, format!("executor {number} died: {reason}"));
            state.fail(job, &fault);
        }
        tracing::warn!(executor = number, %reason, ?verdict, "an executor died");
        match verdict {
            Verdict::Restart { .. } => {
                state.slots[number].actor = spawn(&state.args, number as u32, &myself).await?;
                state.dispatch();
                state.post();
                Ok(())
            }
            Verdict::EndRun { code } => Err(format!("{code}: executor {number} keeps dying: {reason}").into()),
        }
    }
}

async fn spawn(
    args: &PoolArgs,
    number: u32,
    pool: &ActorRef<PoolMsg>,
) -> Result<ActorRef<ExecutorMsg>, ActorProcessingErr> {
    let worker = ExecutorArgs { number, factory: args.factory.clone(), pool: pool.clone(), deadline: args.deadline };
    let supervisor: ActorCell = pool.get_cell();
    let (actor, _handle) = ractor::Actor::spawn_linked(None, Executor, worker, supervisor).await?;
    Ok(actor)
}

fn key(job: &ExecJob) -> Option<Key> {
    job.candidate().map(|candidate| (job.task.id.clone(), candidate.digest.clone()))
}

impl PoolState {
    fn take(&mut self, job: ExecJob) {
        if self.args.reuse_verdicts
            && let Some(key) = key(&job)
        {
            if let Some(report) = self.verdicts.get(&key) {
                let result = Ok(report.clone());
                self.outbox.push(ExecutedItem { rollout: job.rollout, attempt: job.attempt, result });
                return;
            }
            if let Some(followers) = self.followers.get_mut(&key) {
                followers.push(job);
                return;
            }
            self.followers.insert(key, Vec::new());
        }
        self.waiting.push_back(job);
    }

    fn done(&mut self, number: u32, item: ExecutedItem) {
        let Some(slot) = self.slots.get_mut(number as usize) else { return };
        // A late word of an executor that was replaced: its job was already reported as faulted.
        let current = slot.job.as_ref().is_some_and(|j| (j.rollout, j.attempt) == (item.rollout, item.attempt));
        if !current {
            return;
        }
        let Some(job) = slot.job.take() else { return };
        match &item.result {
            Err(fault) => {
                let fault = fault.clone();
                self.fail(job, &fault);
            }
            Ok(report) => {
                if let Some(key) = key(&job).filter(|_| self.args.reuse_verdicts) {
                    for follower in self.followers.remove(&key).unwrap_or_default() {
                        let result = Ok(reused(report));
                        self.outbox.push(ExecutedItem { rollout: follower.rollout, attempt: follower.attempt, result });
                    }
                    if self.verdicts.len() < self.args.verdicts_max {
                        self.verdicts.insert(key, remembered(report));
                    }
                }
                self.outbox.push(item);
            }
        }
    }

    /// A fault is the job's own; whoever waited for the same candidate tries for itself.
    fn fail(&mut self, job: ExecJob, fault: &rollout::outcome::Fault) {
        self.release_followers(&job);
        let result = Err(fault.clone());
        self.outbox.push(ExecutedItem { rollout: job.rollout, attempt: job.attempt, result });
    }

    /// The first follower takes the job's place at the head of the queue.
    fn release_followers(&mut self, job: &ExecJob) {
        let Some(key) = key(job) else { return };
        let Some(mut followers) = self.followers.remove(&key) else { return };
        if followers.is_empty() {
            return;
        }
        let next = followers.remove(0);
        self.followers.insert(key, followers);
        self.waiting.push_front(next);
    }

    fn cancel(&mut self, rollouts: &[RolloutId]) {
        let unwanted = |job: &ExecJob| rollouts.contains(&job.rollout);
        for followers in self.followers.values_mut() {
            followers.retain(|job| !unwanted(job));
        }
        let (gone, kept): (VecDeque<ExecJob>, VecDeque<ExecJob>) = self.waiting.drain(..).partition(unwanted);
        self.waiting = kept;
        gone.iter().for_each(|job| self.release_followers(job));
    }

    fn dispatch(&mut self) {
        for slot in &mut self.slots {
            if slot.job.is_none() {
                let Some(job) = self.waiting.pop_front() else { return };
                if slot.actor.cast(ExecutorMsg::Execute(job.clone())).is_ok() {
                    slot.job = Some(job);
                } else {
                    // Dead, and its supervision event is on the way.
                    self.waiting.push_front(job);
                }
            }
        }
    }

    fn post(&mut self) {
        if !self.outbox.is_empty() {
            let items = std::mem::take(&mut self.outbox);
            let _ = self.args.out.cast(OrchestratorMsg::Executed(items));
        }
    }
}

fn reused(report: &Arc<ExecReport>) -> Arc<ExecReport> {
    Arc::new(ExecReport { reused: true, ..(**report).clone() })
}
