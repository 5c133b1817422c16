//! The run's own model on a GPU that candidates are timed on too: it works, or the device is quiet for one measurement, never both.
//!
//! `Turns` is pure. Whoever measures waits until the piece of work under way has ended (a decoding step, an update), and no new one
//! begins meanwhile. After a quiet spell the model gets as long again before the next one, so that neither starves the other.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rollout::outcome::Fault;

use super::Device;
use super::gate::{Pass, Use};
use crate::fault::{DEVICE, fault};

/// The model's turn after a quiet spell is as long as that was, within these bounds, milliseconds.
const TURN_MS: (u64, u64) = (50, 1000);
/// A model that has not worked for so long has nothing to do: its turn is over, milliseconds.
const IDLE_MS: u64 = 20;
/// How long a piece of the model's work may take while a measurement waits.
const REST: Duration = Duration::from_secs(300);
/// How often who waits for quiet looks again.
const LOOK: Duration = Duration::from_millis(2);

/// Whose turn it is. Times are milliseconds of the caller's clock.
#[derive(Debug, Default)]
pub struct Turns {
    /// Pieces of work under way.
    working: usize,
    /// Threads that wait for quiet to end.
    blocked: usize,
    /// Somebody waits for quiet.
    wanted: usize,
    /// Quiet spells under way, which overlap: a referee that is replaced in one measures by itself.
    quiet: usize,
    quiet_since: u64,
    /// The model's turn ends here.
    turn_until: u64,
    last_work: Option<u64>,
}

impl Turns {
    /// Whether a piece of work may begin.
    pub fn may_work(&self, now: u64) -> bool {
        self.quiet == 0 && (self.wanted == 0 || now < self.turn_until)
    }

    pub fn work(&mut self) {
        self.working += 1;
    }

    pub fn worked(&mut self, now: u64) {
        self.working -= 1;
        self.last_work = Some(now);
    }

    /// Whether a quiet spell may begin.
    pub fn may_be_quiet(&self, now: u64) -> bool {
        let idle = self.blocked == 0 && self.last_work.is_none_or(|last| now >= last + IDLE_MS);
        self.quiet > 0 || (self.working == 0 && (idle || now >= self.turn_until))
    }

    pub fn quiet(&mut self, now: u64) {
        if self.quiet == 0 {
            self.quiet_since = now;
        }
        self.quiet += 1;
    }

    pub fn loud(&mut self, now: u64) {
        self.quiet -= 1;
        if self.quiet == 0 {
            self.turn_until = now + now.saturating_sub(self.quiet_since).clamp(TURN_MS.0, TURN_MS.1);
        }
    }
}

/// The model's side and the executors' side of one GPU. Cheap to clone.
#[derive(Clone)]
pub struct Tenant(Arc<House>);

struct House {
    began: Instant,
    turns: Mutex<Turns>,
    changed: Condvar,
}

/// A piece of the model's work; dropping it ends it.
pub struct Work(Tenant);

/// A quiet spell; dropping it ends it.
#[derive(Debug)]
pub struct Quiet(Tenant);

impl Default for Tenant {
    fn default() -> Self {
        let (turns, changed) = (Mutex::default(), Condvar::new());
        Self(Arc::new(House { began: Instant::now(), turns, changed }))
    }
}

impl Tenant {
    /// Waits until the model may work. The wait ends with the measurement under way, whose every step has a deadline. For threads of
    /// the model's own, not for tasks.
    pub fn work(&self) -> Work {
        let mut turns = self.lock();
        turns.blocked += 1;
        while !turns.may_work(self.now()) {
            turns = self.0.changed.wait(turns).unwrap_or_else(PoisonError::into_inner);
        }
        turns.blocked -= 1;
        turns.work();
        Work(self.clone())
    }

    /// Waits until the model rests, `limit` at most.
    ///
    /// # Errors
    /// One piece of its work takes longer.
    pub async fn quiet(&self, limit: Duration) -> Result<Quiet, Fault> {
        let wanted = Wanted::new(self);
        let since = Instant::now();
        loop {
            {
                let mut turns = self.lock();
                let now = self.now();
                if turns.may_be_quiet(now) {
                    turns.quiet(now);
                    drop(turns);
                    drop(wanted);
                    return Ok(Quiet(self.clone()));
                }
            }
            if since.elapsed() > limit {
                let limit = limit.as_secs();
                return Err(fault(DEVICE, format!("the run's own model has been at work on this GPU for {limit} s")));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn now(&self) -> u64 {
        self.0.began.elapsed().as_millis() as u64
    }

    fn lock(&self) -> MutexGuard<'_, Turns> {
        self.0.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device {
    /// A pass through the gate; who wants to be alone has the model at rest, too.
    pub(super) async fn enter(&self, wanted: Use) -> Result<Pass, Fault> {
        let mut pass = self.gate.enter(wanted).await;
        if wanted == Use::Alone {
            pass.quiet = self.quiet().await?;
        }
        Ok(pass)
    }

    /// The model at rest, where there is one on this device.
    pub(super) async fn quiet(&self) -> Result<Option<Quiet>, Fault> {
        match &self.config.tenant {
            Some(tenant) => Ok(Some(tenant.quiet(REST).await?)),
            None => Ok(None),
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let now = self.0.now();
        self.0.lock().worked(now);
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let now = self.0.now();
        self.0.lock().loud(now);
        self.0.0.changed.notify_all();
    }
}

/// Somebody waits for quiet, until this is dropped: a wait that is given up leaves nothing behind.
struct Wanted<'a>(&'a Tenant);

impl<'a> Wanted<'a> {
    fn new(tenant: &'a Tenant) -> Self {
        tenant.lock().wanted += 1;
        Self(tenant)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.lock().wanted -= 1;
        self.0.0.changed.notify_all();
    }
}

impl std::fmt::Debug for Tenant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.lock().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn quiet_waits_for_the_work_under_way_and_the_model_gets_as_long_again() {
        let mut turns = Turns::default();
        assert!(turns.may_be_quiet(0) && turns.may_work(0), "nobody is there");
        turns.work();
        turns.wanted += 1;
        assert!(!turns.may_be_quiet(5), "work is under way");
        assert!(!turns.may_work(5), "somebody waits, and it is nobody's turn");
        turns.worked(6);
        assert!(turns.may_be_quiet(6), "the model had no turn to lose");
        turns.quiet(6);
        turns.wanted -= 1;
        assert!(!turns.may_work(100));
        turns.loud(306);
        // 300 ms of quiet give the model 300 ms, whoever waits.
        turns.wanted += 1;
        assert!(turns.may_work(307));
        turns.work();
        turns.worked(310);
        assert!(!turns.may_be_quiet(311) && turns.may_work(605));
        assert!(turns.may_be_quiet(330), "a model that rests has given its turn away");
        turns.work();
        turns.worked(600);
        assert!(!turns.may_be_quiet(605) && turns.may_be_quiet(606) && !turns.may_work(606));
    }

    #[test]
    fn a_short_spell_gives_a_turn_and_a_long_one_not_more_than_a_second() {
        for (spell, turn) in [(1, TURN_MS.0), (400, 400), (60_000, TURN_MS.1)] {
            let mut turns = Turns::default();
            turns.quiet(10);
            turns.loud(10 + spell);
            turns.wanted += 1;
            assert!(turns.may_work(10 + spell + turn - 1) && !turns.may_work(10 + spell + turn));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn work_and_quiet_never_meet_and_both_go_on() {
        let tenant = Tenant::default();
        let (at_work, pieces) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let models: Vec<_> = (0..2)
            .map(|_| {
                let (tenant, at_work, stop, pieces) = (tenant.clone(), at_work.clone(), stop.clone(), pieces.clone());
                std::thread::spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        let work = tenant.work();
                        at_work.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(1));
                        at_work.fetch_sub(1, Ordering::SeqCst);
                        pieces.fetch_add(1, Ordering::SeqCst);
                        drop(work);
                    }
                })
            })
            .collect();
        // A thread that gets no processor misses its turn, which nobody can help: as many rounds as it takes to see the model at work in
        // seven, where one without turns would have hardly any.
        let mut between = Vec::new();
        let worked = |between: &[usize]| between.iter().skip(1).filter(|&&n| n > 0).count();
        while worked(&between) < 7 && between.len() < 64 {
            let before = pieces.load(Ordering::SeqCst);
            let quiet = tenant.quiet(Duration::from_secs(20)).await.expect("the model rests in time");
            for _ in 0..5 {
                assert_eq!(at_work.load(Ordering::SeqCst), 0);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            drop(quiet);
            between.push(pieces.load(Ordering::SeqCst) - before);
        }
        // A wait that is given up does not keep the model from its work.
        let work = tenant.work();
        let given_up = tenant.quiet(Duration::ZERO).await.expect_err("work is under way");
        assert!(given_up.message.contains("at work"), "{given_up}");
        drop(work);
        let before = pieces.load(Ordering::SeqCst);
        while pieces.load(Ordering::SeqCst) < before + 10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stop.store(true, Ordering::SeqCst);
        models.into_iter().for_each(|m| m.join().expect("it ends"));
        assert!(worked(&between) >= 7, "the model works between quiet spells: {between:?}");
    }
}
