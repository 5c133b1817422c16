//! A fleet without machines: 1,000 executors and 100,000 rollouts in flight, with executors that die, come back and answer too
//! late. Nothing but the machine and a clock that is a number.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Instant;

use rollout::curriculum::CurriculumKind;
use rollout::event::{Command, Event, Judgement};
use rollout::id::{Attempt, Epoch, PolicyVersion, RolloutId, StepId, TaskId};
use rollout::machine::{Machine, MachineConfig};
use rollout::reward::Reward;

const EXECUTORS: usize = 1000;
const CREDITS: u32 = 100_000;
/// A lost executor is missed after so long, and another is there later.
const NOTICED_MS: u64 = 5_000;
const REPLACED_MS: u64 = 20_000;

/// What comes due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Sampled(RolloutId, Attempt),
    Judged(RolloutId, Attempt),
    /// By executor and life: a life that has ended answers all the same, for its network was cut, not it.
    Executed(usize, u32, RolloutId, Attempt),
    Trained(StepId),
    Adopted(PolicyVersion),
    /// An executor is cut off: its answers come, but late.
    Cut(usize),
    Noticed(usize),
    Back(usize),
    Tick,
}

#[derive(Clone, Copy, Default)]
struct Executor {
    life: u32,
    holds: Option<(RolloutId, Attempt)>,
    cut: bool,
}

struct Fleet {
    machine: Machine,
    now_ms: u64,
    due: BinaryHeap<Reverse<(u64, u64, Due)>>,
    order: u64,
    random: u64,
    waiting: VecDeque<(RolloutId, Attempt)>,
    executors: Vec<Executor>,
    idle: Vec<usize>,
    ended: BTreeMap<RolloutId, String>,
    busy_ms: u64,
    zombies: u64,
    faulted: u64,
    finished: bool,
}

impl Fleet {
    fn below(&mut self, n: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % n
    }

    fn at(&mut self, in_ms: u64, due: Due) {
        self.order += 1;
        self.due.push(Reverse((self.now_ms + in_ms, self.order, due)));
    }

    fn event(&mut self, event: Event) -> usize {
        let commands = self.machine.on(self.now_ms, event);
        let count = commands.len();
        commands.into_iter().for_each(|command| self.obey(command));
        count
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Sample { rollout, attempt, .. } => {
                let takes = 500 + self.below(1000);
                self.at(takes, Due::Sampled(rollout, attempt));
            }
            Command::Judge { rollout, attempt, .. } => self.at(1, Due::Judged(rollout, attempt)),
            Command::Execute { rollout, attempt, .. } => self.waiting.push_back((rollout, attempt)),
            Command::Train { step, .. } => self.at(2000, Due::Trained(step)),
            Command::Adopt { policy } => self.at(300, Due::Adopted(policy)),
            Command::End { rollout, ending } => {
                let before = self.ended.insert(rollout, format!("{ending:?}"));
                assert_eq!(before, None, "{rollout:?} ends twice");
            }
            Command::Finish => self.finished = true,
            _ => {}
        }
    }

    fn dispatch(&mut self) {
        while let (Some(&executor), false) = (self.idle.last(), self.waiting.is_empty()) {
            self.idle.pop();
            let Some((rollout, attempt)) = self.waiting.pop_front() else { return };
            self.executors[executor].holds = Some((rollout, attempt));
            let takes = 500 + self.below(1000);
            self.busy_ms += takes;
            self.at(takes, Due::Executed(executor, self.executors[executor].life, rollout, attempt));
        }
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Sampled(rollout, attempt) => {
                let oldest = self.machine.policy();
                self.event(Event::Sampled { rollout, attempt, oldest, tokens: 100 });
            }
            Due::Judged(rollout, attempt) => {
                self.event(Event::Judged { rollout, attempt, ruling: Judgement::Admitted });
            }
            Due::Executed(executor, life, rollout, attempt) => {
                let reward = Reward { plan: rollout.0 as f64, code: (rollout.0 % 2) as f64 };
                let Executor { life: now, holds, cut } = self.executors[executor];
                if now == life && cut {
                    // It does not get through; it is tried again when the cut has been noticed.
                    return self.at(NOTICED_MS + 3000, Due::Executed(executor, life, rollout, attempt));
                }
                let commands = self.event(Event::Executed { rollout, attempt, reward });
                if now != life {
                    // A gateway refuses it by its lease; the machine has to stand it as well.
                    self.zombies += 1;
                    assert_eq!(commands, 0, "an answer of a life that was given up changed something");
                } else if holds == Some((rollout, attempt)) {
                    self.executors[executor].holds = None;
                    self.idle.push(executor);
                }
            }
            Due::Trained(step) => {
                let policy = PolicyVersion(self.machine.policy().0 + 1);
                self.event(Event::Trained { step, policy, applied: true });
            }
            Due::Adopted(policy) => {
                self.event(Event::Adopted { policy });
            }
            Due::Cut(executor) if self.executors[executor].cut => {}
            Due::Cut(executor) => {
                self.idle.retain(|idle| *idle != executor);
                self.executors[executor].cut = true;
                self.at(NOTICED_MS, Due::Noticed(executor));
            }
            Due::Noticed(executor) => {
                self.executors[executor].life += 1;
                if let Some((rollout, attempt)) = self.executors[executor].holds.take() {
                    self.faulted += 1;
                    self.event(Event::Faulted { rollout, attempt, code: "F123".into() });
                }
                self.at(REPLACED_MS, Due::Back(executor));
            }
            Due::Back(executor) => {
                self.executors[executor].cut = false;
                self.idle.push(executor);
            }
            Due::Tick => {
                self.event(Event::Tick);
                assert!(self.machine.ledger().closes(), "{:?}", self.machine.ledger());
                assert!(self.machine.ledger().in_flight <= u64::from(CREDITS));
                self.at(1000, Due::Tick);
            }
        }
    }
}

#[test]
fn a_thousand_executors_and_a_hundred_thousand_rollouts_in_flight() {
    let config = MachineConfig {
        group_size: 8,
        groups_per_step: 4200,
        staleness_max: 2,
        credits: CREDITS,
        steps: 8,
        curriculum: CurriculumKind::Uniform,
        drop_zero_variance: false,
        // The queue is 100 s long; nobody is to be given up for waiting in it.
        sample_deadline_ms: 3_600_000,
        judge_deadline_ms: 3_600_000,
        execute_deadline_ms: 3_600_000,
        train_deadline_ms: 3_600_000,
        adopt_deadline_ms: 3_600_000,
        ..MachineConfig::default()
    };
    let tasks = (0..200).map(|n| TaskId(format!("t{n}"))).collect();
    let mut fleet = Fleet {
        machine: Machine::new(config, tasks),
        now_ms: 0,
        due: BinaryHeap::new(),
        order: 0,
        random: 7,
        waiting: VecDeque::new(),
        executors: vec![Executor::default(); EXECUTORS],
        idle: (0..EXECUTORS).rev().collect(),
        ended: BTreeMap::new(),
        busy_ms: 0,
        zombies: 0,
        faulted: 0,
        finished: false,
    };
    // Two hundred executors are cut off, some of them more than once.
    for _ in 0..200 {
        let (when, who) = (fleet.below(150_000), fleet.below(EXECUTORS as u64) as usize);
        fleet.at(when, Due::Cut(who));
    }
    let began = Instant::now();
    fleet.event(Event::Started { epoch: Epoch(1), policy: PolicyVersion(0), step: StepId(0) });
    fleet.at(0, Due::Tick);
    let (mut most, mut happened) = (0, 0u64);
    while !fleet.finished {
        let Some(Reverse((when, _, due))) = fleet.due.pop() else { panic!("it hangs: {:?}", fleet.machine.ledger()) };
        assert!(when < 3_600_000, "an hour is over: {:?}", fleet.machine.ledger());
        fleet.now_ms = when;
        fleet.happen(due);
        fleet.dispatch();
        most = most.max(fleet.machine.ledger().in_flight);
        happened += 1;
    }
    let ledger = fleet.machine.ledger().clone();
    let took = began.elapsed();
    println!(
        "{happened} events in {:.2} s, {:.2} us each; {most} in flight at most; {} faults, {} answers of lives given up; \
         executors busy {:.1} % of {:.0} s; {ledger:?}",
        took.as_secs_f64(),
        took.as_secs_f64() * 1e6 / happened as f64,
        fleet.faulted,
        fleet.zombies,
        100.0 * fleet.busy_ms as f64 / (EXECUTORS as u64 * fleet.now_ms) as f64,
        fleet.now_ms as f64 / 1000.0,
    );
    assert!(most > 95_000, "{most}");
    assert!(fleet.faulted > 100 && fleet.zombies > 100);
    assert_eq!((ledger.closes(), ledger.in_flight), (true, 0));
    assert_eq!(fleet.ended.len() as u64, ledger.sampled, "every rollout ends exactly once");
    assert_eq!(ledger.trained, 8 * 4200 * 8);
}
