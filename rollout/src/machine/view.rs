//! The view: what a person or a metrics file wants to know, computed on demand in one pass over what is in flight.

use serde::{Deserialize, Serialize};

use super::stages::Stage;
use super::{BatchStats, Ledger, Machine, RunPhase};
use crate::id::{Epoch, PolicyVersion, StepId};

/// Counts for progress and metrics. Rollouts unless said otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    pub phase: RunPhase,
    pub epoch: Option<Epoch>,
    /// The version the next batch trains, and the one every generator samples from at least.
    pub policy: PolicyVersion,
    pub adopted: PolicyVersion,
    /// The last step that closed, of `steps`.
    pub step: StepId,
    pub steps: u64,
    pub sampling: u64,
    pub judging: u64,
    pub executing: u64,
    /// Scored, in a group that is not complete yet.
    pub scored: u64,
    /// In complete groups that wait for a batch.
    pub ready: u64,
    /// In the outstanding batch.
    pub training: u64,
    pub credits: u64,
    pub credits_in_use: u64,
    pub groups: GroupStats,
    pub steps_applied: u64,
    /// Steps with a non-finite loss or gradient, and steps given up because the learner failed.
    pub steps_skipped: u64,
    pub steps_given_up: u64,
    /// The last batches, oldest first, at most 16; the newest may still be outstanding.
    pub batches: Vec<BatchStats>,
    pub ledger: Ledger,
}

/// Counts of groups.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupStats {
    pub live: u64,
    pub ready: u64,
    pub training: u64,
    /// Complete groups over the whole run, and how many of them had no variance.
    pub completed: u64,
    pub zero_variance: u64,
    /// Share of zero variance among the last complete groups (at most 256); 0 before the first.
    pub zero_variance_rate: f64,
}

impl Machine {
    pub fn view(&self) -> View {
        let (mut sampling, mut judging, mut executing) = (0, 0, 0);
        let (mut scored, mut ready, mut training) = (0, 0, 0);
        for rollout in self.rollouts.values() {
            match rollout.stage {
                Stage::Sampling { .. } => sampling += 1,
                Stage::Judging { .. } => judging += 1,
                Stage::Executing { .. } => executing += 1,
                Stage::Scored { .. } if self.ready.contains(&rollout.group) => ready += 1,
                Stage::Scored { .. } if self.groups.get(&rollout.group).is_some_and(|g| g.training) => training += 1,
                Stage::Scored { .. } => scored += 1,
            }
        }
        View {
            phase: self.phase,
            epoch: self.epoch,
            policy: self.policy,
            adopted: self.adopted,
            step: self.step,
            steps: self.config.steps,
            sampling,
            judging,
            executing,
            scored,
            ready,
            training,
            credits: u64::from(self.config.credits),
            credits_in_use: self.rollouts.len() as u64,
            groups: self.group_stats(),
            steps_applied: self.history.steps_applied,
            steps_skipped: self.history.steps_skipped,
            steps_given_up: self.history.steps_given_up,
            batches: self.history.batches.iter().cloned().collect(),
            ledger: self.ledger.clone(),
        }
    }

    fn group_stats(&self) -> GroupStats {
        let recent = &self.history.zero_variance;
        let zero = recent.iter().filter(|&&zero_variance| zero_variance).count();
        GroupStats {
            live: self.groups.len() as u64,
            ready: self.ready.len() as u64,
            training: self.training.as_ref().map_or(0, |training| training.groups.len() as u64),
            completed: self.history.groups_total,
            zero_variance: self.history.zero_variance_total,
            zero_variance_rate: if recent.is_empty() { 0.0 } else { zero as f64 / recent.len() as f64 },
        }
    }
}
