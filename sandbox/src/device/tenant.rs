//! The run's own model on a GPU that candidates are timed on too: it works, or the device is quiet for one measurement, never both.
//!
//! `Turns` is pure. Whoever measures waits until the piece of work under way has ended (a decoding step, an update), and no new one
//! begins meanwhile. Measurements that follow each other are one quiet spell; after it the model gets as long again before the next one,
//! so that neither starves the other. In the model's turn candidates are checked (`gate`), which works beside it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rollout::outcome::Fault;

use super::Device;
use super::gate::{Pass, Use};
use crate::fault::{DEVICE, fault};

/// The model's turn after a quiet spell is as long as that was, within these bounds, milliseconds. A spell that has lasted for the second
/// of them is not continued while the model waits.
const TURN_MS: (u64, u64) = (50, 4000);
/// A spell goes on if the next measurement begins within this, milliseconds: who had the device leaves before the next one comes, whose
/// thread may have to wait for a processor.
const LINGER_MS: u64 = 25;
/// A piece of the model's work that has lasted for so long is an update, for whose end nobody who wants to measure keeps the device empty,
/// milliseconds.
const PIECE_MS: u64 = 50;
/// For so long after somebody who waits for such an end has asked last, no other piece begins, milliseconds.
const ASKED_MS: u64 = 10;
/// A model that has not worked for so long has nothing to do: its turn is over, milliseconds.
const IDLE_MS: u64 = 20;
/// How long a piece of the model's work may take while a measurement waits.
const REST: Duration = Duration::from_secs(300);
/// How often who waits for quiet looks again.
pub(super) const LOOK: Duration = Duration::from_millis(2);

/// Whose turn it is. Times are milliseconds of the caller's clock.
#[derive(Debug, Default)]
pub struct Turns {
    /// When the pieces of work under way began.
    working: Vec<u64>,
    /// Threads that wait for quiet to end.
    blocked: usize,
    /// Somebody waits for quiet.
    wanted: usize,
    /// Quiet spells under way, which overlap: a referee that is replaced in one measures by itself.
    quiet: usize,
    quiet_since: u64,
    /// The last quiet spell may be continued until here.
    linger: Option<u64>,
    /// The model's turn ends here.
    turn_until: u64,
    last_work: Option<u64>,
    /// Somebody who wants to measure was last told to wait for a long piece, the model's turn being over.
    asked: Option<u64>,
}

impl Turns {
    /// Whether a piece of work may begin.
    pub fn may_work(&mut self, now: u64) -> bool {
        self.settle(now);
        let wanted = self.wanted > 0 || self.asked.is_some_and(|at| now < at + ASKED_MS);
        self.quiet == 0 && self.linger.is_none() && (!wanted || now < self.turn_until)
    }

    pub fn work(&mut self, now: u64) {
        self.working.push(now);
    }

    /// A piece that began at `since` has ended.
    pub fn worked(&mut self, since: u64, now: u64) {
        if let Some(at) = self.working.iter().position(|began| *began == since) {
            self.working.swap_remove(at);
        }
        self.last_work = Some(now);
    }

    /// Whether somebody who has the device may measure.
    pub fn may_be_quiet(&mut self, now: u64) -> bool {
        self.settle(now);
        if self.linger.is_some() {
            return self.may_go_on(now);
        }
        // A referee that is replaced in a spell measures by itself.
        self.quiet > 0 || (self.working.is_empty() && self.is_over(now))
    }

    /// Whether the device may be emptied for who wants to measure, if somebody `waits`: not in the model's turn, and not for a piece of work
    /// that takes a while; after that no other one begins.
    pub fn may_begin(&mut self, now: u64, waits: bool) -> bool {
        self.settle(now);
        if self.quiet > 0 || self.linger.is_some() {
            return self.may_go_on(now);
        }
        let (over, long) = (self.is_over(now), self.working.iter().any(|began| now >= began + PIECE_MS));
        if over && long && waits {
            self.asked = Some(now);
        }
        over && !long
    }

    pub fn quiet(&mut self, now: u64) {
        if self.quiet == 0 && self.linger.take().is_none() {
            self.quiet_since = now;
        }
        self.quiet += 1;
    }

    pub fn loud(&mut self, now: u64) {
        self.quiet -= 1;
        if self.quiet == 0 {
            self.linger = Some(now + LINGER_MS);
        }
    }

    /// Whether the spell that is, or was a moment ago, may be continued.
    fn may_go_on(&self, now: u64) -> bool {
        self.blocked == 0 || now < self.quiet_since + TURN_MS.1
    }

    /// Whether the model's turn is over, or given away: it has nothing to do.
    fn is_over(&self, now: u64) -> bool {
        let rests =
            self.blocked == 0 && self.working.is_empty() && self.last_work.is_none_or(|last| now >= last + IDLE_MS);
        rests || now >= self.turn_until
    }

    /// A spell that nobody continued has ended, and the model's turn has begun.
    fn settle(&mut self, now: u64) {
        if let Some(end) = self.linger.filter(|end| now >= *end) {
            self.linger = None;
            self.turn_until = end + (end - self.quiet_since).clamp(TURN_MS.0, TURN_MS.1);
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

/// A piece of the model's work, since when; dropping it ends it.
pub struct Work(Tenant, u64);

/// More work is about to come; dropping it says that there is no more.
pub struct Busy(Tenant);

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
            // A spell that lingers ends without a word, and so does the wait of who has asked.
            let silent = turns.linger.is_some() || turns.asked.is_some();
            turns = match silent.then_some(Duration::from_millis(ASKED_MS)) {
                Some(time) => self.0.changed.wait_timeout(turns, time).unwrap_or_else(PoisonError::into_inner).0,
                None => self.0.changed.wait(turns).unwrap_or_else(PoisonError::into_inner),
            };
        }
        turns.blocked -= 1;
        let now = self.now();
        turns.work(now);
        Work(self.clone(), now)
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

    /// Whether the device may be emptied for a measurement now, if one `waits`.
    pub(super) fn may_begin(&self, waits: bool) -> bool {
        let mut turns = self.lock();
        turns.may_begin(self.now(), waits)
    }

    /// While this lives, the model has more to do after each piece: its turns are not given away in between.
    pub fn busy(&self) -> Busy {
        self.lock().blocked += 1;
        Busy(self.clone())
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
        loop {
            let mut pass = self.gate.enter(wanted).await;
            if wanted == Use::Alone {
                // It was let in for a spell that has ended meanwhile: nobody waits inside for the model.
                if self.config.tenant.as_ref().is_some_and(|tenant| !tenant.may_begin(true)) {
                    drop(pass);
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
                pass.quiet = self.quiet().await?;
            }
            return Ok(pass);
        }
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
        self.0.lock().worked(self.1, now);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.lock().blocked -= 1;
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
        assert!(turns.may_be_quiet(0) && turns.may_work(0) && turns.may_begin(0, true), "nobody is there");
        turns.work(0);
        turns.wanted += 1;
        assert!(!turns.may_be_quiet(5), "work is under way");
        assert!(!turns.may_work(5), "somebody waits, and it is nobody's turn");
        turns.worked(0, 6);
        assert!(turns.may_be_quiet(6), "the model had no turn to lose");
        turns.quiet(6);
        turns.wanted -= 1;
        assert!(!turns.may_work(100));
        turns.loud(281);
        turns.wanted += 1;
        assert!(!turns.may_work(305), "another measurement may follow");
        // 300 ms of quiet give the model 300 ms, whoever waits.
        assert!(turns.may_work(306));
        turns.work(307);
        turns.worked(307, 310);
        assert!(!turns.may_be_quiet(311) && turns.may_work(605) && !turns.may_begin(312, true));
        assert!(turns.may_be_quiet(330) && turns.may_begin(330, true), "a model that rests has given its turn away");
        turns.work(590);
        turns.worked(590, 600);
        assert!(!turns.may_be_quiet(605) && turns.may_be_quiet(606) && !turns.may_work(606));
    }

    #[test]
    fn measurements_in_a_row_are_one_spell_until_the_model_has_waited_for_four_seconds() {
        let mut turns = Turns::default();
        turns.quiet(1000);
        turns.blocked = 1;
        for at in [1400, 1900, 2400] {
            turns.loud(at);
            assert!(turns.may_be_quiet(at + 4) && turns.may_begin(at + 4, true) && !turns.may_work(at + 4), "{at}");
            turns.quiet(at + 4);
        }
        assert!(!turns.may_begin(5000, true) && turns.may_be_quiet(5000), "no further one, but who is inside goes on");
        turns.loud(5080);
        assert!(!turns.may_be_quiet(5104) && !turns.may_begin(5104, true) && !turns.may_work(5104));
        assert!(
            turns.may_work(5105) && !turns.may_be_quiet(9104) && !turns.may_begin(9104, true),
            "it was quiet for four seconds"
        );
        assert!(turns.may_be_quiet(9105) && turns.may_begin(9105, true));
        // A model that does not wait loses nothing.
        turns.blocked = 0;
        turns.quiet(20_000);
        turns.loud(29_000);
        assert!(turns.may_begin(29_004, true) && turns.may_be_quiet(29_004));
    }

    /// Planted bug: nobody is on the device while an update goes on that those who want to measure wait for.
    #[test]
    fn a_device_is_not_emptied_for_the_length_of_an_update() {
        let mut turns = Turns::default();
        turns.work(100);
        assert!(turns.may_begin(149, true), "a decoding step is over before the device is empty");
        assert!(!turns.may_begin(150, false) && turns.may_work(151), "nobody waits for its end");
        assert!(
            !turns.may_begin(160, true) && !turns.may_work(165),
            "an update's is waited for, and no other piece begins"
        );
        assert!(turns.may_work(170), "unless nobody asks any more");
        assert!(!turns.may_begin(20_000, true), "however long it takes");
        turns.worked(100, 20_100);
        assert!(turns.may_begin(20_100, true));
        let mut steps = Turns::default();
        for at in (0..400).step_by(10) {
            steps.work(at);
            if at >= 20 {
                steps.worked(at - 20, at);
            }
            assert!(
                steps.may_begin(at, true),
                "decoding steps of two generators are short, though there is always one"
            );
        }
    }

    #[test]
    fn a_short_spell_gives_a_turn_and_a_long_one_not_more_than_four_seconds() {
        for (spell, turn) in [(1, TURN_MS.0), (400, 400), (60_000, TURN_MS.1)] {
            let mut turns = Turns::default();
            turns.quiet(10);
            turns.loud(10 + spell - LINGER_MS.min(spell));
            let end = turns.linger.unwrap();
            turns.wanted += 1;
            assert!(turns.may_work(end + turn - 1) && !turns.may_work(end + turn));
        }
    }

    /// Nobody works in a spell, a spell is bounded where the model waits, and both always get on.
    #[test]
    fn random_histories() {
        let next = |state: &mut u64| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *state >> 33
        };
        for seed in 0..200u64 {
            let (mut random, mut turns, mut now) = (seed, Turns::default(), 0);
            let (mut worked, mut measured, mut began) = (0, 0, None);
            for _ in 0..4000 {
                now += next(&mut random) % 12;
                // The model wants to work at all times, and somebody to measure: what may be, is.
                turns.blocked = usize::from(turns.working.is_empty());
                if let Some(&since) = turns.working.first().filter(|_| next(&mut random).is_multiple_of(3)) {
                    turns.worked(since, now);
                } else if turns.quiet > 0 && next(&mut random).is_multiple_of(20) {
                    turns.loud(now);
                    measured += 1;
                }
                let wants = next(&mut random).is_multiple_of(2);
                if turns.quiet == 0
                    && turns.working.is_empty()
                    && wants
                    && turns.may_begin(now, true)
                    && turns.may_be_quiet(now)
                {
                    began = began.filter(|_| turns.linger.is_some()).or(Some(now));
                    turns.quiet(now);
                }
                if turns.working.is_empty() && turns.may_work(now) {
                    turns.work(now);
                    worked += 1;
                }
                assert!(turns.quiet == 0 || turns.working.is_empty(), "seed {seed}: both at {now}");
                // A measurement takes some two hundred milliseconds here.
                let spell = began.filter(|_| turns.quiet > 0).map_or(0, |began| now - began);
                assert!(spell < TURN_MS.1 + 3000, "seed {seed}: a spell of {spell} ms");
            }
            assert!(worked > 200 && measured > 20, "seed {seed}: {worked} pieces, {measured} measurements");
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
            // Or the next one would continue the spell.
            tokio::time::sleep(Duration::from_millis(2 * LINGER_MS)).await;
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
