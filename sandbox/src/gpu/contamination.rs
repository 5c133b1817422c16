//! Whether something disturbed a measurement, by what was seen before, while and after it.

use std::fmt;

use rollout::timing::Conditions;

use super::free::{FreePolicy, Ours, Why, foreign};
use super::inventory::Reading;

/// How much may change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Of the reference against its time alone: a share of it, and microseconds at the least. In a lease references take what they take
    /// alone, in the middle, and some are off by more than the share: those that were refused by 0.2 to 1.3 us
    /// (H200, docs/benchmarks/2026-11-30-h200-2), and CUDA promises of an event's time no more than about half a microsecond. What is
    /// let pass beyond the share nobody is paid for: see `Timed::paid_at_most`.
    pub drift: f64,
    pub drift_us: f64,
    /// Of a side's calls, that share may be in bursts that are twice as far off. A neighbour that works in fits slows some bursts of each
    /// side down: too few for the reference's median to show, and of the candidate's by chance more.
    pub slow_bursts: f64,
    /// Of the multiprocessors' clock while something runs, relative to its highest.
    pub clock: f64,
    /// By the host's clock a call of the candidate's may take so much longer, or must take so much, beyond what its device time
    /// says, compared with the reference: a factor, and microseconds more or less.
    pub host_longer: (f64, f64),
    pub host_shorter: (f64, f64),
    /// A burst's calls may take so much longer than the one in their middle: a factor, and microseconds. What one of them does for the
    /// others is not left out with it.
    pub uneven: (f64, f64),
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            drift: 0.03,
            drift_us: 0.5,
            slow_bursts: 0.25,
            clock: 0.03,
            host_longer: (2.0, 250.0),
            host_shorter: (0.4, 50.0),
            uneven: (2.0, 5.0),
        }
    }
}

impl Limits {
    /// The most that a reference is paid for, where alone it takes `alone_us`.
    pub fn paid_us(&self, alone_us: f64) -> f64 {
        alone_us * (1.0 + self.drift)
    }

    /// By how many microseconds a reference may be off what it takes alone.
    pub fn drift_of(&self, alone_us: f64) -> f64 {
        (self.drift * alone_us).max(self.drift_us)
    }
}

/// One measurement's readings. An idle GPU's clock is low before the first kernel and says nothing.
#[derive(Clone, Copy, Debug)]
pub struct Readings<'a> {
    pub before: Option<&'a Reading>,
    pub during: &'a [Reading],
    pub after: Option<&'a Reading>,
    /// A look in between came to nothing.
    pub blind: bool,
}

/// What disturbed a measurement.
#[derive(Clone, Debug, PartialEq)]
pub enum Contamination {
    /// Somebody else, somebody else's memory, a reason to slow down.
    Seen(Why),
    Clock {
        low: u32,
        high: u32,
    },
    MemoryClock {
        low: u32,
        high: u32,
    },
    /// The reference, microseconds: alone, and in this lease.
    Drift {
        alone: f64,
        now: f64,
    },
    /// Bursts, of so many, in which a side was far slower than it can be, microseconds.
    Fits {
        side: &'static str,
        can: f64,
        slow: usize,
        of: usize,
    },
    /// Nobody looked, or the driver did not answer.
    Blind,
}

/// What was measured, microseconds: the reference alone and in this lease; and each side in each of its bursts, of so many calls.
#[derive(Clone, Copy, Debug)]
pub struct Measured<'a> {
    pub alone_us: f64,
    pub now_us: f64,
    pub reference: &'a [(f64, usize)],
    pub candidate: &'a [(f64, usize)],
}

impl fmt::Display for Contamination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Contamination::Seen(why) => write!(f, "{why}"),
            Contamination::Clock { low, high } => write!(f, "its clock went from {low} to {high} MHz"),
            Contamination::MemoryClock { low, high } => write!(f, "its memory's clock went from {low} to {high} MHz"),
            Contamination::Drift { alone, now } => {
                write!(f, "the reference took {now:.2} us, alone it takes {alone:.2} us")
            }
            Contamination::Fits { side, can, slow, of } => {
                write!(f, "in {slow} of {of} bursts the {side} was far slower than the {can:.2} us that it can take")
            }
            Contamination::Blind => write!(f, "the device could not be read"),
        }
    }
}

/// Everything that speaks against a measurement, each kind once.
pub fn reasons(
    limits: &Limits,
    policy: &FreePolicy,
    readings: &Readings<'_>,
    ours: &Ours,
    measured: &Measured<'_>,
) -> Vec<Contamination> {
    let mut found = Vec::new();
    let all = readings.before.into_iter().chain(readings.during).chain(readings.after);
    for why in all.flat_map(|reading| foreign(policy, reading, ours)) {
        let same = |known: &Contamination| matches!(known, Contamination::Seen(w) if std::mem::discriminant(w) == std::mem::discriminant(&why));
        if !found.iter().any(same) {
            found.push(Contamination::Seen(why));
        }
    }
    if readings.blind || readings.before.is_none() || readings.after.is_none() || readings.during.is_empty() {
        found.push(Contamination::Blind);
    }
    let at_work = || readings.during.iter().skip(1).chain(readings.after);
    let range = |clock: fn(&Reading) -> u32| (at_work().map(clock).min(), at_work().map(clock).max());
    if let (Some(low), Some(high)) = range(|r| r.sm_mhz)
        && f64::from(high - low) > limits.clock * f64::from(high)
    {
        found.push(Contamination::Clock { low, high });
    }
    if let (Some(low), Some(high)) = range(|r| r.memory_mhz)
        && low != high
    {
        found.push(Contamination::MemoryClock { low, high });
    }
    let &Measured { alone_us, now_us, reference, candidate } = measured;
    if (now_us - alone_us).abs() > limits.drift_of(alone_us) {
        found.push(Contamination::Drift { alone: alone_us, now: now_us });
    }
    found.extend(fits(limits, "reference", alone_us, reference));
    // A neighbour slows both down, sooner or later at once. A candidate whose time depends on what it is given is slow by itself.
    let (ours, theirs) = (slow_from(limits, alone_us), slow_from(limits, fastest(candidate)));
    if reference.iter().zip(candidate).any(|(r, c)| r.0 > ours && c.0 > theirs) {
        found.extend(candidate_fits(limits, candidate));
    }
    found
}

/// Whether a candidate was by turns far slower than it can be. By itself that is no neighbour: see `reasons`.
pub fn candidate_fits(limits: &Limits, bursts: &[(f64, usize)]) -> Option<Contamination> {
    fits(limits, "candidate", fastest(bursts), bursts)
}

/// What a candidate takes alone nobody has measured.
fn fastest(bursts: &[(f64, usize)]) -> f64 {
    bursts.iter().map(|b| b.0).fold(f64::INFINITY, f64::min)
}

fn slow_from(limits: &Limits, can: f64) -> f64 {
    can + 2.0 * limits.drift_of(can)
}

fn fits(limits: &Limits, side: &'static str, can: f64, bursts: &[(f64, usize)]) -> Option<Contamination> {
    let most = slow_from(limits, can);
    let slow: Vec<usize> = bursts.iter().filter(|b| b.0 > most).map(|b| b.1).collect();
    let calls = bursts.iter().map(|b| b.1).sum::<usize>() as f64;
    // One is chance.
    let too_many = slow.len() >= 2 && slow.iter().sum::<usize>() as f64 > limits.slow_bursts * calls;
    too_many.then_some(Contamination::Fits { side, can, slow: slow.len(), of: bursts.len() })
}

/// What is kept with the result.
pub fn conditions(readings: &Readings<'_>, ours: &Ours) -> Conditions {
    let all: Vec<&Reading> = readings.before.into_iter().chain(readings.during).chain(readings.after).collect();
    let at_work: Vec<&Reading> = readings.during.iter().skip(1).chain(readings.after).collect();
    let low = |of: fn(&Reading) -> u32| at_work.iter().map(|r| of(r)).min().unwrap_or(0);
    let high = |of: fn(&Reading) -> u32| all.iter().map(|r| of(r)).max().unwrap_or(0);
    let mut throttled: Vec<String> = all.iter().flat_map(|r| r.throttle.reasons()).map(str::to_owned).collect();
    throttled.sort();
    throttled.dedup();
    let processes = all.iter().flat_map(|r| r.processes.iter().flatten());
    let mut foreign: Vec<u32> = processes.map(|p| p.pid).filter(|pid| !ours.pids.contains(pid)).collect();
    foreign.sort_unstable();
    foreign.dedup();
    Conditions {
        readings: all.len() as u32,
        sm_mhz_min: low(|r| r.sm_mhz),
        sm_mhz_max: high(|r| r.sm_mhz),
        memory_mhz_min: low(|r| r.memory_mhz),
        memory_mhz_max: high(|r| r.memory_mhz),
        temperature_max_c: high(|r| r.temperature_c),
        power_max_mw: high(|r| r.power_mw),
        throttled,
        foreign,
        processes_hidden: all.iter().any(|r| r.processes.is_none()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::inventory::{Process, Throttle};

    fn at(sm_mhz: u32) -> Reading {
        Reading { sm_mhz, memory_mhz: 2619, processes: Some(Vec::new()), ..Reading::default() }
    }

    fn of(before: Reading, during: Vec<Reading>, after: Reading, now_us: f64) -> Vec<Contamination> {
        let readings = Readings { before: Some(&before), during: &during, after: Some(&after), blind: false };
        reasons(
            &Limits::default(),
            &FreePolicy::default(),
            &readings,
            &Ours { pids: [1].into(), memory_bytes: 0 },
            &alone_and_now(100.0, now_us),
        )
    }

    fn alone_and_now(alone_us: f64, now_us: f64) -> Measured<'static> {
        Measured { alone_us, now_us, reference: &[], candidate: &[] }
    }

    /// Planted bug: three percent of a few microseconds is all that a reference may be off, or half a microsecond of any.
    #[test]
    fn short_references_have_half_a_microsecond_and_long_ones_their_share() {
        let limits = Limits::default();
        for (alone, off) in [(1.0, 0.5), (6.0, 0.5), (16.0, 0.5), (20.0, 0.6), (100.0, 3.0)] {
            assert!((limits.drift_of(alone) - off).abs() < 1e-9, "{alone}");
            for (by, refused) in [(0.99, false), (1.01, true), (-0.99, false), (-1.01, true)] {
                let (seen, during) = (at(1980), vec![at(1980); 3]);
                let readings = Readings { before: Some(&seen), during: &during, after: Some(&seen), blind: false };
                let measured = alone_and_now(alone, alone + by * off);
                let found = reasons(&limits, &FreePolicy::default(), &readings, &Ours::default(), &measured);
                assert_eq!(!found.is_empty(), refused, "{alone} {by}: {found:?}");
            }
        }
    }

    #[test]
    fn one_slow_burst_is_chance_and_two_of_five_are_fits() {
        let (seen, during) = (at(1980), vec![at(1980); 3]);
        let readings = Readings { before: Some(&seen), during: &during, after: Some(&seen), blind: false };
        let of = |reference: &[(f64, usize)], candidate: &[(f64, usize)]| {
            let measured = Measured { reference, candidate, ..alone_and_now(100.0, 100.0) };
            reasons(&Limits::default(), &FreePolicy::default(), &readings, &Ours::default(), &measured)
        };
        let found = |bursts: &[f64], calls: &[usize]| {
            let bursts: Vec<_> = bursts.iter().copied().zip(calls.iter().copied()).collect();
            of(&bursts, &[])
        };
        let fits = |slow, of| [Contamination::Fits { side: "reference", can: 100.0, slow, of }];
        assert_eq!(found(&[100.0, 150.0, 100.0, 105.9, 94.0], &[16; 5]), []);
        assert_eq!(found(&[100.0, 150.0, 100.0, 106.1, 94.0], &[16; 5]), fits(2, 5));
        // Planted bug: a long burst counts like a short one.
        let bursts = [150.0, 150.0, 100.0, 100.0, 100.0, 100.0, 100.0];
        assert_eq!(found(&bursts, &[16, 16, 16, 16, 16, 64, 64]), []);
        assert_eq!(found(&bursts, &[64, 64, 16, 16, 16, 16, 16]), fits(2, 7));
        // A candidate's own, against the fastest of them, where the reference was slow in one of them too.
        let once = [(150.0, 16), (100.0, 16), (100.0, 16), (100.0, 16), (100.0, 16)];
        let slow = [(106.0, 16), (100.0, 16), (106.0, 16), (106.0, 16), (100.0, 16)];
        assert_eq!(of(&once, &slow), []);
        let slow = slow.map(|(us, calls)| (if us > 100.0 { 1.01 * us } else { us }, calls));
        let fits = Contamination::Fits { side: "candidate", can: 100.0, slow: 3, of: 5 };
        assert_eq!(of(&once, &slow), std::slice::from_ref(&fits));
        let steady = [(150.0, 16); 5];
        assert_eq!(of(&once, &steady), []);
        // Planted bug: one that is by turns slow by itself is never accepted.
        let elsewhere = [once[1], once[0], once[2], once[3], once[4]];
        assert_eq!((of(&[(100.0, 16); 5], &slow), of(&elsewhere, &slow)), (vec![], vec![]));
        assert_eq!(candidate_fits(&Limits::default(), &slow), Some(fits));
    }

    #[test]
    fn a_quiet_measurement_is_accepted_although_the_gpu_was_idle_before() {
        assert_eq!(of(at(375), vec![at(375), at(1980), at(1965)], at(1980), 102.9), []);
    }

    #[test]
    fn each_disturbance_is_named() {
        let good = || vec![at(1980); 3];
        assert_eq!(of(at(1980), good(), at(1980), 103.1), [Contamination::Drift { alone: 100.0, now: 103.1 }]);
        let slow = of(at(1980), vec![at(1980), at(1980), at(1900)], at(1980), 100.0);
        assert_eq!(slow, [Contamination::Clock { low: 1900, high: 1980 }]);
        let hot = Reading { throttle: Throttle(0x20), ..at(1980) };
        let hot = of(at(1980), vec![at(1980), hot.clone(), hot], at(1980), 100.0);
        assert_eq!(hot.len(), 1, "{hot:?}");
        let other = Process { pid: 2, memory_bytes: Some(5), graphics: false };
        let met = Reading { processes: Some(vec![other]), ..at(1980) };
        let met = of(at(1980), vec![at(1980), met], at(1980), 100.0);
        assert_eq!(met, [Contamination::Seen(Why::Foreign { pid: 2, memory_bytes: Some(5) })]);
        let memory = of(at(1980), good(), Reading { memory_mhz: 1500, ..at(1980) }, 100.0);
        assert_eq!(memory, [Contamination::MemoryClock { low: 1500, high: 2619 }]);
        assert_eq!(of(at(1980), Vec::new(), at(1980), 100.0), [Contamination::Blind]);
        let (at_work, during) = (at(1980), good());
        let one = Readings { before: Some(&at_work), during: &during, after: Some(&at_work), blind: true };
        let alone = alone_and_now(100.0, 100.0);
        let blind = reasons(&Limits::default(), &FreePolicy::default(), &one, &Ours::default(), &alone);
        assert_eq!(blind, [Contamination::Blind], "one look that failed");
    }
}
