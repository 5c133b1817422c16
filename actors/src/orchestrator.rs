//! The orchestrator: turns what actors report into events, hands them to the machine (or the evaluation plan), and
//! turns the commands that come back into messages. It decides nothing itself.
//!
//! Owns the machine, the payloads of rollouts in flight, and the other actors, which it supervises by the table in
//! `supervise`. Every event and its consequences go to the store before any command leaves. It waits only for a full
//! store channel (bounded, `StoreConfig::send_deadline_ms`). Killed by: nothing of its own; its death ends the run,
//! which `troupe resume` continues.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use rollout::event::Event;
use rollout::id::{Attempt, PolicyVersion, RolloutId, StepId};
use rollout::outcome::Fault;
use tokio::sync::oneshot;

use crate::crew::{Crew, SampledItem, TaskEntry, TrainError, TrainedItem};
use crate::driver::PhaseSpec;
use crate::executor::ExecutedItem;
use crate::flow::Flow;
use crate::generator::{self, Adoption, GeneratorMsg};
use crate::judge::{self, JudgeMsg, JudgedItem};
use crate::learner::{self, LearnerMsg, Pen};
use crate::logbook::{Logbook, Span};
use crate::observe::{Observer, Progress, Source};
use crate::outbox::{Outbox, Stage};
use crate::pool::{self, PoolMsg};
use crate::scaling::Hint;
use crate::store::{StoreError, StoreHandle};
use crate::supervise::{Deaths, ORCHESTRATOR_LOST, Role, STORE_FAILED, Verdict, code, fault};
use crate::wiring::{self, Capacities};

#[derive(Debug)]
pub enum OrchestratorMsg {
    /// Starts the first phase.
    Begin,
    Sampled(Vec<SampledItem>),
    /// The generator cannot sample this one.
    Refused {
        rollout: RolloutId,
        attempt: Attempt,
        fault: Fault,
    },
    Judged(Vec<JudgedItem>),
    Executed(Vec<ExecutedItem>),
    Trained(Box<TrainedItem>),
    TrainFailed {
        step: StepId,
        attempt: Attempt,
        error: TrainError,
    },
    Adopted {
        policy: PolicyVersion,
    },
    /// Everything before this training command is durable (or never will be).
    Durable {
        step: StepId,
        attempt: Attempt,
        result: Result<(), String>,
    },
    Tick {
        sent: Instant,
    },
    Stop(StopReason),
    /// From the pool, about once a second.
    Executors(Hint),
    /// For tests: kills an actor as a crash would.
    Kill(Role),
}

crate::mailbox::counted!(OrchestratorMsg, WAITING);

/// Why a run is asked to stop before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Ctrl-C: nothing else is started either.
    User,
    /// `run.time_limit_s`: RL ends, the evaluation after it still happens.
    TimeLimit,
    /// The LLM judge may ask no more: as with the time limit.
    JudgeBudget,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum RunEnd {
    Completed,
    /// Stopped by the user; `troupe resume` goes on.
    Stopped,
    /// A fault of ours; the store is consistent and `troupe resume` goes on.
    Failed {
        fault: Fault,
        disk_full: bool,
    },
}

pub struct OrchestratorArgs {
    pub crew: Crew,
    pub capacities: Capacities,
    pub tasks: Vec<Arc<TaskEntry>>,
    pub phases: Vec<PhaseSpec>,
    pub store: StoreHandle,
    pub observer: Arc<dyn Observer>,
    pub reward: reward::RewardConfig,
    /// What the generators sample from at first.
    pub start: Adoption,
    /// Milliseconds of RL after which it stops; 0 = none. Counts over all epochs.
    pub time_limit_ms: u64,
    /// Distance of `Tick`s.
    pub tick: Duration,
    pub done: oneshot::Sender<RunEnd>,
}

pub struct OrchestratorState {
    flow: Flow,
    actors: Actors,
    crew: Crew,
    capacities: Capacities,
    observer: Arc<dyn Observer>,
    logbook: Logbook,
    /// The step that the learner has.
    step: Option<Span>,
    done: Option<oneshot::Sender<RunEnd>>,
}

struct Actors {
    generator: (ActorRef<GeneratorMsg>, Deaths),
    judge: (ActorRef<JudgeMsg>, Deaths),
    pool: (ActorRef<PoolMsg>, Deaths),
    /// Started with the RL phase.
    learner: Option<ActorRef<LearnerMsg>>,
    learner_deaths: Deaths,
    pen: Pen,
}

pub struct Orchestrator;

impl Actor for Orchestrator {
    type Msg = OrchestratorMsg;
    type State = OrchestratorState;
    type Arguments = OrchestratorArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<OrchestratorMsg>,
        args: OrchestratorArgs,
    ) -> Result<OrchestratorState, ActorProcessingErr> {
        let logbook = Logbook::start(args.store.clone())?;
        args.observer.may_look(Source::Logbook(logbook.glance()));
        logbook.happened("orchestrator", "started", format!("policy {}", args.start.policy));
        let start = Adoption { weights: args.start.weights.clone(), policy: args.start.policy };
        let generator = wiring::spawn_generator(&args.crew, &args.capacities, start, &myself).await?;
        let judge = wiring::spawn_judge(&args.capacities, &myself).await?;
        let pool = wiring::spawn_pool(&args.crew, &args.capacities, &logbook, &myself).await?;
        // Dropped with the actor: the timer ends when its target is gone.
        drop(myself.send_interval(args.tick, || OrchestratorMsg::Tick { sent: Instant::now() }));
        let flow = Flow::new(
            args.tasks,
            args.phases,
            args.store,
            args.observer.clone(),
            args.reward,
            args.start,
            args.time_limit_ms,
        );
        Ok(OrchestratorState {
            flow,
            actors: Actors {
                generator: (generator, Deaths::new(Role::Generator)),
                judge: (judge, Deaths::new(Role::Judge)),
                pool: (pool, Deaths::new(Role::Pool)),
                learner: None,
                learner_deaths: Deaths::new(Role::Learner),
                pen: args.crew.pen.clone(),
            },
            crew: args.crew,
            capacities: args.capacities,
            observer: args.observer,
            logbook,
            step: None,
            done: Some(args.done),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<OrchestratorMsg>,
        message: OrchestratorMsg,
        state: &mut OrchestratorState,
    ) -> Result<(), ActorProcessingErr> {
        if state.done.is_none() {
            return Ok(());
        }
        match message {
            OrchestratorMsg::Begin => state.flow.next_phase(),
            OrchestratorMsg::Sampled(items) => items.into_iter().for_each(|item| state.flow.sampled(item)),
            OrchestratorMsg::Refused { rollout, attempt, fault } => {
                state.flow.faulted(rollout, attempt, Stage::Sample, fault);
            }
            OrchestratorMsg::Judged(items) => items.into_iter().for_each(|item| state.flow.judged(item)),
            OrchestratorMsg::Executed(items) => items.into_iter().for_each(|item| state.flow.executed(item)),
            OrchestratorMsg::Trained(item) => {
                state.step_ended("step");
                state.flow.trained(*item);
            }
            OrchestratorMsg::TrainFailed { step, attempt, error } => {
                state.step_ended(&error.fault.code);
                if error.fatal {
                    state.end(RunEnd::Failed { fault: error.fault, disk_full: true });
                    return Ok(());
                }
                state.flow.train_failed(step, attempt, error.fault);
            }
            OrchestratorMsg::Adopted { policy } => {
                state.logbook.happened("generators", "adopted", format!("policy {policy}"));
                state.flow.event(Event::Adopted { policy });
            }
            OrchestratorMsg::Durable { step, attempt, result } => state.flow.durable(step, attempt, result.is_ok()),
            OrchestratorMsg::Tick { sent } => {
                state.flow.tick();
                let dropped = state.logbook.dropped();
                let mut sample = state.flow.sample(sent, dropped);
                for (name, waiting) in [
                    ("mailbox_orchestrator", &WAITING),
                    ("mailbox_generators", &generator::WAITING),
                    ("mailbox_judge", &judge::WAITING),
                    ("mailbox_pool", &pool::WAITING),
                    ("mailbox_learner", &learner::WAITING),
                ] {
                    sample[name] = waiting.get().into();
                }
                state.logbook.sample("run", sample);
            }
            OrchestratorMsg::Executors(hint) => state.flow.executors(hint),
            OrchestratorMsg::Stop(reason) => state.flow.stop(reason),
            OrchestratorMsg::Kill(role) => state.kill(role),
        }
        state.settle(&myself).await
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<OrchestratorMsg>,
        event: SupervisionEvent,
        state: &mut OrchestratorState,
    ) -> Result<(), ActorProcessingErr> {
        let (who, reason) = match event {
            SupervisionEvent::ActorFailed(who, error) => (who, error.to_string()),
            SupervisionEvent::ActorTerminated(who, _, reason) => (who, reason.unwrap_or_else(|| "was killed".into())),
            _ => return Ok(()),
        };
        if state.done.is_none() {
            return Ok(());
        }
        let Some(role) = state.role_of(&who) else { return Ok(()) };
        state.replace(role, &reason, &myself).await?;
        state.settle(&myself).await
    }
}

impl OrchestratorState {
    /// Sends what the handler decided.
    async fn settle(&mut self, myself: &ActorRef<OrchestratorMsg>) -> Result<(), ActorProcessingErr> {
        if self.flow.wants_learner() && self.actors.learner.is_none() {
            let learner = wiring::spawn_learner(&self.crew, &self.capacities, &self.actors.pen, myself).await?;
            self.actors.learner = Some(learner);
        }
        if let Err(error) = self.flow.flush_store() {
            let disk_full = error.disk_full();
            self.end(RunEnd::Failed { fault: fault(STORE_FAILED, error), disk_full });
            return Ok(());
        }
        let outbox = self.flow.take_outbox();
        if let Err(error) = self.post(outbox, myself) {
            self.end(RunEnd::Failed { fault: fault(STORE_FAILED, error), disk_full: false });
            return Ok(());
        }
        if let Some(end) = self.flow.take_end() {
            self.end(end);
        }
        Ok(())
    }

    fn step_ended(&mut self, ending: &str) {
        if let Some(span) = self.step.take() {
            span.end(ending);
        }
    }

    /// A message to an actor that just died is lost; its supervision event faults what it held.
    fn post(&mut self, outbox: Outbox, myself: &ActorRef<OrchestratorMsg>) -> Result<(), StoreError> {
        let Outbox { adopt, unsample, samples, judges, unexecute, executes, barrier, train } = outbox;
        if !unsample.is_empty() {
            let _ = self.actors.generator.0.cast(GeneratorMsg::Cancel(unsample));
        }
        if let Some(adoption) = adopt {
            let _ = self.actors.generator.0.cast(GeneratorMsg::Adopt(adoption));
        }
        if !samples.is_empty() {
            let _ = self.actors.generator.0.cast(GeneratorMsg::Sample(samples));
        }
        if !judges.is_empty() {
            let _ = self.actors.judge.0.cast(JudgeMsg::Judge(judges));
        }
        if !unexecute.is_empty() {
            let _ = self.actors.pool.0.cast(PoolMsg::Cancel(unexecute));
        }
        if !executes.is_empty() {
            let _ = self.actors.pool.0.cast(PoolMsg::Execute(executes));
        }
        if let Some((step, attempt)) = barrier {
            let to = myself.clone();
            self.flow.store().barrier(Box::new(move |result| {
                let _ = to.cast(OrchestratorMsg::Durable { step, attempt, result });
            }))?;
        }
        if let (Some(job), Some(learner)) = (train, &self.actors.learner) {
            let mut span = self.logbook.begin("learner", None, Some(job.attempt.0));
            span.stage(&format!("step {}", job.step));
            self.step = Some(span);
            let _ = learner.cast(LearnerMsg::Train(job));
        }
        Ok(())
    }

    fn role_of(&self, who: &ActorCell) -> Option<Role> {
        let id = who.get_id();
        if id == self.actors.generator.0.get_id() {
            Some(Role::Generator)
        } else if id == self.actors.judge.0.get_id() {
            Some(Role::Judge)
        } else if id == self.actors.pool.0.get_id() {
            Some(Role::Pool)
        } else if self.actors.learner.as_ref().is_some_and(|learner| id == learner.get_id()) {
            Some(Role::Learner)
        } else {
            None
        }
    }

    /// Follows the supervision table for a dead actor.
    async fn replace(
        &mut self,
        role: Role,
        reason: &str,
        myself: &ActorRef<OrchestratorMsg>,
    ) -> Result<(), ActorProcessingErr> {
        let deaths = match role {
            Role::Generator => &mut self.actors.generator.1,
            Role::Judge => &mut self.actors.judge.1,
            Role::Pool | Role::Executor | Role::LlmJudge => &mut self.actors.pool.1,
            Role::Learner => &mut self.actors.learner_deaths,
        };
        let verdict = deaths.on_death(Instant::now());
        let lost = fault(code(role), format!("{role:?} died: {reason}"));
        tracing::warn!(?role, reason, ?verdict, "an actor died");
        self.logbook.happened(role.name(), "died", reason);
        self.flow.note_fault(None, &lost);
        if let Verdict::EndRun { .. } = verdict {
            self.end(RunEnd::Failed { fault: lost, disk_full: false });
            return Ok(());
        }
        match role {
            Role::Generator => {
                let start = self.flow.newest();
                self.actors.generator.0 = wiring::spawn_generator(&self.crew, &self.capacities, start, myself).await?;
                self.flow.announce_newest();
                self.flow.stage_lost(Stage::Sample, &lost);
            }
            Role::Judge => {
                self.actors.judge.0 = wiring::spawn_judge(&self.capacities, myself).await?;
                self.flow.stage_lost(Stage::Judge, &lost);
            }
            Role::Pool | Role::Executor | Role::LlmJudge => {
                self.actors.pool.0 = wiring::spawn_pool(&self.crew, &self.capacities, &self.logbook, myself).await?;
                self.flow.stage_lost(Stage::Execute, &lost);
            }
            Role::Learner => {
                let learner = wiring::spawn_learner(&self.crew, &self.capacities, &self.actors.pen, myself).await?;
                self.actors.learner = Some(learner);
                self.step = None;
                self.flow.learner_lost(&lost);
            }
        }
        self.logbook.happened(role.name(), "restarted", "");
        Ok(())
    }

    fn kill(&self, role: Role) {
        match role {
            Role::Generator => self.actors.generator.0.kill(),
            Role::Judge => self.actors.judge.0.kill(),
            Role::Pool => self.actors.pool.0.kill(),
            Role::Executor => {
                let _ = self.actors.pool.0.cast(PoolMsg::KillExecutor { number: 0 });
            }
            Role::LlmJudge => {
                let _ = self.actors.pool.0.cast(PoolMsg::KillLlmJudge);
            }
            Role::Learner => {
                if let Some(learner) = &self.actors.learner {
                    learner.kill();
                }
            }
        }
    }

    fn end(&mut self, end: RunEnd) {
        if let RunEnd::Failed { fault, .. } = &end {
            self.observer.on(Progress::Fault { code: fault.code.clone(), message: fault.message.clone() });
        }
        if let Some(done) = self.done.take() {
            let _ = done.send(end);
        }
    }
}

/// The fault of a run whose orchestrator is gone.
pub fn orchestrator_lost() -> Fault {
    fault(ORCHESTRATOR_LOST, "the orchestrator died; the store is consistent")
}
