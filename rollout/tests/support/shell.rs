//! A small orderly shell for scenario tests: it keeps the commands not carried out yet and answers those it is told to.

use rollout::event::{Command, DropReason, Ending, Event, Judgement, TrainGroup};
use rollout::id::{Attempt, Epoch, GroupId, PolicyVersion, RolloutId, StepId};
use rollout::machine::{Machine, MachineConfig};
use rollout::reward::Reward;

use super::profile::tasks;

pub struct Shell {
    pub machine: Machine,
    pub now_ms: u64,
    /// Commands that want an answer, in the order they were issued.
    pub todo: Vec<Command>,
    /// Every command ever, with the number of the event that caused it.
    pub log: Vec<(u64, Command)>,
    pub events: u64,
    /// What generators sample from.
    pub generators: u64,
    /// The reward of a rollout by its seed.
    pub reward: fn(u64, u64) -> Reward,
    seeds: std::collections::BTreeMap<RolloutId, u64>,
}

/// All rewards differ: no group is without variance.
pub fn all_differ(rollout: u64, _seed: u64) -> Reward {
    Reward { plan: rollout as f64, code: (rollout % 2) as f64 }
}

/// Few different rewards, so that some groups have no variance. By seed alone, as in a real run.
pub fn few_kinds(_rollout: u64, seed: u64) -> Reward {
    let kind = f64::from(u8::from(seed.is_multiple_of(3)));
    Reward { plan: kind, code: kind }
}

pub fn small() -> MachineConfig {
    MachineConfig {
        group_size: 4,
        groups_per_step: 3,
        staleness_max: 0,
        credits: 100,
        steps: 3,
        drop_zero_variance: false,
        zero_variance_limit: 0,
        ..MachineConfig::default()
    }
}

impl Shell {
    /// A started run.
    pub fn start(config: MachineConfig) -> Shell {
        let mut shell = Shell {
            machine: Machine::new(config, tasks(10)),
            now_ms: 0,
            todo: Vec::new(),
            log: Vec::new(),
            events: 0,
            generators: 0,
            reward: all_differ,
            seeds: std::collections::BTreeMap::new(),
        };
        shell.send(Event::Started { epoch: Epoch(1), policy: PolicyVersion(0), step: StepId(0) });
        shell
    }

    pub fn send(&mut self, event: Event) -> Vec<Command> {
        self.events += 1;
        let commands = self.machine.on(self.now_ms, event);
        self.machine.audit().expect("the audit passes after every event");
        for command in &commands {
            self.log.push((self.events, command.clone()));
            match command {
                Command::Sample { rollout, seed, .. } => {
                    self.seeds.insert(*rollout, *seed);
                    self.todo.push(command.clone());
                }
                Command::Cancel { rollout, .. } => self.todo.retain(|todo| subject(todo) != Some(*rollout)),
                Command::End { .. } | Command::Overdue(_) | Command::Finish => {}
                _ => self.todo.push(command.clone()),
            }
        }
        commands
    }

    /// Carries out the `index`th command well and sends the answer.
    pub fn answer(&mut self, index: usize) -> Vec<Command> {
        let event = match self.todo.remove(index) {
            Command::Sample { rollout, attempt, .. } => {
                Event::Sampled { rollout, attempt, oldest: PolicyVersion(self.generators), tokens: 1 }
            }
            Command::Judge { rollout, attempt } => Event::Judged { rollout, attempt, ruling: Judgement::Admitted },
            Command::Execute { rollout, attempt } => {
                let reward = (self.reward)(rollout.0, self.seeds[&rollout]);
                Event::Executed { rollout, attempt, reward }
            }
            Command::Train { step, .. } => Event::Trained { step, policy: PolicyVersion(step.0), applied: true },
            Command::Adopt { policy } => {
                self.generators = policy.0;
                Event::Adopted { policy }
            }
            other => panic!("{other:?} wants no answer"),
        };
        self.send(event)
    }

    /// Answers commands in order, those that `wanted` allows, until none is left.
    pub fn run(&mut self, wanted: impl Fn(&Command) -> bool) {
        let mut answers = 0;
        while let Some(index) = self.todo.iter().position(&wanted) {
            self.answer(index);
            answers += 1;
            assert!(answers < 20_000, "there is no end to it");
        }
    }

    /// Everything about one group's rollouts until they are scored.
    pub fn finish_group(&mut self, group: GroupId) {
        let size = u64::from(self.machine.config().group_size);
        let mine = move |rollout: RolloutId| rollout.0 / size == group.0;
        self.run(|command| subject(command).is_some_and(mine));
    }

    pub fn fault(&mut self, rollout: RolloutId) -> Vec<Command> {
        let index = self.todo.iter().position(|todo| subject(todo) == Some(rollout)).expect("work is outstanding");
        let attempt = attempt(&self.todo.remove(index)).expect("work has an attempt");
        self.send(Event::Faulted { rollout, attempt, code: String::from("F001") })
    }

    pub fn commands(&self) -> impl Iterator<Item = &Command> {
        self.log.iter().map(|(_, command)| command)
    }

    pub fn batches(&self) -> Vec<(StepId, Vec<TrainGroup>)> {
        let train = |command: &Command| match command {
            Command::Train { step, groups, .. } => Some((*step, groups.clone())),
            _ => None,
        };
        self.commands().filter_map(train).collect()
    }

    pub fn ended(&self, ending: Ending) -> Vec<RolloutId> {
        let ended = |command: &Command| match command {
            Command::End { rollout, ending: found } if *found == ending => Some(*rollout),
            _ => None,
        };
        self.commands().filter_map(ended).collect()
    }

    pub fn dropped(&self, reason: DropReason) -> Vec<RolloutId> {
        self.ended(Ending::Dropped(reason))
    }

    /// Groups that were started, in order.
    pub fn started_groups(&self) -> Vec<GroupId> {
        let mut groups = Vec::new();
        for command in self.commands() {
            if let Command::Sample { group, .. } = command
                && !groups.contains(group)
            {
                groups.push(*group);
            }
        }
        groups
    }
}

/// The rollout a command works on.
pub fn subject(command: &Command) -> Option<RolloutId> {
    match command {
        Command::Sample { rollout, .. } | Command::Judge { rollout, .. } | Command::Execute { rollout, .. } => {
            Some(*rollout)
        }
        _ => None,
    }
}

pub fn attempt(command: &Command) -> Option<Attempt> {
    match command {
        Command::Sample { attempt, .. }
        | Command::Judge { attempt, .. }
        | Command::Execute { attempt, .. }
        | Command::Train { attempt, .. } => Some(*attempt),
        _ => None,
    }
}
