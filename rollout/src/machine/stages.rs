//! One rollout on its way: sampling, judging, executing, scored; attempts, faults and their limit.

use serde::{Deserialize, Serialize};

use super::Machine;
use crate::event::{Command, DropReason, Judgement, Overdue};
use crate::id::{Attempt, GroupId, PolicyVersion, RolloutId};
use crate::reward::Reward;
use crate::seed::{Stream, derive};

/// A rollout in flight. It is forgotten when it ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Rollout {
    pub(super) group: GroupId,
    /// Number of the last work issued for it; only that work's result is taken.
    pub(super) attempt: Attempt,
    /// Faults so far, over all stages. A resume is not a fault.
    pub(super) faults: u32,
    pub(super) stage: Stage,
}

/// What is being done for it. `oldest` is the version its oldest token was sampled under.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Stage {
    Sampling {
        deadline_ms: u64,
    },
    Judging {
        oldest: PolicyVersion,
        deadline_ms: u64,
    },
    Executing {
        oldest: PolicyVersion,
        deadline_ms: u64,
    },
    /// Waits for its group, then for a batch, then for the learner.
    Scored {
        oldest: PolicyVersion,
        reward: Reward,
    },
}

impl Stage {
    /// The lease's deadline, for a stage that works.
    pub(super) fn deadline_ms(&self) -> Option<u64> {
        match *self {
            Stage::Sampling { deadline_ms }
            | Stage::Judging { deadline_ms, .. }
            | Stage::Executing { deadline_ms, .. } => Some(deadline_ms),
            Stage::Scored { .. } => None,
        }
    }

    /// The version of the oldest token, once sampled.
    pub(super) fn oldest(&self) -> Option<PolicyVersion> {
        match *self {
            Stage::Sampling { .. } => None,
            Stage::Judging { oldest, .. } | Stage::Executing { oldest, .. } | Stage::Scored { oldest, .. } => {
                Some(oldest)
            }
        }
    }
}

impl Machine {
    pub(super) fn sampled(
        &mut self,
        now_ms: u64,
        id: RolloutId,
        attempt: Attempt,
        oldest: PolicyVersion,
        out: &mut Vec<Command>,
    ) -> bool {
        let Some(Stage::Sampling { .. }) = self.current(id, attempt) else { return false };
        self.enter(id, Stage::Judging { oldest, deadline_ms: 0 });
        if self.group_sampled(id, oldest, out) {
            self.issue(now_ms, id, out);
        }
        true
    }

    pub(super) fn judged(
        &mut self,
        now_ms: u64,
        id: RolloutId,
        attempt: Attempt,
        ruling: Judgement,
        out: &mut Vec<Command>,
    ) -> bool {
        let Some(Stage::Judging { oldest, .. }) = self.current(id, attempt) else { return false };
        match ruling {
            Judgement::Admitted => {
                self.enter(id, Stage::Executing { oldest, deadline_ms: 0 });
                self.issue(now_ms, id, out);
            }
            Judgement::Scored(reward) => self.scored(now_ms, id, oldest, reward, out),
            Judgement::Unscored => self.remove_member(id, DropReason::Unscored, out),
        }
        true
    }

    pub(super) fn executed(
        &mut self,
        now_ms: u64,
        id: RolloutId,
        attempt: Attempt,
        reward: Reward,
        out: &mut Vec<Command>,
    ) -> bool {
        let Some(Stage::Executing { oldest, .. }) = self.current(id, attempt) else { return false };
        self.scored(now_ms, id, oldest, reward, out);
        true
    }

    pub(super) fn faulted(&mut self, now_ms: u64, id: RolloutId, attempt: Attempt, out: &mut Vec<Command>) -> bool {
        match self.current(id, attempt) {
            None | Some(Stage::Scored { .. }) => false,
            Some(_) => {
                self.fault(now_ms, id, out);
                true
            }
        }
    }

    /// The lease is already taken out of `leases`.
    pub(super) fn lease_expired(&mut self, now_ms: u64, id: RolloutId, out: &mut Vec<Command>) -> bool {
        let Some(rollout) = self.rollouts.get(&id) else { return false };
        let attempt = rollout.attempt;
        out.push(Command::Overdue(Overdue::Rollout { rollout: id, attempt }));
        out.push(Command::Cancel { rollout: id, attempt });
        self.fault(now_ms, id, out);
        true
    }

    /// After a resume: everything that works is issued again at its stage.
    pub(super) fn reissue_rollouts(&mut self, now_ms: u64, out: &mut Vec<Command>) {
        let working: Vec<RolloutId> = self
            .rollouts
            .iter()
            .filter(|(_, rollout)| rollout.stage.deadline_ms().is_some())
            .map(|(&id, _)| id)
            .collect();
        for id in working {
            self.issue(now_ms, id, out);
        }
    }

    /// Issues the work of the rollout's stage under a new attempt and a new lease.
    pub(super) fn issue(&mut self, now_ms: u64, id: RolloutId, out: &mut Vec<Command>) {
        let Some(rollout) = self.rollouts.get_mut(&id) else { return };
        if let Some(deadline_ms) = rollout.stage.deadline_ms() {
            self.leases.release(deadline_ms, id);
        }
        rollout.attempt.0 += 1;
        let attempt = rollout.attempt;
        let lease_ms = match &mut rollout.stage {
            Stage::Sampling { deadline_ms } => {
                *deadline_ms = now_ms.saturating_add(self.config.sample_deadline_ms);
                let Some(group) = self.groups.get(&rollout.group) else { return };
                let Some(task) = self.curriculum.name(group.task) else { return };
                let seed = derive(self.config.seed, Stream::Sample, id.0);
                out.push(Command::Sample { rollout: id, attempt, group: rollout.group, task: task.clone(), seed });
                *deadline_ms
            }
            Stage::Judging { deadline_ms, .. } => {
                *deadline_ms = now_ms.saturating_add(self.config.judge_deadline_ms);
                out.push(Command::Judge { rollout: id, attempt });
                *deadline_ms
            }
            Stage::Executing { deadline_ms, .. } => {
                *deadline_ms = now_ms.saturating_add(self.config.execute_deadline_ms);
                out.push(Command::Execute { rollout: id, attempt });
                *deadline_ms
            }
            Stage::Scored { .. } => return,
        };
        self.leases.grant(lease_ms, id);
    }

    /// A score arrived. A reward that is not a number is a fault of ours, never an input to training.
    fn scored(&mut self, now_ms: u64, id: RolloutId, oldest: PolicyVersion, reward: Reward, out: &mut Vec<Command>) {
        if reward.plan.is_finite() && reward.code.is_finite() {
            self.enter(id, Stage::Scored { oldest, reward });
            self.member_scored(id, out);
        } else {
            self.fault(now_ms, id, out);
        }
    }

    /// One fault more: the same stage again, or the rollout is masked.
    fn fault(&mut self, now_ms: u64, id: RolloutId, out: &mut Vec<Command>) {
        let Some(rollout) = self.rollouts.get_mut(&id) else { return };
        rollout.faults += 1;
        if rollout.faults <= self.config.retries {
            self.issue(now_ms, id, out);
        } else {
            self.remove_member(id, DropReason::Faulted, out);
        }
    }

    /// The stage whose work `attempt` is; `None` when the rollout ended or the attempt is not its latest.
    fn current(&self, id: RolloutId, attempt: Attempt) -> Option<Stage> {
        let rollout = self.rollouts.get(&id)?;
        (rollout.attempt == attempt).then_some(rollout.stage)
    }

    /// Gives the old stage's lease back and enters the next stage, whose work is not issued yet.
    fn enter(&mut self, id: RolloutId, stage: Stage) {
        let Some(rollout) = self.rollouts.get_mut(&id) else { return };
        if let Some(deadline_ms) = rollout.stage.deadline_ms() {
            self.leases.release(deadline_ms, id);
        }
        rollout.stage = stage;
    }
}
