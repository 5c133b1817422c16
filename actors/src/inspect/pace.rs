//! How much of a processor a viewer takes for following a run: a small share of what is free, and next to nothing of a machine
//! that has none to spare. Priorities alone do not see to it: Linux shares processors among sessions first, and a viewer
//! in a terminal of its own has a session of its own.

use std::time::Duration;

/// Shares of one processor, for following a run.
const SPARE: f64 = 0.10;
const NONE_SPARE: f64 = 0.005;
/// A machine has processors to spare when at least this share of all of them did nothing lately.
const IDLE: f64 = 0.20;

/// Of one thread.
pub struct Pace {
    /// Of all processors so far: doing nothing, and altogether; ticks.
    ticks: Option<(u64, u64)>,
    /// What is taken where there are processors to spare, and now.
    spare: f64,
    share: f64,
}

impl Pace {
    pub fn new() -> Pace {
        Pace::with_spare(SPARE)
    }

    /// For work that somebody waits for: this share of one processor where there are some to spare.
    pub fn with_spare(spare: f64) -> Pace {
        Pace { ticks: machine(), spare, share: NONE_SPARE }
    }

    /// The rest that follows work of this much processor time.
    pub fn rest_after(&mut self, work: Duration) -> Duration {
        let now = machine();
        if let (Some((idle, all)), Some((idle_then, all_then))) = (now, self.ticks) {
            // Too few ticks say nothing.
            if all >= all_then + 20 {
                let share = idle.saturating_sub(idle_then) as f64 / (all - all_then) as f64;
                self.share = if share >= IDLE { self.spare } else { NONE_SPARE };
                self.ticks = now;
            }
        } else {
            // Where nobody tells, as if there were some.
            (self.ticks, self.share) = (now, self.spare);
        }
        work.div_f64(self.share)
    }
}

impl Default for Pace {
    fn default() -> Pace {
        Pace::new()
    }
}

/// From the first line of `/proc/stat`.
fn machine() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    // User, nice, system, idle, iowait, irq, softirq, steal; what follows is in them.
    let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|n| n.parse().ok()).collect();
    Some((ticks.get(3)? + ticks.get(4)?, ticks.iter().sum()))
}

/// Processor time of this thread so far; `None` where `/proc` does not tell.
pub fn thread_cpu() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_many_times_the_work() {
        let mut pace = Pace::new();
        let rest = pace.rest_after(Duration::from_millis(4));
        assert!(rest >= Duration::from_millis(39) && rest <= Duration::from_millis(801), "{rest:?}");
    }

    #[test]
    fn this_machine_and_this_thread_have_worked() {
        // Not every kernel tells.
        if let Some((idle, all)) = machine() {
            assert!(idle <= all && all > 0);
        }
        let Some(before) = thread_cpu() else { return };
        let mut sum = 0u64;
        while thread_cpu() == Some(before) {
            sum = std::hint::black_box(sum + 1);
        }
    }
}
