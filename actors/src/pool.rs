//! The executors' pool: gives each idle executor the oldest waiting job, answers repeated candidates from memory, and
//! asks the LLM judge, where there is one, about what passed; its executor goes on meanwhile. Executors come and go while the
//! run goes on (`scaling`); one that is to go ends its job first.
//!
//! In a cluster the executors of other nodes are members too (`remote`): they get jobs through the head's gateway.
//!
//! Owns and supervises its own executors and the LLM judge. Killed by: one of them that keeps dying. Identical candidates
//! for one task are executed once per run (`executor.reuse_verdicts`), also when the first is still being executed; where that reached a time limit, twice.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use reward::rubric::Opinion;
use rollout::id::{Attempt, Digest, RolloutId, TaskId};
use rollout::outcome::{ExecReport, Fault, Outcome};

use crate::cluster::Link;
use crate::crew::{Saturated, VerifierFactory};
use crate::executor::{ExecJob, ExecutedItem, Executor, ExecutorArgs, ExecutorMsg, lane};
use crate::llm_judge::{LlmJudge, LlmJudgeMsg, Setup};
use crate::logbook::Logbook;
use crate::orchestrator::OrchestratorMsg;
use crate::scaling::{Advisor, Load, Scaler, ScalingConfig};
use crate::supervise::{Deaths, EXECUTOR_LOST, LLM_JUDGE_LOST, Role, Verdict, fault};
use crate::verdicts::remembered;

mod remote;
mod slots;

pub use remote::RemoteMsg;
use slots::{Hands, Slot};

/// How often the number of executors is looked at.
const TICK: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub enum PoolMsg {
    Execute(Vec<ExecJob>),
    Cancel(Vec<RolloutId>),
    /// From executor `number`.
    Done {
        number: u32,
        item: ExecutedItem,
    },
    /// From the LLM judge, about a candidate that passed.
    Judged {
        rollout: RolloutId,
        attempt: Attempt,
        result: Result<Opinion, Fault>,
    },
    /// So many executors from now on.
    Resize {
        workers: u32,
    },
    /// Looks whether there should be more or fewer, and tells the orchestrator.
    Tick {
        sent: Instant,
    },
    /// What there is to do and who does it.
    Load(RpcReplyPort<Load>),
    /// From the head's gateway.
    Remote(RemoteMsg),
    /// Which rollouts wait or run here: a node's sign of life.
    Held(RpcReplyPort<Vec<(RolloutId, Attempt)>>),
    /// For tests: kills executor `number` as a crash would.
    KillExecutor {
        number: u32,
    },
    /// For tests.
    KillLlmJudge,
}

crate::mailbox::counted!(PoolMsg, WAITING);

pub struct PoolArgs {
    pub factory: VerifierFactory,
    /// Of the devices that own executors use.
    pub saturated: Option<Saturated>,
    pub llm_judge: Option<Arc<Setup>>,
    pub workers: u32,
    /// Executors at most; beyond `workers` they come and go with the load.
    pub workers_max: u32,
    pub deadline: Duration,
    pub reuse_verdicts: bool,
    /// Verdicts kept for reuse; beyond it new ones are not remembered.
    pub verdicts_max: usize,
    /// Where nodes may join.
    pub cluster: Option<Link>,
    pub logbook: Logbook,
    pub out: ActorRef<OrchestratorMsg>,
}

/// A task and the candidate's digest: all that a verdict depends on.
type Key = (TaskId, Digest);

/// A job, and since when it waits.
struct Waiting {
    job: ExecJob,
    since: Instant,
}

/// The LLM judge and what it was asked.
struct Bench {
    actor: ActorRef<LlmJudgeMsg>,
    deaths: Deaths,
    /// What passed and waits for an opinion. The machine's credits bound it.
    asked: HashMap<(RolloutId, Attempt), (ExecJob, Arc<ExecReport>)>,
}

pub struct PoolState {
    args: PoolArgs,
    myself: ActorRef<PoolMsg>,
    /// By number; own executors first, without a gap.
    slots: BTreeMap<u32, Slot>,
    remote: remote::Remotes,
    bench: Option<Bench>,
    waiting: VecDeque<Waiting>,
    scaler: Scaler,
    advisor: Advisor,
    began: Instant,
    /// What is kept of each report has a fixed size (`verdicts`).
    verdicts: HashMap<Key, Arc<ExecReport>>,
    /// What reached a limit once, and not yet twice.
    doubted: HashSet<Key>,
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
        let mut slots = BTreeMap::new();
        for number in 0..args.workers {
            slots.insert(number, Slot::of(Hands::own(spawn(&args, number, &myself).await?)));
        }
        if let Some(link) = &args.cluster {
            link.pool_is(&myself);
        }
        myself.send_interval(TICK, || PoolMsg::Tick { sent: Instant::now() });
        let scaler = Scaler::new(ScalingConfig::between(args.workers, args.workers_max));
        let bench = match &args.llm_judge {
            None => None,
            Some(setup) => {
                let actor = spawn_llm_judge(setup, &myself).await?;
                Some(Bench { actor, deaths: Deaths::new(Role::LlmJudge), asked: HashMap::new() })
            }
        };
        Ok(PoolState {
            args,
            myself,
            slots,
            remote: remote::Remotes::default(),
            bench,
            waiting: VecDeque::new(),
            scaler,
            advisor: Advisor::default(),
            began: Instant::now(),
            verdicts: HashMap::new(),
            doubted: HashSet::new(),
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
            PoolMsg::Judged { rollout, attempt, result } => state.judged(rollout, attempt, result),
            PoolMsg::Resize { workers } => state.resize(workers).await?,
            PoolMsg::Tick { sent } => {
                let now_ms = state.began.elapsed().as_millis() as u64;
                // Asked once a look: it tells of the time since the last one.
                let saturated = state.args.saturated.as_ref().is_some_and(|saturated| saturated());
                let load = Load { saturated, ..state.load() };
                let _ = state.args.out.cast(OrchestratorMsg::Executors(state.advisor.look(now_ms, &load)));
                state.look_after_gateway();
                state.args.logbook.sample("pool", state.sample(sent));
                let own = Load { saturated, ..state.own_load() };
                if let Some(workers) = state.scaler.look(now_ms, &own) {
                    tracing::info!(?own, workers, "the number of executors changes");
                    state.args.logbook.happened("pool", "resized", format!("{workers} executors of its own"));
                    state.resize(workers).await?;
                }
            }
            PoolMsg::Load(reply) => {
                let _ = reply.send(state.load());
            }
            PoolMsg::Remote(message) => state.remote(message),
            PoolMsg::Held(reply) => {
                let _ = reply.send(state.held());
            }
            PoolMsg::KillLlmJudge => {
                if let Some(bench) = &state.bench {
                    bench.actor.kill();
                }
            }
            PoolMsg::KillExecutor { number } => {
                if let Some(Hands::Own { actor, .. }) = state.slots.get(&number).map(|slot| &slot.hands) {
                    actor.kill();
                }
            }
        }
        state.dispatch();
        state.dismiss();
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
        if state.bench.as_ref().is_some_and(|bench| bench.actor.get_id() == who.get_id()) {
            return state.replace_llm_judge(&reason).await;
        }
        let found = state.slots.iter_mut().find(|(_, slot)| slot.hands.is(who.get_id()));
        let Some((&number, slot)) = found else { return Ok(()) };
        let Hands::Own { deaths, .. } = &mut slot.hands else { return Ok(()) };
        let verdict = deaths.on_death(Instant::now());
        if let Some(job) = slot.job.take() {
            let fault = fault(EXECUTOR_LOST, format!("executor {number} died: {reason}"));
            state.fail(job, &fault);
        }
        tracing::warn!(executor = number, %reason, ?verdict, "an executor died");
        state.args.logbook.happened(lane(number), "died", &reason);
        match verdict {
            Verdict::Restart { .. } => {
                let fresh = spawn(&state.args, number, &myself).await?;
                state.args.logbook.happened(lane(number), "restarted", "");
                if let Some(Hands::Own { actor, .. }) = state.slots.get_mut(&number).map(|slot| &mut slot.hands) {
                    *actor = fresh;
                }
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
    let worker = ExecutorArgs {
        number,
        factory: args.factory.clone(),
        pool: pool.clone(),
        deadline: args.deadline,
        logbook: args.logbook.clone(),
    };
    let supervisor: ActorCell = pool.get_cell();
    let (actor, _handle) = ractor::Actor::spawn_linked(None, Executor, worker, supervisor).await?;
    Ok(actor)
}

async fn spawn_llm_judge(
    setup: &Arc<Setup>,
    pool: &ActorRef<PoolMsg>,
) -> Result<ActorRef<LlmJudgeMsg>, ActorProcessingErr> {
    Ok(LlmJudge::spawn_linked(None, LlmJudge, setup.clone(), pool.get_cell()).await?.0)
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
        self.waiting.push_back(Waiting { job, since: Instant::now() });
    }

    fn done(&mut self, number: u32, item: ExecutedItem) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        // A late word of an executor that was replaced: its job was already reported as faulted.
        let current = slot.job.as_ref().is_some_and(|j| (j.rollout, j.attempt) == (item.rollout, item.attempt));
        if !current {
            return;
        }
        let Some(job) = slot.job.take() else { return };
        slot.word(&item);
        match item.result {
            Ok(report) if self.bench.is_some() && report.outcome.is_correct() => self.ask(job, report),
            result => self.finish(job, result),
        }
    }

    /// What passed is not reported before the LLM judge has been heard.
    fn ask(&mut self, job: ExecJob, report: Arc<ExecReport>) {
        let candidate = job.candidate().cloned();
        let (Some(bench), Some(candidate)) = (self.bench.as_mut(), candidate) else {
            let fault = fault(LLM_JUDGE_LOST, "nobody to ask, or nothing to ask about");
            return self.fail(job, &fault);
        };
        let (rollout, attempt, task, pool) = (job.rollout, job.attempt, job.task.clone(), self.myself.clone());
        bench.asked.insert((rollout, attempt), (job, report));
        let reply = Box::new(move |result| drop(pool.cast(PoolMsg::Judged { rollout, attempt, result })));
        // One that just died is replaced, and what it was asked faulted, by its supervision event.
        let _ = bench.actor.cast(LlmJudgeMsg::Ask { task, candidate, reply });
    }

    fn judged(&mut self, rollout: RolloutId, attempt: Attempt, result: Result<Opinion, Fault>) {
        let asked = self.bench.as_mut().and_then(|bench| bench.asked.remove(&(rollout, attempt)));
        let Some((job, report)) = asked else { return };
        let result = result.map(|opinion| {
            let outcome = opinion.apply(report.outcome.clone());
            Arc::new(ExecReport { outcome, ..(*report).clone() })
        });
        self.finish(job, result);
    }

    /// By the table: what it was asked is faulted, and a new one starts without a memory.
    async fn replace_llm_judge(&mut self, reason: &str) -> Result<(), ActorProcessingErr> {
        let (Some(bench), Some(setup)) = (&mut self.bench, &self.args.llm_judge) else { return Ok(()) };
        let verdict = bench.deaths.on_death(Instant::now());
        tracing::warn!(%reason, ?verdict, "the LLM judge died");
        self.args.logbook.happened("LLM judge", "died", reason);
        if let Verdict::EndRun { code } = verdict {
            return Err(format!("{code}: the LLM judge keeps dying: {reason}").into());
        }
        bench.actor = spawn_llm_judge(setup, &self.myself).await?;
        self.args.logbook.happened("LLM judge", "restarted", "");
        let mut lost: Vec<_> = bench.asked.drain().map(|(_, (job, _))| job).collect();
        lost.sort_by_key(|job| job.rollout);
        let fault = fault(LLM_JUDGE_LOST, format!("the LLM judge died: {reason}"));
        lost.into_iter().for_each(|job| self.fail(job, &fault));
        self.dispatch();
        self.post();
        Ok(())
    }

    fn finish(&mut self, job: ExecJob, result: Result<Arc<ExecReport>, Fault>) {
        match result {
            Err(fault) => self.fail(job, &fault),
            Ok(report) => {
                if self.reached_a_limit_first(&job, &report) {
                    self.release_followers(&job);
                } else if let Some(key) = key(&job).filter(|_| self.args.reuse_verdicts) {
                    for follower in self.followers.remove(&key).unwrap_or_default() {
                        let result = Ok(reused(&report));
                        self.outbox.push(ExecutedItem { rollout: follower.rollout, attempt: follower.attempt, result });
                    }
                    if self.verdicts.len() < self.args.verdicts_max {
                        self.verdicts.insert(key, remembered(&report));
                    }
                }
                let result = Ok(report);
                self.outbox.push(ExecutedItem { rollout: job.rollout, attempt: job.attempt, result });
            }
        }
    }

    /// Limits of time and memory are a machine's that others use, too: what reached one is remembered when it has done so twice.
    fn reached_a_limit_first(&mut self, job: &ExecJob, report: &ExecReport) -> bool {
        let limit = matches!(report.outcome, Outcome::TimedOut { .. } | Outcome::OutOfMemory { .. });
        let room = limit && self.args.reuse_verdicts && self.doubted.len() < self.args.verdicts_max;
        room && key(job).is_some_and(|key| self.doubted.insert(key))
    }

    /// A fault is the job's own; whoever waited for the same candidate tries for itself.
    fn fail(&mut self, job: ExecJob, fault: &Fault) {
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
        self.waiting.push_front(Waiting { job: next, since: Instant::now() });
    }

    fn cancel(&mut self, rollouts: &[RolloutId]) {
        let unwanted = |job: &ExecJob| rollouts.contains(&job.rollout);
        for followers in self.followers.values_mut() {
            followers.retain(|job| !unwanted(job));
        }
        let (gone, kept): (VecDeque<_>, VecDeque<_>) = self.waiting.drain(..).partition(|w| unwanted(&w.job));
        self.waiting = kept;
        gone.iter().for_each(|w| self.release_followers(&w.job));
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
