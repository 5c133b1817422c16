//! The oracle: a second, slow reading of the specification. It sees only events and commands, keeps every rollout that
//! ever was, and says for each invariant what was violated first. It shares no code with the machine.

mod after;
mod commands;
mod intake;

use std::collections::{BTreeMap, BTreeSet};

use rollout::event::{Command, DropReason, Ending, Event, Overdue, TrainGroup};
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
    adopt_missed: u32,
    pub step: u64,
    pub rolls: BTreeMap<u64, Roll>,
    /// Members of every group that ever was.
    pub groups: BTreeMap<u64, Vec<u64>>,
    /// Not ended: what the machine should hold.
    live: BTreeSet<u64>,
    live_groups: BTreeSet<u64>,
    pub train: Option<Step>,
    /// The first group that was not there when the last step closed.
    first_of_step: u64,
    /// Groups without variance that were kept, because of the limit, when they were completed.
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
    /// The deadlines of the outstanding step and of the adoption, where this event found them missed.
    step_late: bool,
    adopt_late: bool,
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
            adopt_missed: 0,
            step: 0,
            rolls: BTreeMap::new(),
            groups: BTreeMap::new(),
            live: BTreeSet::new(),
            live_groups: BTreeSet::new(),
            train: None,
            first_of_step: 0,
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
        let mut late = Vec::new();
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
                Command::Overdue(what) => {
                    if let Overdue::Rollout { rollout, attempt } = what {
                        let latest = self.rolls.get(&rollout.0).is_some_and(|roll| roll.attempt == attempt.0);
                        self.need(latest, Rule::R6, || {
                            format!("{rollout} attempt {attempt} is overdue, not its latest")
                        });
                    }
                    late.push(*what);
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
        self.overdue(&late, &leave);
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

    pub fn live(&self) -> &BTreeSet<u64> {
        &self.live
    }
}

fn is_mask(ending: &Ending) -> bool {
    matches!(ending, Ending::Dropped(DropReason::Faulted | DropReason::Unscored))
}
