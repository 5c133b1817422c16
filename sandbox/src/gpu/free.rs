//! When a GPU is free: nobody else is on it, little of its memory is taken, it has been idle for a while, nothing slows it.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::inventory::Reading;

/// What is free enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreePolicy {
    /// Memory that is not ours, bytes.
    pub memory_bytes: u64,
    pub utilisation_percent: u32,
    /// For so long the utilisation has to have been low, milliseconds.
    pub window_ms: u64,
}

impl Default for FreePolicy {
    fn default() -> Self {
        FreePolicy { memory_bytes: 1 << 30, utilisation_percent: 5, window_ms: 2000 }
    }
}

/// What on a GPU is ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ours {
    pub pids: BTreeSet<u32>,
    /// All of our memory on it, where processes are hidden.
    pub memory_bytes: u64,
}

/// Why a GPU is not free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    Foreign {
        pid: u32,
        memory_bytes: Option<u64>,
    },
    Memory {
        bytes: u64,
        limit: u64,
    },
    Utilisation {
        percent: u32,
        limit: u32,
    },
    Throttled {
        reasons: Vec<&'static str>,
    },
    /// Not looked at for the whole window yet.
    Unwatched,
    Unreadable {
        message: String,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Foreign { pid, memory_bytes: Some(bytes) } => {
                write!(f, "process {pid} is on it, with {} MiB", bytes >> 20)
            }
            Why::Foreign { pid, memory_bytes: None } => write!(f, "process {pid} is on it"),
            Why::Memory { bytes, limit } => {
                write!(f, "{} MiB of its memory are somebody else's, at most {} may be", bytes >> 20, limit >> 20)
            }
            Why::Utilisation { percent, limit } => write!(f, "it is busy, {percent} % where {limit} may be"),
            Why::Throttled { reasons } => write!(f, "it slows down: {}", reasons.join(", ")),
            Why::Unwatched => write!(f, "it has not been watched for long enough"),
            Why::Unreadable { message } => write!(f, "it cannot be read: {message}"),
        }
    }
}

/// One GPU, watched.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Since when every look showed a low utilisation, or a busy one that was our own doing.
    quiet_since: Option<u64>,
    last_busy: Option<u32>,
}

impl Watch {
    /// A look at `now_ms`. `at_work`: something of ours ran since the last look, so its utilisation says nothing. Returns
    /// why it is not free; nothing when it is.
    pub fn look(
        &mut self,
        policy: &FreePolicy,
        now_ms: u64,
        reading: &Result<Reading, String>,
        ours: &Ours,
        at_work: bool,
    ) -> Vec<Why> {
        let reading = match reading {
            Ok(reading) => reading,
            Err(message) => {
                *self = Watch::default();
                return vec![Why::Unreadable { message: message.clone() }];
            }
        };
        if at_work || reading.utilisation_percent <= policy.utilisation_percent {
            self.quiet_since.get_or_insert(now_ms);
            self.last_busy = None;
        } else {
            self.quiet_since = None;
            self.last_busy = Some(reading.utilisation_percent);
        }
        let mut why = foreign(policy, reading, ours);
        match (self.last_busy, self.quiet_since) {
            (Some(percent), _) => why.push(Why::Utilisation { percent, limit: policy.utilisation_percent }),
            (None, Some(since)) if now_ms.saturating_sub(since) >= policy.window_ms => {}
            _ => why.push(Why::Unwatched),
        }
        why
    }
}

/// What one reading alone speaks against it with. Where processes are hidden, memory decides.
pub fn foreign(policy: &FreePolicy, reading: &Reading, ours: &Ours) -> Vec<Why> {
    let mut why = Vec::new();
    let mut theirs = reading.memory_used_bytes.saturating_sub(ours.memory_bytes);
    if let Some(processes) = &reading.processes {
        let others = processes.iter().filter(|p| !ours.pids.contains(&p.pid));
        why.extend(others.map(|p| Why::Foreign { pid: p.pid, memory_bytes: p.memory_bytes }));
        let known: u64 = processes.iter().filter(|p| ours.pids.contains(&p.pid)).filter_map(|p| p.memory_bytes).sum();
        theirs = reading.memory_used_bytes.saturating_sub(known.max(ours.memory_bytes));
    }
    if theirs > policy.memory_bytes {
        why.push(Why::Memory { bytes: theirs, limit: policy.memory_bytes });
    }
    let reasons = reading.throttle.reasons();
    if !reasons.is_empty() {
        why.push(Why::Throttled { reasons });
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::inventory::{Process, Throttle};

    const POLICY: FreePolicy = FreePolicy { memory_bytes: 100, utilisation_percent: 5, window_ms: 50 };

    fn idle() -> Reading {
        Reading { processes: Some(Vec::new()), ..Reading::default() }
    }

    fn process(pid: u32, bytes: u64) -> Process {
        Process { pid, memory_bytes: Some(bytes), graphics: false }
    }

    #[test]
    fn it_is_free_after_a_quiet_window_and_not_before() {
        let (mut watch, ours) = (Watch::default(), Ours::default());
        assert_eq!(watch.look(&POLICY, 0, &Ok(idle()), &ours, false), [Why::Unwatched]);
        assert_eq!(watch.look(&POLICY, 49, &Ok(idle()), &ours, false), [Why::Unwatched]);
        assert_eq!(watch.look(&POLICY, 50, &Ok(idle()), &ours, false), []);
        let busy = Reading { utilisation_percent: 6, ..idle() };
        assert_eq!(
            watch.look(&POLICY, 60, &Ok(busy.clone()), &ours, false),
            [Why::Utilisation { percent: 6, limit: 5 }]
        );
        assert_eq!(watch.look(&POLICY, 100, &Ok(idle()), &ours, false), [Why::Unwatched]);
        assert_eq!(watch.look(&POLICY, 150, &Ok(idle()), &ours, false), []);
        // Our own work is no reason.
        assert_eq!(watch.look(&POLICY, 160, &Ok(busy), &ours, true), []);
        let gone = watch.look(&POLICY, 170, &Err("gone".into()), &ours, false);
        assert_eq!(gone, [Why::Unreadable { message: "gone".into() }]);
        assert_eq!(watch.look(&POLICY, 180, &Ok(idle()), &ours, false), [Why::Unwatched]);
    }

    #[test]
    fn our_processes_and_their_memory_are_not_foreign() {
        let ours = Ours { pids: [7].into(), memory_bytes: 0 };
        let reading =
            |processes, used| Reading { processes: Some(processes), memory_used_bytes: used, ..Reading::default() };
        assert_eq!(foreign(&POLICY, &reading(vec![process(7, 5000)], 5100), &ours), []);
        let both = reading(vec![process(7, 5000), process(8, 10)], 5010);
        assert_eq!(foreign(&POLICY, &both, &ours), [Why::Foreign { pid: 8, memory_bytes: Some(10) }]);
        let memory = foreign(&POLICY, &reading(vec![process(7, 5000)], 5101), &ours);
        assert_eq!(memory, [Why::Memory { bytes: 101, limit: 100 }]);
        // Hidden processes: memory alone.
        let hidden = |used| Reading { memory_used_bytes: used, ..Reading::default() };
        let ours = Ours { memory_bytes: 1000, ..ours };
        assert_eq!(foreign(&POLICY, &hidden(1100), &ours), []);
        assert_eq!(foreign(&POLICY, &hidden(1101), &ours), [Why::Memory { bytes: 101, limit: 100 }]);
        let hot = Reading { throttle: Throttle(0x40), ..hidden(0) };
        assert_eq!(foreign(&POLICY, &hot, &ours), [Why::Throttled { reasons: vec!["hardware thermal slowdown"] }]);
    }

    /// Against a model that remembers every look.
    #[test]
    fn random_histories() {
        for seed in 1..200u64 {
            let mut state = seed;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state >> 40
            };
            let (mut watch, mut looks, mut now) = (Watch::default(), Vec::new(), 0);
            for _ in 0..200 {
                now += next() % 30;
                let reading = match next() % 8 {
                    0 => Err("gone".to_owned()),
                    n => Ok(Reading { utilisation_percent: if n == 1 { 90 } else { 3 }, ..idle() }),
                };
                let at_work = next() % 5 == 0;
                let free = watch.look(&POLICY, now, &reading, &Ours::default(), at_work).is_empty();
                let good = reading.as_ref().is_ok_and(|r| at_work || r.utilisation_percent <= 5);
                looks.push((now, good));
                let since = looks.iter().rev().take_while(|(_, good)| *good).last().map(|(at, _)| *at);
                assert_eq!(free, since.is_some_and(|since| now - since >= 50), "seed {seed}, {looks:?}");
            }
        }
    }
}
