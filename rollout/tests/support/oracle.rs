//! The oracle: a second, slow reading of the specification. It sees only events and commands, keeps every rollout that
//! ever was, and says for each invariant what was violated first. It shares no code with the machine.

use std::collections::{BTreeMap, BTreeSet};

use rollout::event::{Command, DropReason, Ending, Event, Judgement, TrainGroup};
use rollout::id::StepId;
use rollout::machine::{Machine, MachineConfig};
use rollout::reward::Reward;

/// What a violation is about. The named tests look at one each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Ends exactly once; the ledger closes.
    R1,
    /// Credits.
    R2,
    /// Staleness of what is trained.
    R3,
    /// Whole groups.
    R4,
    /// Faults: never a score, bounded.
    R5,
    /// Old and unfitting events change nothing; fitting ones do.
    R6,
    /// When groups start and batches are cut, no earlier and no later than they may.
    Admission,
    /// The step's life: reissue, adoption, stop, finish.
    Steps,
    /// Every history comes to its end.
    Liveness,
    /// A snapshot and the journal give the same machine and the same commands.
    Replay,
    /// The view and the audit agree with what happened.
    View,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Sample,
    Judge,
    Execute,
}

#[derive(Clone, Debug)]
pub struct Roll {
    pub group: u64,
    pub attempt: u32,
    /// Work issued and not answered, with its deadline.
    pub work: Option<(Work, u64)>,
    pub faults: u32,
    pub oldest: Option<u64>,
    pub reward: Option<Reward>,
    pub unscored: bool,
    pub ending: Option<Ending>,
    seed: u64,
    task: String,
}

#[derive(Clone, Debug)]
pub struct Step {
    pub step: u64,
    pub attempt: u32,
    pub faults: u32,
    pub overdue: u32,
    pub deadline: u64,
    pub groups: Vec<TrainGroup>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Waiting,
    Running,
    Stopping,
    Finished,
}

#[derive(Clone, Debug)]
pub struct Oracle {
    pub config: MachineConfig,
    pub phase: Phase,
    pub epoch: Option<u32>,
    pub policy: u64,
    pub adopted: u64,
    adopt_deadline: Option<u64>,
    pub step: u64,
    pub rolls: BTreeMap<u64, Roll>,
    /// Members of every group that ever was.
    pub groups: BTreeMap<u64, Vec<u64>>,
    /// Not ended: what the machine should hold.
    live: BTreeSet<u64>,
    live_groups: BTreeSet<u64>,
    pub train: Option<Step>,
    zero_since_step: u32,
    /// Groups without variance that were kept, because the limit was used up when they were completed.
    kept_equal: BTreeSet<u64>,
    lost_in_row: u32,
    given_up_in_row: u32,
    pub violations: BTreeMap<Rule, String>,
}

/// What one event permits.
#[derive(Default)]
struct Leave {
    /// Rollouts whose work may be issued, and which work.
    work: BTreeMap<u64, Work>,
    train_again: bool,
    adopt: bool,
    /// Rollouts that may be cancelled without ending: their lease expired.
    overdue: BTreeSet<u64>,
    /// The step that became durable or was given up by this event, and the members of its batch.
    trained: Option<u64>,
    given_up: Option<u64>,
    batch: BTreeSet<u64>,
}

impl Oracle {
    pub fn new(config: MachineConfig) -> Oracle {
        Oracle {
            config,
            phase: Phase::Waiting,
            epoch: None,
            policy: 0,
            adopted: 0,
            adopt_deadline: None,
            step: 0,
            rolls: BTreeMap::new(),
            groups: BTreeMap::new(),
            live: BTreeSet::new(),
            live_groups: BTreeSet::new(),
            train: None,
            zero_since_step: 0,
            kept_equal: BTreeSet::new(),
            lost_in_row: 0,
            given_up_in_row: 0,
            violations: BTreeMap::new(),
        }
    }

    pub fn blame(&mut self, rule: Rule, what: String) {
        self.violations.entry(rule).or_insert(what);
    }

    fn need(&mut self, holds: bool, rule: Rule, what: impl FnOnce() -> String) {
        if !holds {
            self.blame(rule, what());
        }
    }

    /// Does the event fit the present state? One that does not must change nothing.
    pub fn fits(&self, event: &Event) -> bool {
        let listening = matches!(self.phase, Phase::Running | Phase::Stopping);
        let waits = |rollout: u64, attempt: u32, work: Option<Work>| {
            self.rolls.get(&rollout).is_some_and(|roll| {
                roll.ending.is_none()
                    && roll.attempt == attempt
                    && roll.work.is_some_and(|(now, _)| work.is_none_or(|work| work == now))
            })
        };
        match event {
            Event::Started { epoch, .. } => self.epoch.is_none_or(|last| epoch.0 > last),
            _ if !listening => false,
            Event::Tick => true,
            Event::Sampled { rollout, attempt, .. } => waits(rollout.0, attempt.0, Some(Work::Sample)),
            Event::Judged { rollout, attempt, .. } => waits(rollout.0, attempt.0, Some(Work::Judge)),
            Event::Executed { rollout, attempt, .. } => waits(rollout.0, attempt.0, Some(Work::Execute)),
            Event::Faulted { rollout, attempt, .. } => waits(rollout.0, attempt.0, None),
            Event::Trained { step, .. } => self.train.as_ref().is_some_and(|train| train.step == step.0),
            Event::TrainFaulted { step, attempt, .. } => {
                self.train.as_ref().is_some_and(|train| train.step == step.0 && train.attempt == attempt.0)
            }
            Event::Adopted { policy } => policy.0 > self.adopted && policy.0 <= self.policy,
            Event::StopRequested => self.phase == Phase::Running,
        }
    }

    /// Judges one step of the machine.
    pub fn judge(&mut self, now: u64, event: &Event, commands: &[Command], before: &Machine, after: &Machine) {
        let fits = self.fits(event);
        let changed = before != after;
        if !fits {
            self.need(!changed && commands.is_empty(), Rule::R6, || {
                format!("{event:?} changed something: {commands:?}")
            });
        } else if *event != Event::Tick {
            self.need(changed, Rule::R6, || format!("{event:?} fits but was ignored"));
        }
        let leave = if fits { self.take(now, event) } else { Leave::default() };
        let mut issued = BTreeSet::new();
        let mut cancelled = BTreeSet::new();
        let mut finished = false;
        let mut adopts = 0;
        for command in commands {
            self.need(!finished, Rule::Steps, || format!("{command:?} after Finish"));
            match command {
                Command::Sample { rollout, attempt, group, task, seed } => {
                    let (id, task) = (rollout.0, task.0.clone());
                    if let Some(roll) = self.rolls.get(&id) {
                        let same = roll.group == group.0 && roll.seed == *seed && roll.task == task;
                        self.need(same, Rule::R6, || format!("rollout {id} is sampled again as something else"));
                    } else {
                        self.new_roll(id, group.0, task, *seed);
                        issued.remove(&id);
                    }
                    self.issue(now, id, attempt.0, Work::Sample, &leave, &mut issued);
                }
                Command::Judge { rollout, attempt } => {
                    self.issue(now, rollout.0, attempt.0, Work::Judge, &leave, &mut issued)
                }
                Command::Execute { rollout, attempt } => {
                    self.issue(now, rollout.0, attempt.0, Work::Execute, &leave, &mut issued)
                }
                Command::Cancel { rollout, attempt } => {
                    let latest = self.rolls.get(&rollout.0).is_some_and(|roll| roll.attempt == attempt.0);
                    self.need(latest, Rule::R6, || {
                        format!("{rollout} attempt {attempt} was cancelled, not its latest")
                    });
                    cancelled.insert(rollout.0);
                }
                Command::Train { step, attempt, groups } => self.issue_train(now, step.0, attempt.0, groups, &leave),
                Command::Adopt { policy } => {
                    adopts += 1;
                    self.need(leave.adopt && policy.0 == self.policy, Rule::Steps, || {
                        format!("{policy} to adopt, why")
                    });
                    self.adopt_deadline = Some(now + self.config.adopt_deadline_ms);
                }
                Command::End { rollout, ending } => {
                    let at_work = self.rolls.get(&rollout.0).is_some_and(|roll| roll.work.is_some());
                    let lost = matches!(ending, Ending::Dropped(DropReason::Faulted));
                    if at_work && !lost {
                        let told = cancelled.contains(&rollout.0);
                        self.need(told, Rule::Steps, || format!("{rollout} ended at work and was not cancelled"));
                    }
                    self.end(rollout.0, *ending, &leave);
                }
                Command::Finish => {
                    finished = true;
                    let settled = (self.live.is_empty() && self.train.is_none()) || self.silent();
                    self.need(settled, Rule::R1, || "finished with rollouts in flight".into());
                    let only_step = self.batch() == self.live;
                    self.need(only_step, Rule::R1, || "finished with more in flight than the last step".into());
                    let due = self.phase == Phase::Stopping || self.step >= self.config.steps;
                    self.need(due, Rule::Steps, || "finished before the last step with no stop".into());
                    self.phase = Phase::Finished;
                    self.adopt_deadline = None;
                }
            }
        }
        for &id in &leave.batch {
            let ending = self.rolls[&id].ending;
            let due = match leave.trained {
                Some(step) => Ending::Trained(StepId(step)),
                None => Ending::Dropped(DropReason::LearnerFailed),
            };
            self.need(ending == Some(due), Rule::R1, || format!("rollout {id} of a closed step ended as {ending:?}"));
        }
        self.need((adopts == 1) == leave.adopt, Rule::Steps, || format!("{adopts} Adopt after {event:?}"));
        for id in cancelled {
            let roll = &self.rolls[&id];
            let justified = roll.ending.is_some() || leave.overdue.contains(&id);
            self.need(justified, Rule::Steps, || format!("rollout {id} was cancelled and goes on"));
        }
        for (&id, &work) in &leave.work {
            let roll = &self.rolls[&id];
            let done = roll.ending.is_some() || issued.contains(&id);
            self.need(done, Rule::R6, || format!("rollout {id} waits for {work:?} for ever after {event:?}"));
        }
        if leave.train_again {
            let again = self.train.as_ref().is_none_or(|train| train.deadline > now);
            self.need(again, Rule::Steps, || "the outstanding step was not issued again".into());
        }
        self.after(event, after);
    }

    /// What must hold after every event.
    fn after(&mut self, event: &Event, machine: &Machine) {
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

    /// Takes in an event that fits: what it permits.
    fn take(&mut self, now: u64, event: &Event) -> Leave {
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
                self.adopt_deadline = None;
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
                    self.train_overdue(&mut leave);
                }
                leave.adopt = self.adopt_deadline.is_some_and(|deadline| deadline <= now);
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
                self.adopted = policy.0;
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

    fn silent(&self) -> bool {
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
        self.zero_since_step = 0;
        self.given_up_in_row += 1;
        if self.given_up_in_row > self.config.retries && self.phase == Phase::Running {
            self.phase = Phase::Stopping;
        }
    }

    fn close_step(&mut self, step: u64) {
        self.step = step;
        self.train = None;
        self.zero_since_step = 0;
        self.given_up_in_row = 0;
    }

    fn batch(&self) -> BTreeSet<u64> {
        let groups = self.train.iter().flat_map(|train| &train.groups);
        groups.flat_map(|group| group.members.iter().map(|(id, _)| id.0)).collect()
    }

    /// All survivors of the group have a reward now?
    fn completed(&mut self, group: u64) {
        if self.survivors(group).iter().all(|id| self.rolls[id].reward.is_some()) {
            self.lost_in_row = 0;
        }
    }

    fn survivors(&self, group: u64) -> Vec<u64> {
        self.groups[&group].iter().copied().filter(|id| self.live.contains(id)).collect()
    }

    fn new_roll(&mut self, id: u64, group: u64, task: String, seed: u64) {
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

    fn issue(&mut self, now: u64, id: u64, attempt: u32, work: Work, leave: &Leave, issued: &mut BTreeSet<u64>) {
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

    fn issue_train(&mut self, now: u64, step: u64, attempt: u32, groups: &[TrainGroup], leave: &Leave) {
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

    fn end(&mut self, id: u64, ending: Ending, leave: &Leave) {
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
                self.zero_since_step += 1;
                let limit = self.config.zero_variance_limit;
                let within = limit == 0 || self.zero_since_step <= limit;
                self.need(within, Rule::R4, || format!("group {group} was dropped for variance past the limit"));
            }
            Ending::Dropped(DropReason::Faulted | DropReason::Unscored) if survivors.len() > 2 => self.completed(group),
            _ => {}
        }
    }

    /// Complete groups that are not in the outstanding batch, by number.
    pub fn ready_groups(&self) -> Vec<u64> {
        let busy: BTreeSet<u64> =
            self.train.iter().flat_map(|train| train.groups.iter().map(|group| group.group.0)).collect();
        let complete = |group: &u64| self.survivors(*group).iter().all(|id| self.rolls[id].reward.is_some());
        self.live_groups.iter().copied().filter(|group| !busy.contains(group)).filter(complete).collect()
    }

    /// A complete group without variance lives only where it may not be dropped.
    fn check_kept(&mut self, group: u64) {
        let rewards: Vec<Option<Reward>> = self.survivors(group).iter().map(|id| self.rolls[id].reward).collect();
        let equal = rewards.windows(2).all(|pair| pair[0] == pair[1]);
        if equal && self.config.drop_zero_variance && self.kept_equal.insert(group) {
            let limit = self.config.zero_variance_limit;
            let used_up = limit > 0 && self.zero_since_step >= limit;
            self.need(used_up, Rule::R4, || format!("group {group} has no variance and was kept"));
        }
    }

    /// The admission rule: credits; a step to be trained in; that step at most `staleness_max` versions ahead.
    fn may_start(&self) -> bool {
        let per_step = u64::from(self.config.groups_per_step);
        let live = self.live_groups.len() as u64;
        // Versions until this group's step is cut, were everything before it trained in order.
        let version = self.policy + live / per_step;
        self.live.len() as u64 + u64::from(self.config.group_size) <= u64::from(self.config.credits)
            && self.step + live / per_step < self.config.steps
            && version <= self.adopted + self.config.staleness_max
    }

    pub fn live(&self) -> &BTreeSet<u64> {
        &self.live
    }
}

fn is_mask(ending: &Ending) -> bool {
    matches!(ending, Ending::Dropped(DropReason::Faulted | DropReason::Unscored))
}
