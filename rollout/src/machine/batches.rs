//! Batches: cutting one, the outstanding training step, and what is remembered of past ones.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::config::MachineConfig;
use super::stages::{Rollout, Stage};
use super::{Machine, RunPhase, StopCause};
use crate::event::{Command, DropReason, Ending, Overdue, TrainGroup};
use crate::id::{Attempt, GroupId, PolicyVersion, StepId};

/// Batches and groups the history keeps.
const BATCHES_KEPT: usize = 16;
const GROUPS_KEPT: usize = 256;

/// The outstanding training step. Its groups stay the same however often it is issued.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Training {
    pub(super) step: StepId,
    pub(super) attempt: Attempt,
    pub(super) faults: u32,
    /// Deadlines missed since the last resume.
    pub(super) overdue: u32,
    pub(super) deadline_ms: u64,
    pub(super) groups: Vec<GroupId>,
}

/// One batch as it was cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchStats {
    pub step: StepId,
    /// The version it trains; staleness is counted from it.
    pub policy: PolicyVersion,
    pub groups: u64,
    pub rollouts: u64,
    /// Rollouts by staleness in versions.
    pub staleness: BTreeMap<u64, u64>,
}

/// What is remembered of the past, bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct History {
    pub(super) batches: VecDeque<BatchStats>,
    /// The last complete groups, oldest first: true where all rewards were equal.
    pub(super) zero_variance: VecDeque<bool>,
    pub(super) zero_variance_total: u64,
    pub(super) groups_total: u64,
    pub(super) steps_applied: u64,
    pub(super) steps_skipped: u64,
    pub(super) steps_given_up: u64,
    /// The first group that did not exist when the last step closed.
    first_of_step: GroupId,
    lost_in_row: u32,
    given_up_in_row: u32,
}

impl Machine {
    /// Cuts a batch when the learner is free and enough groups are complete: the lowest group ids, which are the
    /// oldest. None of them is too stale, `sweep` saw to that.
    pub(super) fn cut(&mut self, now_ms: u64, out: &mut Vec<Command>) {
        let groups_per_step = self.config.groups_per_step as usize;
        if self.training.is_some() || self.ready.len() < groups_per_step {
            return;
        }
        let groups: Vec<GroupId> = self.ready.iter().copied().take(groups_per_step).collect();
        for id in &groups {
            self.ready.remove(id);
            if let Some(group) = self.groups.get_mut(id) {
                group.training = true;
            }
        }
        let step = StepId(self.step.0 + 1);
        let stats = self.batch_stats(step, &groups);
        self.history.batch_cut(stats);
        self.training = Some(Training { step, attempt: Attempt(0), faults: 0, overdue: 0, deadline_ms: 0, groups });
        self.reissue_training(now_ms, out);
    }

    /// Issues the outstanding step, with the next attempt.
    pub(super) fn reissue_training(&mut self, now_ms: u64, out: &mut Vec<Command>) {
        let deadline_ms = now_ms.saturating_add(self.config.train_deadline_ms);
        let Some(training) = &mut self.training else { return };
        training.attempt.0 += 1;
        training.deadline_ms = deadline_ms;
        let (step, attempt) = (training.step, training.attempt);
        let groups = self.train_groups();
        out.push(Command::Train { step, attempt, groups });
    }

    pub(super) fn trained(
        &mut self,
        now_ms: u64,
        step: StepId,
        policy: PolicyVersion,
        applied: bool,
        out: &mut Vec<Command>,
    ) -> bool {
        if self.training.as_ref().is_none_or(|training| training.step != step) {
            return false;
        }
        self.close_trained(step, applied, out);
        self.policy = self.policy.max(policy);
        self.announce(now_ms, out);
        self.sweep(out);
        true
    }

    /// The learner said nothing in time: the same step again, or the run stops. The step is never given up for that: a
    /// silent learner may still make it durable.
    pub(super) fn train_overdue(&mut self, now_ms: u64, out: &mut Vec<Command>) {
        let Some(training) = &mut self.training else { return };
        training.overdue += 1;
        out.push(Command::Overdue(Overdue::Step { step: training.step, attempt: training.attempt }));
        if training.overdue <= self.config.retries {
            self.reissue_training(now_ms, out);
        } else if self.phase == RunPhase::Running {
            self.stop(StopCause::LearnerOverdue, out);
        }
    }

    /// The learner failed at this attempt and nothing is durable: the same step again, or it is given up.
    pub(super) fn train_faulted(
        &mut self,
        now_ms: u64,
        step: StepId,
        attempt: Attempt,
        out: &mut Vec<Command>,
    ) -> bool {
        let retries = self.config.retries;
        let Some(training) = &mut self.training else { return false };
        if training.step != step || training.attempt != attempt {
            return false;
        }
        training.faults += 1;
        if training.faults <= retries {
            self.reissue_training(now_ms, out);
            return true;
        }
        self.end_batch(Ending::Dropped(DropReason::LearnerFailed), out);
        self.step = step;
        self.curriculum.close_step();
        let next = self.next_group;
        if self.history.step_given_up(&self.config, next) && self.phase == RunPhase::Running {
            self.stop(StopCause::LearnerFailed, out);
        }
        true
    }

    /// The outstanding step is durable.
    pub(super) fn close_trained(&mut self, step: StepId, applied: bool, out: &mut Vec<Command>) {
        self.end_batch(Ending::Trained(step), out);
        self.step = step;
        self.curriculum.close_step();
        self.history.step_trained(applied, self.next_group);
    }

    /// `Adopt` for the newest version.
    pub(super) fn announce(&mut self, now_ms: u64, out: &mut Vec<Command>) {
        self.adopt_deadline_ms = Some(now_ms.saturating_add(self.config.adopt_deadline_ms));
        out.push(Command::Adopt { policy: self.policy });
    }

    /// No answer in time: the version is announced again, or the run stops. Without an adoption nothing new could be
    /// sampled for ever.
    pub(super) fn adopt_overdue(&mut self, now_ms: u64, out: &mut Vec<Command>) {
        out.push(Command::Overdue(Overdue::Adoption { policy: self.policy }));
        self.adopt_missed += 1;
        if self.adopt_missed <= self.config.retries {
            self.announce(now_ms, out);
            return;
        }
        self.adopt_deadline_ms = None;
        if self.phase == RunPhase::Running {
            self.stop(StopCause::GeneratorsSilent, out);
        }
    }

    /// Generators sample from `policy`. One that was never published, or is not newer, changes nothing.
    pub(super) fn adopted(&mut self, policy: PolicyVersion) -> bool {
        if policy <= self.adopted || policy > self.policy {
            return false;
        }
        self.adopted = policy;
        self.adopt_missed = 0;
        if policy == self.policy {
            self.adopt_deadline_ms = None;
        }
        true
    }

    /// Every member of the outstanding batch ends in the same way.
    fn end_batch(&mut self, ending: Ending, out: &mut Vec<Command>) {
        let Some(training) = self.training.take() else { return };
        for id in training.groups {
            let Some(group) = self.groups.remove(&id) else { continue };
            for member in group.members {
                self.end(member, ending, out);
            }
        }
    }

    fn train_groups(&self) -> Vec<TrainGroup> {
        let Some(training) = &self.training else { return Vec::new() };
        let mut groups = Vec::with_capacity(training.groups.len());
        for &id in &training.groups {
            let Some(group) = self.groups.get(&id) else { continue };
            let Some(task) = self.curriculum.name(group.task) else { continue };
            let mut members = Vec::with_capacity(group.members.len());
            for &member in &group.members {
                if let Some(Rollout { stage: Stage::Scored { reward, .. }, .. }) = self.rollouts.get(&member) {
                    members.push((member, *reward));
                }
            }
            groups.push(TrainGroup { group: id, task: task.clone(), members });
        }
        groups
    }

    fn batch_stats(&self, step: StepId, groups: &[GroupId]) -> BatchStats {
        let mut stats = BatchStats {
            step,
            policy: self.policy,
            groups: groups.len() as u64,
            rollouts: 0,
            staleness: BTreeMap::new(),
        };
        for member in groups.iter().filter_map(|id| self.groups.get(id)).flat_map(|group| &group.members) {
            if let Some(Rollout { stage: Stage::Scored { oldest, .. }, .. }) = self.rollouts.get(member) {
                stats.rollouts += 1;
                *stats.staleness.entry(self.policy.0.saturating_sub(oldest.0)).or_default() += 1;
            }
        }
        stats
    }
}

impl History {
    fn batch_cut(&mut self, stats: BatchStats) {
        self.batches.push_back(stats);
        if self.batches.len() > BATCHES_KEPT {
            self.batches.pop_front();
        }
    }

    fn step_trained(&mut self, applied: bool, next: GroupId) {
        if applied {
            self.steps_applied += 1;
        } else {
            self.steps_skipped += 1;
        }
        self.first_of_step = next;
        self.given_up_in_row = 0;
    }

    /// True when that is one too many in a row.
    fn step_given_up(&mut self, config: &MachineConfig, next: GroupId) -> bool {
        self.steps_given_up += 1;
        self.first_of_step = next;
        self.given_up_in_row += 1;
        self.given_up_in_row > config.retries
    }

    pub(super) fn group_completed(&mut self, zero_variance: bool) {
        self.groups_total += 1;
        self.zero_variance_total += u64::from(zero_variance);
        self.zero_variance.push_back(zero_variance);
        if self.zero_variance.len() > GROUPS_KEPT {
            self.zero_variance.pop_front();
        }
        self.lost_in_row = 0;
    }

    /// Whether a group without variance is dropped: not when more than the limit were started since the last step closed. By
    /// its number and not by how many were dropped, which would depend on the order they end in.
    pub(super) fn may_drop_zero_variance(&self, config: &MachineConfig, group: GroupId) -> bool {
        let limit = u64::from(config.zero_variance_limit);
        limit == 0 || group.0 < self.first_of_step.0.saturating_add(limit)
    }

    /// True when that is one too many in a row.
    pub(super) fn group_lost(&mut self, config: &MachineConfig) -> bool {
        self.lost_in_row += 1;
        config.lost_groups_limit > 0 && self.lost_in_row > config.lost_groups_limit
    }

    /// A new process gets new patience.
    pub(super) fn new_epoch(&mut self) {
        self.lost_in_row = 0;
        self.given_up_in_row = 0;
    }
}
