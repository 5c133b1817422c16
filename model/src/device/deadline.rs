//! A wait for the GPU that ends: it asks whether the work is done, and gives up at a limit. No call of the driver that blocks without
//! one is made while work is unfinished.

use std::time::Duration;

use super::{DeviceError, Result};

/// Where nothing else is said: more than any pass or step takes.
pub const DEFAULT: Duration = Duration::from_secs(300);
/// Most waits are for some tens of microseconds: those are asked for without a pause.
const EAGER: Duration = Duration::from_millis(2);
const PAUSES: [Duration; 2] = [Duration::from_micros(50), Duration::from_millis(1)];

/// What time it is and how to let some pass; a test has its own.
pub trait Clock {
    /// Since some fixed moment.
    fn now(&self) -> Duration;
    fn pause(&self, time: Duration);
}

/// The machine's.
pub struct Wall(std::time::Instant);

impl Default for Wall {
    fn default() -> Self {
        Self(std::time::Instant::now())
    }
}

impl Clock for Wall {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn pause(&self, time: Duration) {
        match time.is_zero() {
            true => std::hint::spin_loop(),
            false => std::thread::sleep(time),
        }
    }
}

/// Asks `done` until it says so; an error of its own ends the wait. After `limit`: `DeviceError::Late` of `what`.
pub fn wait(
    clock: &impl Clock,
    what: &'static str,
    limit: Duration,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let began = clock.now();
    loop {
        if done()? {
            return Ok(());
        }
        let waited = clock.now().saturating_sub(began);
        if waited >= limit {
            return Err(DeviceError::Late { what, waited });
        }
        let pause = match waited {
            w if w < EAGER => Duration::ZERO,
            w if w < 500 * EAGER => PAUSES[0],
            _ => PAUSES[1],
        };
        clock.pause(pause.min(limit - waited));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// A question takes 10 us, a pause what it says.
    #[derive(Default)]
    struct Fake(Cell<Duration>);

    impl Clock for Fake {
        fn now(&self) -> Duration {
            self.0.get()
        }

        fn pause(&self, time: Duration) {
            self.0.set(self.0.get() + time.max(Duration::from_micros(10)));
        }
    }

    #[test]
    fn work_that_ends_is_seen_soon() {
        for takes in [Duration::ZERO, Duration::from_micros(300), Duration::from_secs(7)] {
            let clock = Fake::default();
            wait(&clock, "a step", Duration::from_secs(10), || Ok(clock.now() >= takes)).unwrap();
            assert!(clock.now() <= takes + PAUSES[1], "{takes:?}: seen after {:?}", clock.now());
        }
    }

    /// Planted and seen to fail: `>` of the limit's double.
    #[test]
    fn work_that_does_not_end_is_given_up_at_the_limit_and_named() {
        let (clock, limit) = (Fake::default(), Duration::from_secs(10));
        let error = wait(&clock, "gradients", limit, || Ok(false)).unwrap_err();
        assert!(clock.now() >= limit && clock.now() < limit + 2 * PAUSES[1], "{:?}", clock.now());
        let text = error.to_string();
        assert!(text.contains("gradients") && text.contains("10.0 s") && text.contains("model.gpu_wait_s"), "{text}");
    }

    #[test]
    fn an_error_of_the_device_ends_the_wait() {
        let clock = Fake::default();
        let lost = || Err(DeviceError::Unsupported { what: "x".into() });
        assert!(matches!(wait(&clock, "a step", DEFAULT, lost), Err(DeviceError::Unsupported { .. })));
        assert_eq!(clock.now(), Duration::ZERO);
    }
}
