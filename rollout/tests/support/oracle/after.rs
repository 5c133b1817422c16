//! What must hold after every event, whatever it was.

use std::collections::{BTreeMap, BTreeSet};

use rollout::event::{DropReason, Ending, Event, Overdue};
use rollout::machine::Machine;
use rollout::reward::Reward;

use super::{Leave, Oracle, Phase, Rule, Work};

impl Oracle {
    /// What must hold after every event.
    pub(super) fn after(&mut self, event: &Event, machine: &Machine) {
        let ledger = machine.ledger();
        let ended = |ending: fn(&Ending) -> bool| {
            self.rolls.values().filter(|roll| roll.ending.as_ref().is_some_and(ending)).count() as u64
        };
        let (trained, dropped) =
            (ended(|e| matches!(e, Ending::Trained(_))), ended(|e| matches!(e, Ending::Dropped(_))));
        let same = ledger.sampled == self.rolls.len() as u64
            && ledger.trained == trained
            && ledger.dropped_total() == dropped
            && ledger.in_flight == self.live.len() as u64;
        self.need(same && ledger.closes(), Rule::R1, || format!("the ledger says {ledger:?} after {event:?}"));
        let mut reasons: BTreeMap<DropReason, u64> = BTreeMap::new();
        for roll in self.rolls.values() {
            if let Some(Ending::Dropped(reason)) = roll.ending {
                *reasons.entry(reason).or_default() += 1;
            }
        }
        self.need(reasons == ledger.dropped, Rule::R1, || format!("dropped by reason is {reasons:?}, says {ledger:?}"));
        for id in self.live.clone() {
            let roll = &self.rolls[&id];
            let lost = roll.work.is_none() && roll.reward.is_none();
            self.need(!lost, Rule::R1, || format!("rollout {id} is in flight and nobody works on it"));
        }
        for group in self.live_groups.clone() {
            let members = &self.groups[&group];
            let masked = |id: &u64| {
                matches!(self.rolls[id].ending, Some(Ending::Dropped(DropReason::Faulted | DropReason::Unscored)))
            };
            let survivors = members.iter().filter(|id| self.live.contains(id)).count();
            let whole = members.iter().all(|id| self.live.contains(id) || masked(id));
            self.need(whole || survivors == 0, Rule::R4, || format!("group {group} was dropped in part"));
            self.need(survivors != 1, Rule::R4, || format!("group {group} goes on with one survivor"));
            if survivors == 0 {
                self.live_groups.remove(&group);
            }
        }
        for group in self.ready_groups() {
            self.check_kept(group);
        }
        if self.phase == Phase::Running {
            self.need(!self.may_start(), Rule::Admission, || format!("a group could start after {event:?}, none did"));
            let ready = self.ready_groups().len() as u64;
            let idle = self.train.is_none() && ready >= u64::from(self.config.groups_per_step);
            self.need(!idle, Rule::Admission, || format!("a batch could be cut after {event:?}, none was"));
            let over = self.step >= self.config.steps && self.train.is_none();
            self.need(!over, Rule::Steps, || "all steps are done and the run goes on".into());
        }
        if self.phase == Phase::Stopping {
            let waits = self.train.is_some() && !self.silent();
            self.need(waits, Rule::Steps, || "nothing is outstanding while stopping, no Finish".into());
        }
        if let Err(what) = machine.audit() {
            self.blame(Rule::View, format!("{what} after {event:?}"));
        }
        let view = machine.view();
        let at = |work: Work| {
            let at_it = |id: &&u64| self.rolls[*id].work.is_some_and(|(now, _)| now == work);
            self.live.iter().filter(at_it).count() as u64
        };
        let counts = (view.sampling, view.judging, view.executing, view.credits_in_use, view.step.0, view.policy.0);
        let mine =
            (at(Work::Sample), at(Work::Judge), at(Work::Execute), self.live.len() as u64, self.step, self.policy);
        self.need(counts == mine, Rule::View, || format!("the view says {counts:?}, it is {mine:?}"));
        let waiting = view.scored + view.ready + view.training;
        let rest = self.live.len() as u64 - mine.0 - mine.1 - mine.2;
        self.need(waiting == rest, Rule::View, || "scored + ready + training miscount".into());
        let groups = (view.groups.live, view.groups.ready, view.groups.training);
        let training = self.train.as_ref().map_or(0, |train| train.groups.len() as u64);
        let mine = (self.live_groups.len() as u64, self.ready_groups().len() as u64, training);
        self.need(groups == mine, Rule::View, || format!("the view's groups {groups:?}, it is {mine:?}"));
    }

    /// Every deadline that passed is told, once, and no other.
    pub(super) fn overdue(&mut self, late: &[Overdue], leave: &Leave) {
        let mut told = BTreeSet::new();
        let (mut steps, mut adoptions) = (0, 0);
        for what in late {
            match what {
                Overdue::Rollout { rollout, .. } => {
                    let due = leave.overdue.contains(&rollout.0) && told.insert(rollout.0);
                    self.need(due, Rule::Steps, || format!("rollout {rollout} was called overdue, why"));
                }
                Overdue::Step { .. } => steps += 1,
                Overdue::Adoption { .. } => adoptions += 1,
            }
        }
        for id in &leave.overdue {
            // One that ended with its group in the same tick was not waited for any more.
            let ended = self.rolls[id].ending.is_some();
            self.need(ended || told.contains(id), Rule::Steps, || format!("rollout {id} was overdue, nobody told"));
        }
        let due = (u32::from(leave.step_late), u32::from(leave.adopt_late));
        self.need((steps, adoptions) == due, Rule::Steps, || format!("{late:?} for {due:?} steps and adoptions"));
    }

    /// A complete group without variance lives only where it may not be dropped.
    pub(super) fn check_kept(&mut self, group: u64) {
        let rewards: Vec<Option<Reward>> = self.survivors(group).iter().map(|id| self.rolls[id].reward).collect();
        let equal = rewards.windows(2).all(|pair| pair[0] == pair[1]);
        if equal && self.config.drop_zero_variance && self.kept_equal.insert(group) {
            let used_up = !self.may_drop_equal(group);
            self.need(used_up, Rule::R4, || format!("group {group} has no variance and was kept"));
        }
    }

    /// Up to so many groups after the last step closed.
    pub(super) fn may_drop_equal(&self, group: u64) -> bool {
        let limit = u64::from(self.config.zero_variance_limit);
        limit == 0 || group < self.first_of_step + limit
    }

    /// Complete groups that are not in the outstanding batch, by number.
    pub fn ready_groups(&self) -> Vec<u64> {
        let busy: BTreeSet<u64> =
            self.train.iter().flat_map(|train| train.groups.iter().map(|group| group.group.0)).collect();
        let complete = |group: &u64| self.survivors(*group).iter().all(|id| self.rolls[id].reward.is_some());
        self.live_groups.iter().copied().filter(|group| !busy.contains(group)).filter(complete).collect()
    }

    /// The admission rule: credits; a step to be trained in; that step at most `staleness_max` versions ahead.
    pub(super) fn may_start(&self) -> bool {
        let per_step = u64::from(self.config.groups_per_step);
        let live = self.live_groups.len() as u64;
        // Versions until this group's step is cut, were everything before it trained in order.
        let version = self.policy + live / per_step;
        self.live.len() as u64 + u64::from(self.config.group_size) <= u64::from(self.config.credits)
            && self.step + live / per_step < self.config.steps
            && version <= self.adopted + self.config.staleness_max
    }
}
