//! The run at a glance: what is wrong first, then where it stands and how it went.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::alarms::{Alarm, alarms};
use super::{Pulse, Run};
use crate::store::{PhaseTag, Reader, StoreError};

/// Points of one curve; longer runs are averaged over neighbouring steps.
const POINTS: usize = 1000;
/// Intervals of the throughput's curve.
const INTERVALS: usize = 120;
/// Without a change for this long, a run without a summary is called quiet.
const QUIET_MS: u64 = 15_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Overview {
    pub run_dir: String,
    /// The version of Troupe that began the run.
    pub version: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub started_at: Option<u64>,
    pub now: u64,
    /// When the store was written last.
    pub written_at: Option<u64>,
    pub status: Status,
    pub pulse: Pulse,
    /// The gravest first.
    pub alarms: Vec<Alarm>,
    /// Rollouts by phase and ending; `in_flight` for those without one.
    pub ledger: BTreeMap<String, BTreeMap<String, u64>>,
    /// Training answers by verdict.
    pub verdicts: BTreeMap<String, u64>,
    pub faults: BTreeMap<String, u64>,
    pub steps: Curves,
    /// Ended rollouts and their tokens per second, over the time of the run.
    pub throughput: Curves,
    /// `summary.json`, when the run has ended.
    pub summary: Option<Value>,
    pub steps_planned: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "text")]
pub enum Status {
    Running(String),
    /// Nothing was written lately: stopped, crashed, or waiting for something long.
    Quiet(String),
    Finished(String),
}

/// Curves over one axis. A value that a step does not have is null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curves {
    pub x: Vec<f64>,
    pub y: BTreeMap<String, Vec<Option<f64>>>,
}

impl Run {
    /// The whole overview.
    pub fn overview(&self) -> Result<Overview, StoreError> {
        let reader = self.reader()?;
        let now = crate::flow::wall_ms();
        let summary = std::fs::read_to_string(self.dir().join(crate::run::SUMMARY_FILE)).ok();
        let summary: Option<Value> = summary.and_then(|text| serde_json::from_str(&text).ok());
        let faults = reader.fault_counts()?;
        let (ledger, verdicts) = self.counts();
        Ok(Overview {
            run_dir: self.dir().display().to_string(),
            version: reader.meta("version")?,
            started_at: reader.meta("started_at")?.and_then(|text| text.parse().ok()),
            now,
            written_at: self.last_write_ms(),
            status: self.status(&reader, &summary, now)?,
            pulse: self.pulse(),
            alarms: alarms(self, &reader, &ledger, now)?,
            ledger,
            verdicts,
            faults,
            steps: {
                let mut metrics = self.metrics.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                metrics.read(&reader)?;
                metrics.curves()
            },
            throughput: self.throughput(),
            summary,
            steps_planned: self.config().map(|c| c.run.steps),
        })
    }

    fn status(&self, reader: &Reader, summary: &Option<Value>, now: u64) -> Result<Status, StoreError> {
        let done = |phase: &str| reader.meta(&format!("done.{phase}")).map(|v| v.is_some());
        // A run without evaluations goes to RL at once.
        let begun = done("eval_before")? || reader.last_step()?.is_some();
        let phase = match (begun, done("train")?) {
            (false, _) => "before RL: set-up or evaluation",
            (true, false) => "RL",
            (true, true) => "after RL: evaluation",
        };
        let interrupted = summary.as_ref().and_then(|s| s["interrupted"].as_bool());
        let changed = self.last_write_ms();
        let age = changed.map_or(u64::MAX, |at| now.saturating_sub(at));
        Ok(match interrupted {
            _ if age < QUIET_MS && interrupted != Some(false) => Status::Running(format!("running: {phase}")),
            Some(false) => Status::Finished("finished".into()),
            Some(true) => Status::Finished(format!("stopped by its user in {phase}; `troupe resume` goes on")),
            None => Status::Quiet(format!(
                "nothing was written for {} s in {phase}: stopped, crashed, or at something long",
                age / 1000
            )),
        })
    }

    /// When the store's files were written last, milliseconds since the Unix epoch.
    pub fn last_write_ms(&self) -> Option<u64> {
        let store = crate::store::path(self.dir());
        let mut log = store.clone().into_os_string();
        log.push("-wal");
        let at = |path: &std::path::Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
        let newest = [at(&store), at(std::path::Path::new(&log))].into_iter().flatten().max()?;
        newest.duration_since(std::time::UNIX_EPOCH).ok().map(|d| d.as_millis() as u64)
    }

    /// Rollouts by phase and ending, and training answers by verdict.
    #[allow(clippy::type_complexity)]
    fn counts(&self) -> (BTreeMap<String, BTreeMap<String, u64>>, BTreeMap<String, u64>) {
        let table = self.table();
        let (mut ledger, mut verdicts) = (BTreeMap::new(), BTreeMap::new());
        let (Some(phases), Some(endings), Some(found)) =
            (table.words("phase"), table.words("ending"), table.words("verdict"))
        else {
            return (ledger, verdicts);
        };
        // By code first: three look-ups a row and no text.
        let mut pairs: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        let mut codes = vec![0u64; found.dictionary().count()];
        let train = phases.find(PhaseTag::Train.as_str());
        for row in 0..table.len() {
            let phase = phases.codes()[row];
            *pairs.entry((phase, endings.codes()[row])).or_default() += 1;
            if Some(phase) == train {
                codes[found.codes()[row] as usize] += 1;
            }
        }
        let text = |words: &super::table::Words, code: u32, none: &str| {
            words.dictionary().nth(code as usize).flatten().unwrap_or(none).to_string()
        };
        for ((phase, ending), count) in pairs {
            let of_phase: &mut BTreeMap<String, u64> = ledger.entry(text(phases, phase, "unknown")).or_default();
            of_phase.insert(text(endings, ending, "in_flight"), count);
        }
        for (code, count) in codes.into_iter().enumerate().filter(|(code, count)| *code > 0 && *count > 0) {
            verdicts.insert(text(found, code as u32, ""), count);
        }
        (ledger, verdicts)
    }

    fn throughput(&self) -> Curves {
        let table = self.table();
        let (ended, tokens) = (table.number("ended_at"), table.number("n_tokens"));
        let known = || ended.iter().copied().filter(|at| !at.is_nan());
        let (from, to) = known().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), at| (a.min(at), b.max(at)));
        if from >= to {
            return Curves::default();
        }
        // Whole seconds, so that a point is a rate and not an accident of milliseconds.
        let width = ((to - from) / INTERVALS as f64 / 1000.0).ceil() * 1000.0;
        let intervals = ((to - from) / width) as usize + 1;
        let mut sums = vec![(0.0, 0.0); intervals];
        for (at, tokens) in ended.iter().zip(tokens).filter(|(at, _)| !at.is_nan()) {
            let sum = &mut sums[((at - from) / width) as usize];
            *sum = (sum.0 + 1.0, sum.1 + if tokens.is_nan() { 0.0 } else { *tokens });
        }
        let rate = |of: fn(&(f64, f64)) -> f64| sums.iter().map(|s| Some(of(s) * 1000.0 / width)).collect();
        Curves {
            x: (0..intervals).map(|n| ((n as f64 + 0.5) * width + from) / 1000.0).collect(),
            y: [("rollouts_per_s".to_string(), rate(|s| s.0)), ("tokens_per_s".to_string(), rate(|s| s.1))].into(),
        }
    }
}

/// The numbers of all steps read so far: a step's are written once.
#[derive(Default)]
pub struct Metrics {
    by_name: BTreeMap<String, Vec<(u64, f64)>>,
    steps: Vec<u64>,
}

impl Metrics {
    fn read(&mut self, reader: &Reader) -> Result<(), StoreError> {
        let Metrics { by_name, steps } = self;
        // Steps count from 1.
        reader.each_metric(steps.last().copied().unwrap_or(0), |step, name, value| {
            if steps.last() != Some(&step) {
                steps.push(step);
            }
            match by_name.get_mut(name) {
                Some(points) => points.push((step, value)),
                None => drop(by_name.insert(name.to_string(), vec![(step, value)])),
            }
        })
    }

    fn curves(&self) -> Curves {
        let width = self.steps.len().div_ceil(POINTS).max(1);
        let x = self.steps.chunks(width).map(|c| c[c.len() - 1] as f64).collect();
        let place = |step: &u64| self.steps.binary_search(step).unwrap_or_else(|at| at) / width;
        let mean = |points: &[(u64, f64)]| {
            let mut sums = vec![(0.0, 0u32); self.steps.len().div_ceil(width)];
            for (step, value) in points {
                let sum = &mut sums[place(step)];
                *sum = (sum.0 + value, sum.1 + 1);
            }
            sums.into_iter().map(|(sum, n)| (n > 0).then(|| sum / f64::from(n))).collect()
        };
        Curves { x, y: self.by_name.iter().map(|(name, points)| (name.clone(), mean(points))).collect() }
    }
}
