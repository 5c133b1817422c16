//! Any history of nodes: frames as the fuzzer likes them, silence, second lives, forged answers. Each errand ends at most once, and
//! only by the node that holds it; nobody who is silent for longer than `dead_ms` is kept by a head that is awake.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use rollout::id::{Attempt, RolloutId};
use troupe_fuzz::cluster::roster::{Act, Roster};
use troupe_fuzz::cluster::wire::{self, Answer, Beat, Hello, NodeKey, Role, ToHead};

const BEAT: Beat = Beat { period_ms: 1000, suspect_ms: 3000, dead_ms: 5000, lease_ms: 10_000 };
const TICK_MS: u64 = 50;
const LIMIT: usize = 64 * 1024;

struct World {
    roster: Roster,
    now: u64,
    /// Errands that are out: lease to node.
    out: BTreeMap<u64, NodeKey>,
    heard: BTreeMap<NodeKey, u64>,
    given: u64,
}

impl World {
    fn act(&mut self, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Detach { key, .. } => {
                    self.out.retain(|_, holder| *holder != key);
                    self.heard.remove(&key);
                }
                Act::Failed { lease, .. } => {
                    let before = self.out.len();
                    let roster = &self.roster;
                    // The lease's number is not told: it is the one that is not held any more.
                    self.out.retain(|n, key| roster.holds(*key, *n));
                    assert!(self.out.len() < before, "{:?} ends twice", lease.rollout);
                }
                Act::Dismiss { key } => {
                    self.out.retain(|_, holder| *holder != key);
                    self.heard.remove(&key);
                }
                _ => {}
            }
        }
        for (n, key) in &self.out {
            assert!(self.roster.holds(*key, *n), "errand {n} is lost without a word");
        }
    }

    fn said(&mut self, key: NodeKey, said: ToHead) {
        let now = self.now;
        let acts = match said {
            ToHead::Hello(hello) => {
                self.heard.insert(key, now);
                let acts = self.roster.hello(now, key, hello);
                // The old life's end is among them, and must not end the new one.
                self.act(acts);
                self.heard.insert(key, now);
                return;
            }
            ToHead::Ready { executors } => {
                // The first time it is a sign of life; again and again it is not.
                let name = self.roster.name(key).map(str::to_string);
                let joining =
                    self.roster.rows(now).iter().any(|row| Some(&row.name) == name.as_ref() && row.executors == 0);
                if joining && executors > 0 {
                    self.heard.insert(key, now);
                }
                self.roster.ready(now, key, executors)
            }
            // Of weights, which the roster does not know.
            ToHead::Adopted { .. } => return,
            ToHead::Pong { leases } => {
                if self.roster.name(key).is_some() {
                    self.heard.insert(key, now);
                }
                self.roster.pong(now, key, &leases)
            }
            ToHead::Done(answers) => {
                for Answer { lease, .. } in answers {
                    let found = self.roster.done(key, lease);
                    let expected = self.out.get(&lease) == Some(&key);
                    assert_eq!(found.is_some(), expected, "lease {lease} of {key}");
                    if expected {
                        self.out.remove(&lease);
                    }
                }
                return;
            }
            ToHead::Leaving => self.roster.drain(key),
            ToHead::List { .. } => {
                let rows = self.roster.rows(now);
                assert_eq!(rows.len(), self.roster.len());
                return;
            }
            ToHead::Drain { name } => match self.roster.key_of(&name) {
                Some(key) => self.roster.drain(key),
                None => return,
            },
        };
        self.act(acts);
    }

    fn tick(&mut self) {
        self.now += TICK_MS;
        let acts = self.roster.tick(self.now);
        self.act(acts);
        for (key, heard) in &self.heard {
            if self.roster.name(*key).is_some() {
                assert!(self.now - heard <= BEAT.dead_ms, "{key} is silent since {} ms", self.now - heard);
            }
        }
    }
}

fn hello() -> ToHead {
    let (role, name) = (Role::Executor, "n".to_string());
    ToHead::Hello(Hello { role, name, version: String::new(), harness: String::new(), pid: 1, gpus: String::new() })
}

fuzz_target!(|data: &[u8]| {
    let roster = Roster::new(BEAT, 60_000);
    let mut world = World { roster, now: 0, out: BTreeMap::new(), heard: BTreeMap::new(), given: 0 };
    let mut rest = data;
    let mut ticks = 0;
    while let [op, arg, tail @ ..] = rest {
        rest = tail;
        let key = NodeKey::from(arg & 3);
        match op % 8 {
            0 => world.said(key, hello()),
            1 => world.said(key, ToHead::Ready { executors: u32::from(arg >> 2) }),
            2 => {
                let leases =
                    world.out.iter().filter(|(n, k)| **k == key && **n % 5 != u64::from(arg >> 5)).map(|(n, _)| *n);
                let leases = leases.collect();
                world.said(key, ToHead::Pong { leases });
            }
            3 => {
                world.given += 1;
                let (number, rollout) = (u32::from(*arg), RolloutId(world.given));
                if let Some(lease) = world.roster.assign(world.now, key, number, rollout, Attempt(1)) {
                    world.out.insert(lease, key);
                }
            }
            4 => {
                // Several, one of them twice.
                let report = Err(rollout::outcome::Fault { code: String::new(), message: String::new() });
                let answer = |n: u8| Answer { lease: u64::from(arg >> 2) + u64::from(n), report: report.clone() };
                world.said(key, ToHead::Done([0, 1, 0].map(answer).into()));
            }
            5 => {
                // Time: up to 12.8 s, looked at as the shell looks.
                for _ in 0..*arg {
                    ticks += 1;
                    if ticks > 20_000 {
                        return;
                    }
                    world.tick();
                }
            }
            6 => {
                let acts = if arg & 4 == 0 { world.roster.closed(key) } else { world.roster.idle(key) };
                world.act(acts);
            }
            _ => {
                // A frame from the wire.
                let (frame, tail) = rest.split_at(rest.len().min(usize::from(*arg)));
                rest = tail;
                if let Ok((_, said)) = wire::open::<ToHead>(frame, LIMIT) {
                    world.said(key, said);
                }
            }
        }
    }
});
