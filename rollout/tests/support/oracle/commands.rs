//! What each command must satisfy: starting a rollout, issuing work, issuing a step, ending.

use std::collections::BTreeSet;

use rollout::event::{DropReason, Ending, TrainGroup};
use rollout::reward::Reward;

use super::{Leave, Oracle, Phase, Roll, Rule, Step, Work, is_mask};

impl Oracle {
    pub(super) fn new_roll(&mut self, id: u64, group: u64, task: String, seed: u64) {
        if !self.groups.contains_key(&group) {
            self.need(self.phase == Phase::Running, Rule::Steps, || format!("group {group} starts while not running"));
            self.need(self.may_start(), Rule::Admission, || format!("group {group} may not start yet"));
            let newest = self.groups.keys().next_back().is_none_or(|&last| group == last + 1);
            self.need(newest, Rule::R1, || format!("group {group} is not the next number"));
            self.live_groups.insert(group);
        }
        self.groups.entry(group).or_default().push(id);
        self.live.insert(id);
        let size = self.groups[&group].len();
        self.need(size <= self.config.group_size as usize, Rule::R4, || format!("group {group} grows"));
        let in_flight = self.live.len();
        self.need(in_flight <= self.config.credits as usize, Rule::R2, || format!("{in_flight} rollouts in flight"));
        let (attempt, faults) = (0, 0);
        let roll = Roll {
            group,
            attempt,
            work: None,
            faults,
            oldest: None,
            reward: None,
            unscored: false,
            ending: None,
            seed,
            task,
        };
        self.rolls.insert(id, roll);
    }

    pub(super) fn issue(
        &mut self,
        now: u64,
        id: u64,
        attempt: u32,
        work: Work,
        leave: &Leave,
        issued: &mut BTreeSet<u64>,
    ) {
        let once = issued.insert(id);
        self.need(once, Rule::R6, || format!("{work:?} of rollout {id} was issued twice"));
        let Some(roll) = self.rolls.get(&id).cloned() else {
            return self.blame(Rule::R1, format!("{work:?} of rollout {id}, which was never sampled"));
        };
        self.need(roll.ending.is_none(), Rule::R1, || format!("{work:?} of rollout {id}, which ended"));
        self.need(attempt == roll.attempt + 1, Rule::R6, || format!("rollout {id}: attempt {attempt} is not the next"));
        let fresh = roll.attempt == 0 && work == Work::Sample;
        let justified = fresh || leave.work.get(&id) == Some(&work);
        self.need(justified, Rule::R6, || format!("{work:?} of rollout {id} was issued for no reason"));
        let bounded = roll.faults <= self.config.retries;
        self.need(bounded, Rule::R5, || format!("rollout {id} goes on after {} faults", roll.faults));
        let deadline = match work {
            Work::Sample => self.config.sample_deadline_ms,
            Work::Judge => self.config.judge_deadline_ms,
            Work::Execute => self.config.execute_deadline_ms,
        };
        if let Some(roll) = self.rolls.get_mut(&id) {
            roll.attempt = attempt;
            roll.work = Some((work, now + deadline));
        }
    }

    pub(super) fn issue_train(&mut self, now: u64, step: u64, attempt: u32, groups: &[TrainGroup], leave: &Leave) {
        if let Some(train) = self.train.clone() {
            let same = train.step == step && train.groups == groups && attempt == train.attempt + 1;
            self.need(same, Rule::Steps, || format!("step {step} attempt {attempt} is not the outstanding one again"));
            self.need(leave.train_again, Rule::Steps, || format!("step {step} was issued again for no reason"));
        } else {
            self.need(step == self.step + 1 && attempt == 1, Rule::Steps, || format!("step {step} is not the next"));
            self.need(self.phase == Phase::Running, Rule::Steps, || format!("step {step} begins while not running"));
            let ids: Vec<u64> = groups.iter().map(|group| group.group.0).collect();
            let due: Vec<u64> = self.ready_groups().into_iter().take(self.config.groups_per_step as usize).collect();
            self.need(ids == due, Rule::Admission, || format!("step {step} has groups {ids:?}, due were {due:?}"));
            let full = ids.len() == self.config.groups_per_step as usize;
            self.need(full, Rule::Admission, || format!("step {step} has {} groups", ids.len()));
        }
        for group in groups {
            let members: Vec<u64> = group.members.iter().map(|(id, _)| id.0).collect();
            let whole = self.groups.contains_key(&group.group.0) && self.survivors(group.group.0) == members;
            self.need(whole && members.len() >= 2, Rule::R4, || format!("group {:?} is not whole", group.group));
            for (id, reward) in &group.members {
                let Some(roll) = self.rolls.get(&id.0).cloned() else { continue };
                self.need(roll.reward == Some(*reward), Rule::R5, || {
                    format!("{id} trains on {reward:?}, not reported")
                });
                let staleness = self.policy - roll.oldest.unwrap_or(0).min(self.policy);
                let fresh = staleness <= self.config.staleness_max && roll.oldest.is_some();
                self.need(fresh, Rule::R3, || format!("{id} trains {staleness} versions late in step {step}"));
                self.need(roll.task == group.task.0, Rule::R4, || format!("{id} trains as another task"));
            }
            self.check_kept(group.group.0);
        }
        let (faults, overdue) = self.train.as_ref().map_or((0, 0), |train| (train.faults, train.overdue));
        let deadline = now + self.config.train_deadline_ms;
        self.train = Some(Step { step, attempt, faults, overdue, deadline, groups: groups.to_vec() });
    }

    pub(super) fn end(&mut self, id: u64, ending: Ending, leave: &Leave) {
        let Some(roll) = self.rolls.get(&id).cloned() else {
            return self.blame(Rule::R1, format!("rollout {id} ended and was never sampled"));
        };
        self.need(roll.ending.is_none(), Rule::R1, || {
            format!("rollout {id} ended twice: {:?}, {ending:?}", roll.ending)
        });
        let group = roll.group;
        let members = self.groups[&group].clone();
        let survivors = self.survivors(group);
        let endings: BTreeSet<Ending> =
            members.iter().filter_map(|id| self.rolls[id].ending).filter(|e| !is_mask(e)).collect();
        if !is_mask(&ending) {
            let together = endings.iter().all(|other| *other == ending);
            self.need(together, Rule::R4, || format!("group {group} ended in two ways: {ending:?}, {endings:?}"));
        }
        let in_training = self.train.as_ref().is_some_and(|train| train.groups.iter().any(|g| g.group.0 == group));
        let retries = self.config.retries;
        let rewards: Vec<Option<Reward>> = members
            .iter()
            .filter(|id| !self.rolls[id].ending.is_some_and(|e| is_mask(&e)))
            .map(|id| self.rolls[id].reward)
            .collect();
        match ending {
            Ending::Trained(step) => {
                let in_it = leave.trained == Some(step.0) && leave.batch.contains(&id);
                self.need(in_it, Rule::R1, || format!("rollout {id} ended as trained, was not"))
            }
            Ending::Dropped(reason) => {
                self.need(!in_training, Rule::R4, || format!("rollout {id} was dropped out of a batch"));
                let holds = match reason {
                    DropReason::Faulted => roll.faults == retries + 1,
                    DropReason::Unscored => roll.unscored,
                    DropReason::GroupTooSmall => {
                        members.iter().filter(|m| !self.rolls[m].ending.is_some_and(|e| is_mask(&e))).count() < 2
                    }
                    DropReason::ZeroVariance => {
                        self.config.drop_zero_variance && rewards.iter().all(|r| r.is_some() && *r == rewards[0])
                    }
                    DropReason::Stale => members
                        .iter()
                        .filter(|m| !self.rolls[m].ending.is_some_and(|e| is_mask(&e)))
                        .filter_map(|m| self.rolls[m].oldest)
                        .any(|oldest| oldest + self.config.staleness_max < self.policy),
                    DropReason::Stopped => {
                        self.phase == Phase::Stopping || (self.step >= self.config.steps && self.train.is_none())
                    }
                    DropReason::LearnerFailed => leave.given_up.is_some() && leave.batch.contains(&id),
                };
                let rule = match reason {
                    DropReason::Faulted => Rule::R5,
                    DropReason::Stale => Rule::R3,
                    DropReason::ZeroVariance | DropReason::GroupTooSmall | DropReason::Unscored => Rule::R4,
                    DropReason::Stopped | DropReason::LearnerFailed => Rule::Steps,
                };
                self.need(holds, rule, || format!("rollout {id} was dropped as {reason:?} and is not"));
            }
        }
        self.live.remove(&id);
        if let Some(roll) = self.rolls.get_mut(&id) {
            roll.ending = Some(ending);
            roll.work = None;
        }
        if survivors.len() <= 1 {
            self.live_groups.remove(&group);
        }
        match ending {
            Ending::Dropped(DropReason::Faulted) if survivors.len() == 2 => {
                self.lost_in_row += 1;
                let limit = self.config.lost_groups_limit;
                if limit > 0 && self.lost_in_row > limit && self.phase == Phase::Running {
                    self.phase = Phase::Stopping;
                }
            }
            Ending::Dropped(DropReason::ZeroVariance) if survivors.len() == 1 => {
                let within = self.may_drop_equal(group);
                self.need(within, Rule::R4, || format!("group {group} was dropped for variance past the limit"));
            }
            Ending::Dropped(DropReason::Faulted | DropReason::Unscored) if survivors.len() > 2 => self.completed(group),
            _ => {}
        }
    }
}
