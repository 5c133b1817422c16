//! Groups: the rollouts drawn together for one task. They train whole or are dropped whole, and a rollout ends
//! nowhere but here and in `batches`.

use serde::{Deserialize, Serialize};

use super::stages::{Rollout, Stage};
use super::{Machine, RunPhase, StopCause};
use crate::curriculum::TaskIndex;
use crate::event::{Command, DropReason, Ending};
use crate::id::{Attempt, GroupId, PolicyVersion, RolloutId};
use crate::reward::Reward;

/// Fewest survivors of a group that can be trained on: an advantage compares answers with each other.
const SURVIVORS_MIN: usize = 2;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Group {
    pub(super) task: TaskIndex,
    /// Members not masked, ascending.
    pub(super) members: Vec<RolloutId>,
    /// How many of them have no reward yet.
    pub(super) unscored: usize,
    /// The oldest version of any of these members' tokens; `None` until one is sampled.
    pub(super) oldest: Option<PolicyVersion>,
    /// In the outstanding batch.
    pub(super) training: bool,
}

impl Machine {
    /// Starts a group: every member is sampled.
    pub(super) fn start_group(&mut self, now_ms: u64, out: &mut Vec<Command>) {
        let Some((task, _)) = self.curriculum.draw() else { return };
        let group = self.next_group;
        self.next_group.0 += 1;
        let first = self.next_rollout.0;
        let end = first + u64::from(self.config.group_size);
        self.next_rollout = RolloutId(end);
        let members: Vec<RolloutId> = (first..end).map(RolloutId).collect();
        let unscored = members.len();
        self.groups.insert(group, Group { task, members, unscored, oldest: None, training: false });
        for id in (first..end).map(RolloutId) {
            let stage = Stage::Sampling { deadline_ms: 0 };
            self.rollouts.insert(id, Rollout { group, attempt: Attempt(0), faults: 0, stage });
            self.ledger.start();
            self.issue(now_ms, id, out);
        }
    }

    /// A member's tokens are known. False when that makes the group too stale and drops it.
    pub(super) fn group_sampled(&mut self, id: RolloutId, oldest: PolicyVersion, out: &mut Vec<Command>) -> bool {
        let Some(group_id) = self.rollouts.get(&id).map(|rollout| rollout.group) else { return false };
        let Some(group) = self.groups.get_mut(&group_id) else { return false };
        group.oldest = Some(group.oldest.map_or(oldest, |known| known.min(oldest)));
        if self.is_stale(group_id) {
            self.drop_group(group_id, DropReason::Stale, out);
            return false;
        }
        true
    }

    /// A member got its reward; the last one completes the group.
    pub(super) fn member_scored(&mut self, id: RolloutId, out: &mut Vec<Command>) {
        let Some(group_id) = self.rollouts.get(&id).map(|rollout| rollout.group) else { return };
        let Some(group) = self.groups.get_mut(&group_id) else { return };
        group.unscored -= 1;
        if group.unscored == 0 {
            self.complete_group(group_id, out);
        }
    }

    /// One member ends without a reward and leaves its group; the others may go on without it.
    pub(super) fn remove_member(&mut self, id: RolloutId, reason: DropReason, out: &mut Vec<Command>) {
        let Some(group_id) = self.rollouts.get(&id).map(|rollout| rollout.group) else { return };
        self.end(id, Ending::Dropped(reason), out);
        let Some(group) = self.groups.get_mut(&group_id) else { return };
        group.members.retain(|&member| member != id);
        group.unscored -= 1;
        group.oldest = group
            .members
            .iter()
            .filter_map(|member| self.rollouts.get(member))
            .filter_map(|rollout| rollout.stage.oldest())
            .min();
        if group.members.len() < SURVIVORS_MIN {
            self.drop_group(group_id, DropReason::GroupTooSmall, out);
            if reason == DropReason::Faulted {
                self.group_lost(out);
            }
        } else if group.unscored == 0 {
            self.complete_group(group_id, out);
        }
    }

    /// R-3's sweep: drops every group with a token too old for the next batch. Runs whenever the policy's version may
    /// have changed; `group_sampled` covers what becomes known in between, so no group waiting here is ever too stale.
    pub(super) fn sweep(&mut self, out: &mut Vec<Command>) {
        let stale: Vec<GroupId> = self
            .groups
            .iter()
            .filter(|(id, group)| !group.training && self.is_stale(**id))
            .map(|(&id, _)| id)
            .collect();
        for id in stale {
            self.drop_group(id, DropReason::Stale, out);
        }
    }

    /// Drops every group that is not in the outstanding batch.
    pub(super) fn drop_waiting_groups(&mut self, out: &mut Vec<Command>) {
        let waiting: Vec<GroupId> =
            self.groups.iter().filter(|(_, group)| !group.training).map(|(&id, _)| id).collect();
        for id in waiting {
            self.drop_group(id, DropReason::Stopped, out);
        }
    }

    /// A rollout ends, once: it is forgotten, so nothing can end it again.
    pub(super) fn end(&mut self, id: RolloutId, ending: Ending, out: &mut Vec<Command>) {
        let Some(rollout) = self.rollouts.remove(&id) else { return };
        if let Some(deadline_ms) = rollout.stage.deadline_ms() {
            self.leases.release(deadline_ms, id);
        }
        self.ledger.end(ending);
        out.push(Command::End { rollout: id, ending });
    }

    fn complete_group(&mut self, id: GroupId, out: &mut Vec<Command>) {
        let Some(group) = self.groups.get(&id) else { return };
        let mut rewards = Vec::with_capacity(group.members.len());
        for member in &group.members {
            if let Some(Rollout { stage: Stage::Scored { reward, .. }, .. }) = self.rollouts.get(member) {
                rewards.push(*reward);
            }
        }
        let zero_variance = no_variance(&rewards);
        let solved = rewards.iter().filter(|reward| reward.code > 0.0).count();
        self.curriculum.report(group.task, rewards.len() as u64, solved as u64);
        self.history.group_completed(zero_variance);
        if zero_variance && self.config.drop_zero_variance && self.history.may_drop_zero_variance(&self.config, id) {
            self.drop_group(id, DropReason::ZeroVariance, out);
        } else {
            self.ready.insert(id);
        }
    }

    /// A group was lost to faults; too many in a row stop the run.
    fn group_lost(&mut self, out: &mut Vec<Command>) {
        if self.history.group_lost(&self.config) && self.phase == RunPhase::Running {
            self.stop(StopCause::GroupsLost, out);
        }
    }

    fn is_stale(&self, id: GroupId) -> bool {
        let oldest = self.groups.get(&id).and_then(|group| group.oldest);
        oldest.is_some_and(|oldest| self.policy.0.saturating_sub(oldest.0) > self.config.staleness_max)
    }

    /// Ends every member for `reason`, cancels those at work, and gives the group's place back.
    fn drop_group(&mut self, id: GroupId, reason: DropReason, out: &mut Vec<Command>) {
        let Some(group) = self.groups.remove(&id) else { return };
        self.ready.remove(&id);
        for member in group.members {
            if let Some(rollout) = self.rollouts.get(&member)
                && rollout.stage.deadline_ms().is_some()
            {
                out.push(Command::Cancel { rollout: member, attempt: rollout.attempt });
            }
            self.end(member, Ending::Dropped(reason), out);
        }
    }
}

/// What a measurement of a speed-up tells apart, relative: an executor measures until its 95 % interval is that far to either side.
const RESOLUTION: f64 = 0.02;

/// Whether rewards teach nothing: all alike, but for what times of the same kernel differ by. Divided by a spread of that size, noise
/// would be advantages of one.
fn no_variance(rewards: &[Reward]) -> bool {
    let plans = || rewards.iter().map(|reward| reward.plan);
    let (low, high) = (plans().fold(f64::INFINITY, f64::min), plans().fold(f64::NEG_INFINITY, f64::max));
    rewards.windows(2).all(|pair| pair[0].code == pair[1].code) && high - low <= RESOLUTION * high.abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(rewards: &[(f64, f64)]) -> Vec<Reward> {
        rewards.iter().map(|&(plan, code)| Reward { plan, code }).collect()
    }

    /// Planted bug: exact equality. Seen: a group that differs by what its clock cannot tell is trained.
    #[test]
    fn rewards_that_differ_by_what_a_clock_cannot_tell_teach_nothing() {
        for same in [
            &[(0.0, 0.0), (0.0, 0.0)][..],
            &[(1.5, 1.0), (1.5, 1.0), (1.5, 1.0)],
            &[(1.50, 1.0), (1.49, 1.0), (1.51, 1.0)],
            &[(0.3, 1.0), (0.305, 1.0)],
            &[(-1.0, 0.0), (-1.0, 0.0)],
        ] {
            assert!(no_variance(&group(same)), "{same:?}");
        }
        for apart in [
            &[(1.50, 1.0), (1.46, 1.0)][..],
            &[(0.0, 0.0), (0.001, 0.0)],
            &[(1.5, 1.0), (1.5, 0.0)],
            &[(0.0, 0.0), (0.0, 0.0), (1.0, 1.0)],
        ] {
            assert!(!no_variance(&group(apart)), "{apart:?}");
        }
    }
}
