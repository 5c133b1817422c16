//! Who may use a device at a moment: several candidates that are checked, or one that is timed, never both.
//!
//! `Rules` is pure. A measurement waits until all checks under way have ended, and no new one begins meanwhile; so that the
//! device does not empty for each single one, measurements are taken several in a row, when enough wait or nothing else does. Where
//! the run's own model has its turn (`tenant`), nobody is let in to be alone, and candidates are checked meanwhile.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::tenant::{LOOK, Quiet, Tenant};

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
    /// Somebody may be let in to be alone.
    may: bool,
}

impl Rules {
    pub fn new(config: GateConfig) -> Rules {
        let (inside, shared, alone) = (Vec::new(), VecDeque::new(), VecDeque::new());
        Rules { config, inside, shared, alone, passed: 0, turn: 0, may: true }
    }

    /// Whether somebody may be let in to be alone from now on. Returns who may go in now.
    pub fn let_alone(&mut self, may: bool) -> Vec<u64> {
        self.may = may;
        self.admit()
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
            if self.is_alone() {
                return admitted;
            }
            if self.alone.is_empty() {
                (self.turn, self.passed) = (0, 0);
            } else if !self.may {
                self.turn = 0;
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

    fn is_alone(&self) -> bool {
        self.inside.iter().any(|&(_, u)| u == Use::Alone)
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
pub struct Gate(Arc<Mutex<Doors>>, Option<Tenant>);

/// Being inside; dropping it leaves.
pub struct Pass {
    gate: Gate,
    ticket: u64,
    /// The run's own model at rest meanwhile.
    pub(super) quiet: Option<Quiet>,
}

impl Gate {
    /// `tenant`: the run's own model, where it works on the same device.
    pub fn new(config: GateConfig, tenant: Option<Tenant>) -> Gate {
        let doors = Doors {
            rules: Rules::new(config),
            next: 0,
            waiting: Vec::new(),
            since: Instant::now(),
            now: (false, false),
            before: (Duration::ZERO, Duration::ZERO),
        };
        Gate(Arc::new(Mutex::new(doors)), tenant)
    }

    /// Waits for a pass. The wait ends when those inside leave, each of which has a deadline, and the model's turn is over. Cancel-safe.
    pub async fn enter(&self, wanted: Use) -> Pass {
        let (pass, mut open) = {
            let mut doors = self.lock();
            doors.look(self.1.as_ref());
            let ticket = doors.next;
            doors.next += 1;
            let (tell, open) = oneshot::channel();
            doors.waiting.push((ticket, tell));
            let admitted = doors.rules.ask(ticket, wanted);
            doors.open(&admitted);
            (Pass { gate: self.clone(), ticket, quiet: None }, open)
        };
        // The sender is dropped only with the pass's own ticket, so an error cannot happen while `pass` lives.
        if wanted == Use::Alone && self.1.is_some() {
            // The model's turn ends without a word; who is alone says so on leaving.
            loop {
                let pause = if self.lock().rules.is_alone() { LOOK * 10 } else { LOOK };
                if tokio::time::timeout(pause, &mut open).await.is_ok() {
                    break;
                }
                self.lock().look(self.1.as_ref());
            }
        } else {
            let _ = open.await;
        }
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

    /// Asks the model whether somebody may be alone now.
    fn look(&mut self, tenant: Option<&Tenant>) {
        let waits = !self.rules.alone.is_empty();
        let may = tenant.is_none_or(|tenant| tenant.may_begin(waits));
        let admitted = self.rules.let_alone(may);
        self.open(&admitted);
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
        // While this one's quiet still holds: the next one continues it, or the model has waited for long enough.
        doors.look(self.gate.1.as_ref());
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
            let mut may = true;
            for _ in 0..300 {
                let admitted = if next(&mut random).is_multiple_of(7) {
                    may = next(&mut random).is_multiple_of(2);
                    rules.let_alone(may)
                } else if next(&mut random).is_multiple_of(2) || rules.inside().is_empty() {
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
                    assert!(may || known[&t] == Use::Shared, "seed {seed}: alone in the model's turn");
                    // In the model's turn all may overtake.
                    if may && known[&t] == Use::Shared {
                        overtaken.values_mut().for_each(|n| *n += 1);
                    }
                }
                let inside = rules.inside();
                let alone = inside.iter().filter(|(_, u)| *u == Use::Alone).count();
                assert!(alone == 0 || inside.len() == 1, "seed {seed}: {inside:?}");
                assert!(inside.len() <= config.shared.max(1), "seed {seed}");
                let (shared, waiting) = rules.waiting();
                assert!(
                    !inside.is_empty() || (shared == 0 && (waiting == 0 || !may)),
                    "seed {seed}: all wait, {rules:?}"
                );
                let queue = overtaken.len();
                assert!(overtaken.values().all(|n| *n <= (config.patience + 1) * (queue + 1)), "seed {seed}: starved");
            }
        }
    }

    #[tokio::test]
    async fn a_pass_that_is_no_longer_waited_for_blocks_nobody() {
        let gate = Gate::new(GateConfig { shared: 2, batch: 1, patience: 0 }, None);
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

    /// Planted bug: who waits for the model's turn to end keeps the device, and nobody is checked meanwhile.
    #[tokio::test]
    async fn candidates_are_checked_in_the_models_turn() {
        let tenant = Tenant::default();
        let gate = Gate::new(GateConfig { shared: 2, batch: 1, patience: 0 }, Some(tenant.clone()));
        // A measurement of some length, then the model is at an update.
        let mut alone = gate.enter(Use::Alone).await;
        alone.quiet = Some(tenant.quiet(Duration::from_secs(20)).await.unwrap());
        tokio::time::sleep(Duration::from_millis(80)).await;
        drop(alone);
        let (started, go) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
        let model = std::thread::spawn({
            let (tenant, started) = (tenant.clone(), started.0);
            move || {
                let work = tenant.work();
                let _ = started.send(());
                let _ = go.1.recv_timeout(Duration::from_secs(20));
                drop(work);
            }
        });
        started.1.recv_timeout(Duration::from_secs(20)).unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
        let waits = tokio::spawn({
            let gate = gate.clone();
            async move { gate.enter(Use::Alone).await }
        });
        tokio::time::sleep(Duration::from_millis(30)).await;
        for _ in 0..3 {
            let entered = tokio::time::timeout(Duration::from_secs(1), gate.enter(Use::Shared)).await;
            drop(entered.expect("the device waits for the model with nobody on it"));
        }
        assert_eq!(gate.load(), (0, 0, 1), "and nobody is alone meanwhile");
        drop(go.0);
        model.join().unwrap();
        drop(tokio::time::timeout(Duration::from_secs(20), waits).await.expect("its turn comes").unwrap());
    }
}
