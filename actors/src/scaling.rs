//! How many executors a run could use: by how long candidates wait and how many executors idle. Pure; the pool follows it.

use serde::Serialize;

/// Between which numbers, and after how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScalingConfig {
    pub min: u32,
    pub max: u32,
    /// Candidates have waited this long while every executor was busy, milliseconds.
    pub grow_after_ms: u64,
    /// Nothing waited for this long, milliseconds.
    pub shrink_after_ms: u64,
}

impl ScalingConfig {
    /// Between these; growing takes seconds because an executor takes seconds to start, shrinking a minute because the
    /// next step's candidates may be on their way.
    pub fn between(min: u32, max: u32) -> ScalingConfig {
        ScalingConfig { min, max: max.max(min), grow_after_ms: 3_000, shrink_after_ms: 60_000 }
    }
}

/// The pool at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Executors that take candidates.
    pub executors: u32,
    pub busy: u32,
    pub queued: u32,
    /// Age of the oldest candidate that waits, milliseconds.
    pub oldest_ms: u64,
    /// Every device that they time on is at its limit: one more would wait there.
    pub saturated: bool,
}

/// The pool at a moment, and how many executors would keep up: a hint where their number is fixed, or at its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hint {
    pub load: Load,
    pub wanted: u32,
}

/// What a pool would be told if it could have any number of executors.
#[derive(Clone, Debug)]
pub struct Advisor {
    scaler: Scaler,
    wanted: Option<u32>,
}

/// More executors than a host has use for.
const ANY: u32 = 1 << 16;

impl Default for Advisor {
    fn default() -> Self {
        Advisor { scaler: Scaler::new(ScalingConfig::between(1, ANY)), wanted: None }
    }
}

impl Advisor {
    /// The advice stays until there is another, or what waited is gone.
    pub fn look(&mut self, now_ms: u64, load: &Load) -> Hint {
        let advice = self.scaler.look(now_ms, load);
        if advice.is_some() || load.queued == 0 {
            self.wanted = advice;
        }
        Hint { load: *load, wanted: self.wanted.unwrap_or(load.executors) }
    }
}

/// Watches the load.
#[derive(Clone, Debug)]
pub struct Scaler {
    config: ScalingConfig,
    pressed_since: Option<u64>,
    /// Since when nothing waits, and the fewest executors that idled since then.
    idle: Option<(u64, u32)>,
}

impl Scaler {
    pub fn new(config: ScalingConfig) -> Scaler {
        Scaler { config, pressed_since: None, idle: None }
    }

    /// How many executors there should be, where that is another number than there are. At most twice as many at once; fewer
    /// by what idled all the time.
    pub fn look(&mut self, now_ms: u64, load: &Load) -> Option<u32> {
        let ScalingConfig { min, max, grow_after_ms, shrink_after_ms } = self.config;
        let pressed = load.queued > 0 && load.busy >= load.executors && !load.saturated;
        self.pressed_since = pressed.then(|| self.pressed_since.unwrap_or(now_ms));
        let idle_now = load.executors.saturating_sub(load.busy);
        self.idle = (load.queued == 0 && idle_now > 0).then(|| match self.idle {
            Some((since, least)) => (since, least.min(idle_now)),
            None => (now_ms, idle_now),
        });
        let mut wanted = load.executors.clamp(min, max);
        let long = |since: u64, limit: u64| now_ms.saturating_sub(since) >= limit;
        if self.pressed_since.is_some_and(|since| long(since, grow_after_ms)) && load.oldest_ms >= grow_after_ms {
            let more = load.queued.min(load.executors.max(1));
            wanted = load.executors.saturating_add(more).clamp(min, max);
            self.pressed_since = Some(now_ms);
        }
        if let Some((since, least)) = self.idle
            && long(since, shrink_after_ms)
        {
            wanted = load.executors.saturating_sub(least).clamp(min, max);
            self.idle = None;
        }
        (wanted != load.executors).then_some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: ScalingConfig = ScalingConfig { min: 2, max: 10, grow_after_ms: 100, shrink_after_ms: 1000 };

    fn load(executors: u32, busy: u32, queued: u32, oldest_ms: u64) -> Load {
        Load { executors, busy, queued, oldest_ms, saturated: false }
    }

    /// Planted bug: candidates queue for the one place where they are timed, and the pool doubles for nothing.
    #[test]
    fn it_does_not_grow_while_the_timing_stage_is_at_its_limit() {
        let (mut scaler, mut advisor) = (Scaler::new(CONFIG), Advisor::default());
        let full = Load { saturated: true, ..load(2, 2, 9, 9_000) };
        for now_ms in (0..20_000).step_by(100) {
            assert_eq!(scaler.look(now_ms, &full), None);
            assert_eq!(advisor.look(now_ms, &full).wanted, 2);
        }
        assert_eq!(scaler.look(20_000, &load(2, 2, 9, 9_000)), None, "pressure begins");
        assert_eq!(scaler.look(20_100, &load(2, 2, 9, 9_000)), Some(4));
    }

    #[test]
    fn it_grows_under_lasting_pressure_by_what_waits_and_at_most_doubles() {
        let mut scaler = Scaler::new(CONFIG);
        assert_eq!(scaler.look(0, &load(2, 2, 9, 150)), None, "pressure has only begun");
        assert_eq!(scaler.look(50, &load(2, 2, 9, 200)), None);
        assert_eq!(scaler.look(100, &load(2, 2, 9, 250)), Some(4));
        assert_eq!(scaler.look(150, &load(4, 4, 7, 300)), None, "the new ones have not shown what they do");
        assert_eq!(scaler.look(250, &load(4, 4, 1, 400)), Some(5));
        assert_eq!(scaler.look(400, &load(5, 5, 90, 400)), Some(10), "the limit");
        assert_eq!(scaler.look(900, &load(10, 10, 90, 900)), None);
    }

    /// Planted bug: a queue beside an idle executor is a hand-over under way, not too few executors.
    #[test]
    fn a_moment_without_pressure_starts_the_wait_anew() {
        let mut scaler = Scaler::new(CONFIG);
        assert_eq!(scaler.look(0, &load(2, 2, 1, 500)), None);
        assert_eq!(scaler.look(99, &load(2, 1, 1, 500)), None);
        assert_eq!(scaler.look(120, &load(2, 2, 1, 500)), None);
        assert_eq!(scaler.look(219, &load(2, 2, 1, 500)), None);
        assert_eq!(scaler.look(220, &load(2, 2, 1, 500)), Some(3));
    }

    #[test]
    fn advice_stays_while_something_waits() {
        let mut advisor = Advisor::default();
        let mut wanted = |now_ms, load| advisor.look(now_ms, &load).wanted;
        assert_eq!(wanted(0, load(4, 4, 6, 5_000)), 4, "pressure has only begun");
        assert_eq!(wanted(3_000, load(4, 4, 6, 8_000)), 8, "as many again at most");
        assert_eq!(wanted(3_500, load(4, 4, 2, 8_500)), 8);
        assert_eq!(wanted(6_000, load(4, 4, 2, 9_000)), 6, "less waits");
        assert_eq!(wanted(6_500, load(4, 4, 0, 0)), 4, "nothing waits");
        assert_eq!(wanted(7_000, load(4, 1, 0, 0)), 4, "idle for a moment");
        assert_eq!(wanted(67_000, load(4, 1, 0, 0)), 1, "idle for a minute");
    }

    #[test]
    fn it_shrinks_by_what_idled_all_the_time_and_not_below_the_least() {
        let mut scaler = Scaler::new(CONFIG);
        assert_eq!(scaler.look(0, &load(8, 2, 0, 0)), None);
        assert_eq!(scaler.look(500, &load(8, 5, 0, 0)), None);
        assert_eq!(scaler.look(1000, &load(8, 1, 0, 0)), Some(5));
        assert_eq!(scaler.look(1100, &load(5, 0, 0, 0)), None);
        assert_eq!(scaler.look(2100, &load(5, 0, 0, 0)), Some(2));
        assert_eq!(scaler.look(9999, &load(2, 0, 0, 0)), None);
    }

    #[test]
    fn it_comes_back_into_its_bounds_at_once() {
        assert_eq!(Scaler::new(CONFIG).look(0, &load(1, 0, 0, 0)), Some(2));
        assert_eq!(Scaler::new(CONFIG).look(0, &load(12, 12, 0, 0)), Some(10));
    }
}
