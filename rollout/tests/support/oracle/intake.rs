//! What an event that fits means: the oracle's own state, and what the machine may now do.

use std::collections::BTreeSet;

use rollout::event::{Event, Judgement};
use rollout::reward::Reward;

use super::{Leave, Oracle, Phase, Work};

impl Oracle {
    /// Takes in an event that fits: what it permits.
    pub(super) fn take(&mut self, now: u64, event: &Event) -> Leave {
        let mut leave = Leave::default();
        match event {
            Event::Started { epoch, policy, step } => {
                self.epoch = Some(epoch.0);
                self.phase = Phase::Running;
                (self.lost_in_row, self.given_up_in_row) = (0, 0);
                if let Some(outstanding) = self.train.as_ref().map(|train| train.step) {
                    if outstanding <= step.0 {
                        leave.trained = Some(outstanding);
                        leave.batch = self.batch();
                        self.close_step(outstanding);
                    } else {
                        leave.train_again = true;
                    }
                }
                if let Some(train) = &mut self.train {
                    train.overdue = 0;
                }
                self.step = self.step.max(step.0);
                self.policy = policy.0;
                self.adopted = policy.0;
                (self.adopt_deadline, self.adopt_missed) = (None, 0);
                for &id in &self.live {
                    if let Some((work, _)) = self.rolls[&id].work {
                        leave.work.insert(id, work);
                    }
                }
            }
            Event::Tick => {
                for id in self.live.clone() {
                    let Some(roll) = self.rolls.get_mut(&id) else { continue };
                    if let Some((work, deadline)) = roll.work
                        && deadline <= now
                    {
                        roll.faults += 1;
                        leave.work.insert(id, work);
                        leave.overdue.insert(id);
                    }
                }
                if self.train.as_ref().is_some_and(|train| train.deadline <= now) {
                    leave.step_late = true;
                    self.train_overdue(&mut leave);
                }
                if self.adopt_deadline.is_some_and(|deadline| deadline <= now) {
                    self.adopt_overdue(&mut leave);
                }
            }
            Event::Sampled { rollout, oldest, .. } => {
                let Some(roll) = self.rolls.get_mut(&rollout.0) else { return leave };
                roll.oldest = Some(oldest.0);
                leave.work.insert(rollout.0, Work::Judge);
            }
            Event::Judged { rollout, ruling, .. } => match ruling {
                Judgement::Admitted => {
                    leave.work.insert(rollout.0, Work::Execute);
                }
                Judgement::Scored(reward) => self.score(rollout.0, *reward, &mut leave),
                Judgement::Unscored => {
                    let Some(roll) = self.rolls.get_mut(&rollout.0) else { return leave };
                    roll.unscored = true;
                    roll.work = None;
                }
            },
            Event::Executed { rollout, reward, .. } => self.score(rollout.0, *reward, &mut leave),
            Event::Faulted { rollout, .. } => self.fault(rollout.0, &mut leave),
            Event::Trained { step, policy, .. } => {
                leave.trained = Some(step.0);
                leave.batch = self.batch();
                leave.adopt = true;
                self.close_step(step.0);
                self.policy = self.policy.max(policy.0);
            }
            Event::TrainFaulted { .. } => self.train_fault(&mut leave),
            Event::Adopted { policy } => {
                (self.adopted, self.adopt_missed) = (policy.0, 0);
                if policy.0 == self.policy {
                    self.adopt_deadline = None;
                }
            }
            Event::StopRequested => self.phase = Phase::Stopping,
        }
        leave
    }

    fn score(&mut self, id: u64, reward: Reward, leave: &mut Leave) {
        if !(reward.plan.is_finite() && reward.code.is_finite()) {
            return self.fault(id, leave);
        }
        let Some(roll) = self.rolls.get_mut(&id) else { return };
        roll.reward = Some(reward);
        roll.work = None;
        self.completed(self.rolls[&id].group);
    }

    fn fault(&mut self, id: u64, leave: &mut Leave) {
        let Some(roll) = self.rolls.get_mut(&id) else { return };
        roll.faults += 1;
        if let Some((work, _)) = roll.work {
            leave.work.insert(id, work);
        }
    }

    pub(super) fn silent(&self) -> bool {
        self.train.as_ref().is_some_and(|train| train.overdue > self.config.retries)
    }

    fn train_overdue(&mut self, leave: &mut Leave) {
        let Some(train) = &mut self.train else { return };
        train.overdue += 1;
        if train.overdue <= self.config.retries {
            leave.train_again = true;
        } else {
            self.phase = Phase::Stopping;
        }
    }

    fn adopt_overdue(&mut self, leave: &mut Leave) {
        leave.adopt_late = true;
        self.adopt_missed += 1;
        if self.adopt_missed <= self.config.retries {
            leave.adopt = true;
        } else {
            self.adopt_deadline = None;
            self.phase = Phase::Stopping;
        }
    }

    fn train_fault(&mut self, leave: &mut Leave) {
        let Some(train) = &mut self.train else { return };
        train.faults += 1;
        if train.faults <= self.config.retries {
            leave.train_again = true;
            return;
        }
        let step = train.step;
        leave.given_up = Some(step);
        leave.batch = self.batch();
        self.step = step;
        self.train = None;
        self.first_of_step = self.groups.keys().next_back().map_or(0, |last| last + 1);
        self.given_up_in_row += 1;
        if self.given_up_in_row > self.config.retries && self.phase == Phase::Running {
            self.phase = Phase::Stopping;
        }
    }

    fn close_step(&mut self, step: u64) {
        self.step = step;
        self.train = None;
        self.first_of_step = self.groups.keys().next_back().map_or(0, |last| last + 1);
        self.given_up_in_row = 0;
    }

    /// All survivors of the group have a reward now?
    pub(super) fn completed(&mut self, group: u64) {
        if self.survivors(group).iter().all(|id| self.rolls[id].reward.is_some()) {
            self.lost_in_row = 0;
        }
    }

    pub(super) fn batch(&self) -> BTreeSet<u64> {
        let groups = self.train.iter().flat_map(|train| &train.groups);
        groups.flat_map(|group| group.members.iter().map(|(id, _)| id.0)).collect()
    }

    pub(super) fn survivors(&self, group: u64) -> Vec<u64> {
        self.groups[&group].iter().copied().filter(|id| self.live.contains(id)).collect()
    }
}
