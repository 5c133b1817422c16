//! What was measured of a correct candidate beside its reference, and under which conditions.

use serde::{Deserialize, Serialize};

/// One accepted measurement. Times are device time of one call, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// The GPU's UUID and name.
    pub device: String,
    /// Medians.
    pub reference_us: f64,
    pub candidate_us: f64,
    /// What the reference took, at most 3 % more than alone, over `candidate_us`; and its 95 % interval.
    pub speedup: f64,
    pub low: f64,
    pub high: f64,
    /// Calls of each side that count.
    pub samples: u32,
    /// Whether the interval became as narrow as it was to be.
    pub converged: bool,
    /// The interval covers 1, or did with all that the reference took: neither is faster, and the rewarded speed-up is 1.
    pub tie: bool,
    /// The reference, timed alone.
    pub baseline_us: f64,
    /// Measurements that were not accepted before this one, and why; last, beginning with "accepted", why this one's time was counted as
    /// longer than it was, or why it is not called converged.
    pub refused: Vec<String>,
    pub conditions: Conditions,
}

impl Timing {
    /// The speed-up that is rewarded.
    pub fn rewarded(&self) -> f64 {
        if self.tie { 1.0 } else { self.speedup }
    }
}

/// The device while it was measured, as NVML has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    /// Readings behind the figures below.
    pub readings: u32,
    pub sm_mhz_min: u32,
    pub sm_mhz_max: u32,
    pub memory_mhz_min: u32,
    pub memory_mhz_max: u32,
    pub temperature_max_c: u32,
    pub power_max_mw: u32,
    /// Active reasons to slow down.
    pub throttled: Vec<String>,
    /// Processes that are not ours.
    pub foreign: Vec<u32>,
    /// NVML tells no processes (containers, MIG).
    pub processes_hidden: bool,
}
