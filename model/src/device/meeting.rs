//! What the members of a group of GPUs know of one another: where each of them waits for all others before a call of NCCL's, which has
//! no limit of its own, and that one of them failed.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{DeviceError, Result};

/// Shared by all members, each in a thread of its own.
pub struct Meeting {
    members: usize,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    /// How many times all have met.
    met: u64,
    /// Members that wait for the next time.
    here: usize,
    failed: bool,
}

impl Meeting {
    pub fn new(members: usize) -> Self {
        Self { members, inner: Mutex::default(), changed: Condvar::new() }
    }

    /// Some member failed: nobody has to wait for it any longer, and nobody meets again.
    pub fn fail(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).failed = true;
        self.changed.notify_all();
    }

    pub fn failed(&self) -> bool {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).failed
    }

    /// Returns when every member has called it as often as this one has.
    ///
    /// # Errors
    /// A member failed, before or meanwhile; or not all came within `limit`, which is a failure, too.
    pub fn meet(&self, what: &'static str, limit: Duration) -> Result<()> {
        let began = Instant::now();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.failed {
            return Err(DeviceError::GroupFailed);
        }
        let mine = inner.met;
        inner.here += 1;
        if inner.here == self.members {
            (inner.here, inner.met) = (0, mine + 1);
            drop(inner);
            self.changed.notify_all();
            return Ok(());
        }
        loop {
            // All were here: what becomes of one of them later is for the next time.
            if inner.met != mine {
                return Ok(());
            }
            if inner.failed {
                return Err(DeviceError::GroupFailed);
            }
            let waited = began.elapsed();
            let Some(left) = limit.checked_sub(waited).filter(|left| !left.is_zero()) else {
                inner.failed = true;
                drop(inner);
                self.changed.notify_all();
                return Err(DeviceError::Late { what, waited });
            };
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// To be held by a member's thread while it works: the others hear of its panic.
    pub fn membership(&self) -> Membership<'_> {
        Membership(self)
    }
}

/// Of `Meeting::membership`.
pub struct Membership<'a>(&'a Meeting);

impl Drop for Membership<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// No test waits that long.
    const EVER: Duration = Duration::from_secs(3600);

    /// Planted, and it did not end: `here` is not set back to 0.
    #[test]
    fn nobody_passes_before_all_are_there_however_often() {
        const MEMBERS: usize = 4;
        let (meeting, arrived) = (Meeting::new(MEMBERS), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..MEMBERS {
                scope.spawn(|| {
                    for round in 1..=300 {
                        arrived.fetch_add(1, Ordering::SeqCst);
                        meeting.meet("a test", EVER).unwrap();
                        let all = arrived.load(Ordering::SeqCst);
                        assert!(all >= round * MEMBERS, "passed for the {round}th time with {all} arrivals");
                    }
                });
            }
        });
        assert!(!meeting.failed());
    }

    /// Planted, and it did not end: `fail` wakes nobody.
    #[test]
    fn a_member_that_fails_ends_the_others_wait_and_every_later_one() {
        let meeting = Meeting::new(3);
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..2).map(|_| scope.spawn(|| meeting.meet("a test", EVER))).collect();
            while meeting.inner.lock().unwrap().here < 2 {
                std::thread::yield_now();
            }
            meeting.fail();
            for one in waiting {
                assert!(matches!(one.join().unwrap(), Err(DeviceError::GroupFailed)));
            }
        });
        assert!(matches!(meeting.meet("a test", EVER), Err(DeviceError::GroupFailed)));
    }

    #[test]
    fn a_member_that_panics_has_failed() {
        let meeting = Meeting::new(2);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| meeting.meet("a test", EVER));
            let panics = scope.spawn(|| {
                let _here = meeting.membership();
                panic!("on purpose");
            });
            assert!(panics.join().is_err());
            assert!(matches!(other.join().unwrap(), Err(DeviceError::GroupFailed)));
        });
    }

    #[test]
    fn who_does_not_come_in_time_is_named_by_what_it_was_waited_for_and_has_failed() {
        let meeting = Meeting::new(2);
        let error = meeting.meet("the other GPUs", Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, DeviceError::Late { what: "the other GPUs", .. }), "{error}");
        assert!(matches!(meeting.meet("the other GPUs", EVER), Err(DeviceError::GroupFailed)));
    }
}
