//! The machine: one consistent view of groups, credits, staleness, leases and batches, between `Event` and `Command`.
//!
//! `Machine::on(now_ms, Event) -> Vec<Command>` is everything. It is deterministic and total: any event at any time is
//! legal, and one that does not fit (old attempt, old epoch, wrong stage, ended rollout) changes nothing and returns
//! nothing. What it guarantees is listed in `docs/rollout-machine.md`; each guarantee is a property test
//! in `rollout/tests`. An event costs O(log in flight), a `Tick` that plus the leases that expire, `Started` and `Trained`
//! one pass over what is in flight. Memory depends on the credits and the number of tasks, not on the run's length.

mod admission;
mod audit;
mod batches;
mod config;
mod groups;
mod leases;
mod ledger;
mod stages;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::curriculum::{Curriculum, Part};
use crate::event::{Command, Event};
use crate::id::{Epoch, GroupId, PolicyVersion, RolloutId, StepId, TaskId};

pub use batches::BatchStats;
pub use config::{ConfigError, MachineConfig};
pub use ledger::Ledger;
pub use view::{GroupStats, View};

use batches::{History, Training};
use groups::Group;
use leases::Leases;
use stages::Rollout;

/// Where the run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunPhase {
    /// No `Started` yet: every other event is ignored.
    Waiting,
    Running,
    /// Nothing new starts; an outstanding training step is awaited.
    Stopping(StopCause),
    /// `Finish` was issued. In flight is nothing but the step of a learner that stayed silent. Only a `Started` with a newer epoch (a resume) is listened to.
    Finished(StopCause),
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopCause {
    /// All steps were taken.
    Completed,
    /// `Event::StopRequested`.
    Requested,
    /// More steps in a row than `retries` were given up.
    LearnerFailed,
    /// The learner stayed silent past its deadline more than `retries` times. Its step may or may not become durable,
    /// so its rollouts stay in flight; a resume settles them by the checkpoint it finds.
    LearnerOverdue,
    /// More groups in a row than `lost_groups_limit` were lost to faults.
    GroupsLost,
    /// `MachineConfig::check` fails: the run could never proceed.
    CannotProceed,
    /// The generators left `Adopt` unanswered past its deadline more than `retries` times in a row.
    GeneratorsSilent,
}

/// The whole state of a run's decisions. A snapshot is its serialised form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    config: MachineConfig,
    curriculum: Curriculum,
    phase: RunPhase,
    epoch: Option<Epoch>,
    /// The version the next batch trains.
    policy: PolicyVersion,
    /// The version every generator samples from at least.
    adopted: PolicyVersion,
    /// Set while `Adopt` is unanswered.
    adopt_deadline_ms: Option<u64>,
    /// Its deadlines missed since the generators last took a version over.
    adopt_missed: u32,
    /// The last step that closed (trained or given up).
    step: StepId,
    next_rollout: RolloutId,
    next_group: GroupId,
    rollouts: BTreeMap<RolloutId, Rollout>,
    groups: BTreeMap<GroupId, Group>,
    /// Complete groups that wait for a batch.
    ready: BTreeSet<GroupId>,
    training: Option<Training>,
    leases: Leases,
    ledger: Ledger,
    history: History,
}

impl Machine {
    /// A machine that waits for its first `Started`. Check the configuration first (`MachineConfig::check`): with one
    /// that cannot work the machine finishes at once.
    pub fn new(config: MachineConfig, tasks: Vec<TaskId>) -> Machine {
        Machine {
            curriculum: Curriculum::new(config.curriculum, config.seed, tasks),
            config,
            phase: RunPhase::Waiting,
            epoch: None,
            policy: PolicyVersion(0),
            adopted: PolicyVersion(0),
            adopt_deadline_ms: None,
            adopt_missed: 0,
            step: StepId(0),
            next_rollout: RolloutId(0),
            next_group: GroupId(0),
            rollouts: BTreeMap::new(),
            groups: BTreeMap::new(),
            ready: BTreeSet::new(),
            training: None,
            leases: Leases::default(),
            ledger: Ledger::default(),
            history: History::default(),
        }
    }

    /// Takes one event in, decides. `now_ms` is the shell's clock: milliseconds from any origin that does not change
    /// within an epoch.
    pub fn on(&mut self, now_ms: u64, event: Event) -> Vec<Command> {
        let mut out = Vec::new();
        let listening = matches!(self.phase, RunPhase::Running | RunPhase::Stopping(_));
        let changed = match event {
            Event::Started { epoch, policy, step } => self.started(now_ms, epoch, policy, step, &mut out),
            _ if !listening => false,
            Event::Tick => self.tick(now_ms, &mut out),
            Event::Sampled { rollout, attempt, oldest, tokens: _ } => {
                self.sampled(now_ms, rollout, attempt, oldest, &mut out)
            }
            Event::Judged { rollout, attempt, ruling } => self.judged(now_ms, rollout, attempt, ruling, &mut out),
            Event::Executed { rollout, attempt, reward } => self.executed(now_ms, rollout, attempt, reward, &mut out),
            Event::Faulted { rollout, attempt, code: _ } => self.faulted(now_ms, rollout, attempt, &mut out),
            Event::Trained { step, policy, applied } => self.trained(now_ms, step, policy, applied, &mut out),
            Event::TrainFaulted { step, attempt, code: _ } => self.train_faulted(now_ms, step, attempt, &mut out),
            Event::Adopted { policy } => self.adopted(policy),
            Event::StopRequested => self.stop_requested(&mut out),
        };
        if changed {
            self.settle(now_ms, &mut out);
        }
        out
    }

    /// What became of every rollout.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub fn config(&self) -> &MachineConfig {
        &self.config
    }

    /// A mixture (see [`Curriculum::with_mixture`]): `fresh` before the first event of a run, not where its machine was read back.
    pub fn set_mixture(&mut self, mixture: &[Part], fresh: bool) {
        match fresh {
            true => self.curriculum = self.curriculum.clone().with_mixture(mixture),
            false => self.curriculum.set_mixture(mixture),
        }
    }

    pub fn curriculum(&self) -> &Curriculum {
        &self.curriculum
    }

    pub fn phase(&self) -> RunPhase {
        self.phase
    }

    /// The epoch of the last `Started`; `troupe resume` sends the next one.
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// The version the next batch trains.
    pub fn policy(&self) -> PolicyVersion {
        self.policy
    }

    /// The last step that closed.
    pub fn step(&self) -> StepId {
        self.step
    }

    /// A process started. What the checkpoint already holds counts as trained; the rest in flight is issued again.
    fn started(
        &mut self,
        now_ms: u64,
        epoch: Epoch,
        policy: PolicyVersion,
        step: StepId,
        out: &mut Vec<Command>,
    ) -> bool {
        if self.epoch.is_some_and(|last| epoch <= last) {
            return false;
        }
        self.epoch = Some(epoch);
        self.phase = RunPhase::Running;
        self.history.new_epoch();
        if let Some(outstanding) = self.training.as_ref().map(|training| training.step)
            && outstanding <= step
        {
            self.close_trained(outstanding, true, out);
        }
        self.step = self.step.max(step);
        self.policy = policy;
        self.adopted = policy;
        self.adopt_deadline_ms = None;
        self.adopt_missed = 0;
        if self.config.check(self.curriculum.tasks().len()).is_err() {
            self.stop(StopCause::CannotProceed, out);
            return true;
        }
        self.sweep(out);
        self.reissue_rollouts(now_ms, out);
        if let Some(training) = &mut self.training {
            training.overdue = 0;
        }
        self.reissue_training(now_ms, out);
        true
    }

    /// Leases expire: work that is overdue counts as faulted.
    fn tick(&mut self, now_ms: u64, out: &mut Vec<Command>) -> bool {
        let mut changed = false;
        for rollout in self.leases.expired(now_ms) {
            changed |= self.lease_expired(now_ms, rollout, out);
        }
        if let Some(training) = &self.training
            && training.deadline_ms <= now_ms
        {
            self.train_overdue(now_ms, out);
            changed = true;
        }
        if self.adopt_deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now_ms) {
            self.adopt_overdue(now_ms, out);
            changed = true;
        }
        changed
    }

    fn stop_requested(&mut self, out: &mut Vec<Command>) -> bool {
        if self.phase != RunPhase::Running {
            return false;
        }
        self.stop(StopCause::Requested, out);
        true
    }

    /// Drops what is in flight, except an outstanding training step, and starts nothing more.
    fn stop(&mut self, cause: StopCause, out: &mut Vec<Command>) {
        self.phase = RunPhase::Stopping(cause);
        self.drop_waiting_groups(out);
    }

    /// After any change: cut a batch, start groups, or finish.
    fn settle(&mut self, now_ms: u64, out: &mut Vec<Command>) {
        if self.phase == RunPhase::Running {
            if self.step.0 >= self.config.steps && self.training.is_none() {
                self.stop(StopCause::Completed, out);
            } else {
                self.cut(now_ms, out);
                self.admit(now_ms, out);
            }
        }
        if let RunPhase::Stopping(cause) = self.phase
            && self.training.as_ref().is_none_or(|training| training.overdue > self.config.retries)
        {
            self.phase = RunPhase::Finished(cause);
            self.adopt_deadline_ms = None;
            out.push(Command::Finish);
        }
    }
}
