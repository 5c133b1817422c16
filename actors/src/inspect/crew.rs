//! The executors and the actors, as far as the store knows them: what is at which stage, how long each phase of an
//! evaluation took, which devices measured, which faults happened. Lanes, curves and queues over time are in `notes`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Run;
use crate::store::StoreError;
use crate::store::reader::FaultEntry;

/// The executed rollouts whose reports are read.
const RECENT: usize = 512;
const FAULTS: u32 = 200;

#[derive(Debug, Serialize, Deserialize)]
pub struct Crew {
    /// Rollouts without an ending, by state.
    pub stages: BTreeMap<String, u64>,
    /// Training rollouts in flight, and how many may be.
    pub in_flight: u64,
    pub credits: Option<u64>,
    /// Time of each phase of the newest executed rollouts, milliseconds.
    pub phases: BTreeMap<String, Spread>,
    /// How many reports these are, and how many of them were taken from an equal candidate.
    pub reports: usize,
    pub reused: usize,
    pub devices: BTreeMap<String, Device>,
    /// Settings of the run file that matter here.
    pub settings: BTreeMap<String, String>,
    pub fault_counts: BTreeMap<String, u64>,
    /// Newest first.
    pub faults: Vec<FaultEntry>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub count: usize,
    pub median: f64,
    pub p95: f64,
    pub max: f64,
}

/// What the newest measurements say about a device.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Device {
    pub measurements: u64,
    pub sm_mhz: (u32, u32),
    pub temperature_max_c: u32,
    pub power_max_mw: u32,
    pub throttled: BTreeMap<String, u64>,
    pub foreign_processes: u64,
    pub refused: u64,
}

impl Run {
    pub fn crew(&self) -> Result<Crew, StoreError> {
        let reader = self.reader()?;
        let (stages, in_flight) = self.table().open();
        let reports = reader.reports(&self.executed())?;
        let mut times: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let mut devices: BTreeMap<String, Device> = BTreeMap::new();
        let fresh = || reports.iter().map(|(_, report)| report).filter(|report| !report.reused);
        for report in fresh() {
            for (phase, ms) in &report.phase_ms {
                times.entry(phase.clone()).or_default().push(*ms);
            }
            let Some(timing) = &report.timing else { continue };
            let (device, c) = (devices.entry(timing.device.clone()).or_default(), &timing.conditions);
            device.sm_mhz = match device.measurements {
                0 => (c.sm_mhz_min, c.sm_mhz_max),
                _ => (device.sm_mhz.0.min(c.sm_mhz_min), device.sm_mhz.1.max(c.sm_mhz_max)),
            };
            device.measurements += 1;
            device.temperature_max_c = device.temperature_max_c.max(c.temperature_max_c);
            device.power_max_mw = device.power_max_mw.max(c.power_max_mw);
            device.foreign_processes += c.foreign.len() as u64;
            device.refused += timing.refused.len() as u64;
            c.throttled.iter().for_each(|reason| *device.throttled.entry(reason.clone()).or_default() += 1);
        }
        let config = self.config();
        Ok(Crew {
            stages,
            in_flight,
            credits: config.map(|c| c.rollout.credits as u64),
            phases: times.into_iter().map(|(phase, ms)| (phase, spread(ms))).collect(),
            reused: reports.len() - fresh().count(),
            reports: reports.len(),
            devices,
            settings: config.map_or_else(BTreeMap::new, |c| {
                [
                    ("executor.workers", c.executor.workers.to_string()),
                    ("rollout.credits", c.rollout.credits.to_string()),
                    ("rollout.staleness_max", c.rollout.staleness_max.to_string()),
                    ("model.device", format!("{:?}", c.model.device).to_lowercase()),
                ]
                .into_iter()
                .map(|(name, value)| (name.to_string(), value))
                .collect()
            }),
            fault_counts: reader.fault_counts()?,
            faults: reader.newest_faults(FAULTS)?,
        })
    }

    /// The newest rollouts that were executed.
    fn executed(&self) -> Vec<u64> {
        let table = self.table();
        let Some(verdicts) = table.words("verdict") else { return Vec::new() };
        let not = [Some(0), verdicts.find("rejected"), verdicts.find("unparsed")];
        let newest = verdicts.codes().iter().enumerate().rev().filter(|(_, code)| !not.contains(&Some(**code)));
        newest.take(RECENT).map(|(row, _)| table.id(row)).collect()
    }
}

fn spread(mut all: Vec<f64>) -> Spread {
    all.sort_by(f64::total_cmp);
    let at = |share: f64| all[((all.len() - 1) as f64 * share).round() as usize];
    Spread { count: all.len(), median: at(0.5), p95: at(0.95), max: at(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_the_sorted_times() {
        let all = (1..=100).rev().map(f64::from).collect();
        assert_eq!(spread(all), Spread { count: 100, median: 51.0, p95: 95.0, max: 100.0 });
        assert_eq!(spread(vec![7.0]), Spread { count: 1, median: 7.0, p95: 7.0, max: 7.0 });
    }
}
