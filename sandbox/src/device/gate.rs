//! Who may use a device at a moment: several candidates that are checked, or one that is timed, never both.
//!
//! `Rules` is pure. A measurement waits until all checks under way have ended, and no new one begins meanwhile; so that the
//! device does not empty for each single one, measurements are taken several in a row, when enough wait or nothing else does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::tenant::Quiet;

/// How a device is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Beside others.
    Shared,
    /// Alone.
    Alone,
}

/// Limits of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateConfig {
    /// Shared users at once, at least 1.
    pub shared: usize,
    /// So many that want to be alone end the shared phase.
    pub batch: usize,
    /// So many shared users are let in before one that wants to be alone, at most.
    pub patience: usize,
}

/// The gate's state. Tickets are numbers that the caller makes up, each once.
#[derive(Debug)]
pub struct Rules {
    config: GateConfig,
    inside: Vec<(u64, Use)>,
    shared: VecDeque<u64>,
    alone: VecDeque<u64>,
    /// Shared users that were let in since the oldest of `alone` came.
    passed: usize,
    /// Those that want to be alone have their turn until this many more have had it.
    turn: usize,
}

impl Rules {
    pub fn new(config: GateConfig) -> Rules {
        let (inside, shared, alone) = (Vec::new(), VecDeque::new(), VecDeque::new());
        Rules { config, inside, shared, alone, passed: 0, turn: 0 }
    }

    /// Returns who may go in now, in order.
    pub fn ask(&mut self, ticket: u64, wanted: Use) -> Vec<u64> {
        match wanted {
            Use::Shared => self.shared.push_back(ticket),
            Use::Alone => self.alone.push_back(ticket),
        }
        self.admit()
    }

    /// A user leaves, or stops waiting. Returns who may go in now.
    pub fn leave(&mut self, ticket: u64) -> Vec<u64> {
        self.inside.retain(|&(t, _)| t != ticket);
        self.shared.retain(|&t| t != ticket);
        self.alone.retain(|&t| t != ticket);
        self.admit()
    }

    fn admit(&mut self) -> Vec<u64> {
        let mut admitted = Vec::new();
        loop {
            if self.inside.iter().any(|&(_, u)| u == Use::Alone) {
                return admitted;
            }
            if self.alone.is_empty() {
                (self.turn, self.passed) = (0, 0);
            } else if self.turn == 0 && self.wants_turn() {
                self.turn = self.alone.len();
            }
            if self.turn > 0 {
                if !self.inside.is_empty() {
                    return admitted;
                }
                let Some(ticket) = self.alone.pop_front() else { return admitted };
                self.turn -= 1;
                self.passed = 0;
                self.inside.push((ticket, Use::Alone));
                admitted.push(ticket);
                return admitted;
            }
            if self.inside.len() >= self.config.shared.max(1) {
                return admitted;
            }
            let Some(ticket) = self.shared.pop_front() else { return admitted };
            self.passed += usize::from(!self.alone.is_empty());
            self.inside.push((ticket, Use::Shared));
            admitted.push(ticket);
        }
    }

    fn wants_turn(&self) -> bool {
        self.alone.len() >= self.config.batch.max(1)
            || self.passed >= self.config.patience
            || (self.inside.is_empty() && self.shared.is_empty())
    }

    /// Who is inside.
    pub fn inside(&self) -> &[(u64, Use)] {
        &self.inside
    }

    /// How many wait: shared, alone.
    pub fn waiting(&self) -> (usize, usize) {
        (self.shared.len(), self.alone.len())
    }
}

struct Doors {
    rules: Rules,
    next: u64,
    waiting: Vec<(u64, oneshot::Sender<()>)>,
    /// Since when it is as it is: whether anybody is inside, whether alone; and how long it was so before.
    since: Instant,
    now: (bool, bool),
    before: (Duration, Duration),
}

/// The gate for tasks. Cheap to clone.
#[derive(Clone)]
pub struct Gate(Arc<Mutex<Doors>>);

/// Being inside; dropping it leaves.
pub struct Pass {
    gate: Gate,
    ticket: u64,
    /// The run's own model at rest meanwhile.
    pub(super) quiet: Option<Quiet>,
}

impl Gate {
    pub fn new(config: GateConfig) -> Gate {
        Gate(Arc::new(Mutex::new(Doors {
            rules: Rules::new(config),
            next: 0,
            waiting: Vec::new(),
            since: Instant::now(),
            now: (false, false),
            before: (Duration::ZERO, Duration::ZERO),
        })))
    }

    /// Waits for a pass. The wait ends when those inside leave, and each of them has a deadline. Cancel-safe.
    pub async fn enter(&self, wanted: Use) -> Pass {
        let (pass, open) = {
            let mut doors = self.lock();
            let ticket = doors.next;
            doors.next += 1;
            let (tell, open) = oneshot::channel();
            doors.waiting.push((ticket, tell));
            let admitted = doors.rules.ask(ticket, wanted);
            doors.open(&admitted);
            (Pass { gate: self.clone(), ticket, quiet: None }, open)
        };
        // The sender is dropped only with the pass's own ticket, so an error cannot happen while `pass` lives.
        let _ = open.await;
        pass
    }

    /// How many are inside, and wait shared and alone.
    pub fn load(&self) -> (usize, usize, usize) {
        let doors = self.lock();
        let (shared, alone) = doors.rules.waiting();
        (doors.rules.inside().len(), shared, alone)
    }

    /// How long anybody was inside so far, and how long somebody was alone.
    pub fn busy(&self) -> (Duration, Duration) {
        let mut doors = self.lock();
        doors.count();
        doors.before
    }

    fn lock(&self) -> MutexGuard<'_, Doors> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Doors {
    fn count(&mut self) {
        let spent = self.since.elapsed();
        self.since = Instant::now();
        self.before.0 += if self.now.0 { spent } else { Duration::ZERO };
        self.before.1 += if self.now.1 { spent } else { Duration::ZERO };
        let inside = self.rules.inside();
        self.now = (!inside.is_empty(), inside.iter().any(|(_, u)| *u == Use::Alone));
    }

    fn open(&mut self, admitted: &[u64]) {
        self.count();
        for ticket in admitted {
            if let Some(at) = self.waiting.iter().position(|(t, _)| t == ticket) {
                let _ = self.waiting.swap_remove(at).1.send(());
            }
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut doors = self.gate.lock();
        doors.waiting.retain(|(t, _)| *t != self.ticket);
        let admitted = doors.rules.leave(self.ticket);
        doors.open(&admitted);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    /// Alone means alone; nobody waits while nobody is inside; whoever waits to be alone is let in after a bounded number of
    /// others.
    #[test]
    fn random_histories() {
        for seed in 0..300u64 {
            let mut random = seed;
            let config = GateConfig {
                shared: 1 + (next(&mut random) % 5) as usize,
                batch: 1 + (next(&mut random) % 4) as usize,
                patience: (next(&mut random) % 6) as usize,
            };
            let mut rules = Rules::new(config);
            let (mut ticket, mut known) = (0, BTreeMap::new());
            let mut overtaken: BTreeMap<u64, usize> = BTreeMap::new();
            for _ in 0..300 {
                let admitted = if next(&mut random).is_multiple_of(2) || rules.inside().is_empty() {
                    let wanted = if next(&mut random).is_multiple_of(3) { Use::Alone } else { Use::Shared };
                    ticket += 1;
                    known.insert(ticket, wanted);
                    if wanted == Use::Alone {
                        overtaken.insert(ticket, 0);
                    }
                    rules.ask(ticket, wanted)
                } else {
                    let inside = rules.inside();
                    let gone = inside[next(&mut random) as usize % inside.len()].0;
                    rules.leave(gone)
                };
                for t in admitted {
                    overtaken.remove(&t);
                    if known[&t] == Use::Shared {
                        overtaken.values_mut().for_each(|n| *n += 1);
                    }
                }
                let inside = rules.inside();
                let alone = inside.iter().filter(|(_, u)| *u == Use::Alone).count();
                assert!(alone == 0 || inside.len() == 1, "seed {seed}: {inside:?}");
                assert!(inside.len() <= config.shared.max(1), "seed {seed}");
                assert!(!inside.is_empty() || rules.waiting() == (0, 0), "seed {seed}: all wait, {rules:?}");
                let queue = overtaken.len();
                assert!(overtaken.values().all(|n| *n <= (config.patience + 1) * (queue + 1)), "seed {seed}: starved");
            }
        }
    }

    #[tokio::test]
    async fn a_pass_that_is_no_longer_waited_for_blocks_nobody() {
        let gate = Gate::new(GateConfig { shared: 2, batch: 1, patience: 0 });
        let first = gate.enter(Use::Shared).await;
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { drop(gate.enter(Use::Alone).await) }
        });
        tokio::task::yield_now().await;
        assert_eq!(gate.load(), (1, 0, 1));
        waiting.abort();
        let _ = waiting.await;
        let second = gate.enter(Use::Shared).await;
        assert_eq!(gate.load(), (2, 0, 0));
        drop((first, second));
        drop(gate.enter(Use::Alone).await);
        assert_eq!(gate.load(), (0, 0, 0));
    }
}
