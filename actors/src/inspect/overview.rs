//! The run at a glance: what is wrong first, then where it stands and how it went.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::alarms::{Alarm, alarms};
use super::hacks::Hacks;
use super::{Pulse, Run};
use crate::store::{Reader, StoreError};

/// Points of one curve; longer runs are averaged over neighbouring steps.
const POINTS: usize = 300;
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
    #[serde(default)]
    pub hacks: Hacks,
    pub steps: Curves,
    /// The numbers of the last step itself: a point of a long run's curves is a mean of several.
    #[serde(default)]
    pub last: BTreeMap<String, f64>,
    /// Ended rollouts and their tokens per second, over the time of the run.
    pub throughput: Curves,
    /// Of the last whole minute, or of what there is of one.
    #[serde(default)]
    pub rollouts_per_s: Option<f64>,
    /// `summary.json`, when the run has ended.
    pub summary: Option<Value>,
    pub steps_planned: Option<u64>,
    /// What the run said last of its queues: mailboxes, credits, waits.
    #[serde(default)]
    pub queues: Option<Value>,
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
        let (overview, metrics) = self.glance()?;
        Ok(Overview { steps: metrics.curves.clone(), ..overview })
    }

    /// The overview with no curves of steps.
    pub fn overview_without_curves(&self) -> Result<Overview, StoreError> {
        Ok(self.glance()?.0)
    }

    /// The last step whose numbers were read.
    pub fn last_step_known(&self) -> Option<u64> {
        // Steps count from 1.
        Some(self.newest_step.load(Ordering::Relaxed)).filter(|step| *step > 0)
    }

    fn glance(&self) -> Result<(Overview, std::sync::MutexGuard<'_, Metrics>), StoreError> {
        let mut metrics = self.metrics.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Opened once, and again after an error.
        let reader = metrics.reader.take().filter(|reader| !reader.is_outdated()).map_or_else(|| self.reader(), Ok)?;
        let now = crate::flow::wall_ms();
        let summary = std::fs::read_to_string(self.dir().join(crate::run::SUMMARY_FILE)).ok();
        let summary: Option<Value> = summary.and_then(|text| serde_json::from_str(&text).ok());
        let faults = reader.fault_counts()?;
        let (ledger, verdicts) = self.table().ledger();
        metrics.read(&reader)?;
        if let Err(error) = reader.unmoved() {
            // Read once more by whoever asks next.
            *metrics = Metrics::default();
            return Err(error);
        }
        self.newest_step.store(metrics.steps.last().copied().unwrap_or(0), Ordering::Relaxed);
        let status = self.status(&reader, &summary, now)?;
        let over = matches!(status, Status::Finished(_));
        // By itself: within the expression below the table would stay locked while it is asked again.
        let throughput = self.table().totals().throughput();
        let hacks = self.table().hacks();
        let overview = Overview {
            run_dir: self.dir().display().to_string(),
            version: reader.meta("version")?,
            started_at: reader.meta("started_at")?.and_then(|text| text.parse().ok()),
            now,
            written_at: self.last_write_ms(),
            status,
            pulse: self.pulse(),
            alarms: alarms(self, &reader, &ledger, &metrics.times, over, now)?,
            ledger,
            verdicts,
            faults,
            hacks,
            steps: Curves::default(),
            last: metrics.last(),
            throughput,
            rollouts_per_s: self.rollouts_per_s(now),
            summary,
            steps_planned: self.config().map(|c| c.run.steps),
            queues: reader.newest_sample("run")?,
        };
        metrics.reader = Some(reader);
        Ok((overview, metrics))
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

    /// Up to now while the run writes, else up to its last second.
    fn rollouts_per_s(&self, now: u64) -> Option<f64> {
        let writes = self.last_write_ms().is_some_and(|at| now.saturating_sub(at) < QUIET_MS);
        // What ended in the newest second may not be read yet.
        let end = (writes && self.pulse().behind == 0).then_some((now / 1000).saturating_sub(1));
        self.table().totals().rate_lately(end)
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
}

/// The numbers of all steps read so far: a step's are written once.
#[derive(Default)]
pub struct Metrics {
    by_name: BTreeMap<String, Vec<(u64, f64)>>,
    steps: Vec<u64>,
    /// When each step was done, and the number of the last of them.
    times: Vec<u64>,
    timed: u64,
    /// Of what was read.
    curves: Curves,
    reader: Option<Reader>,
}

impl Metrics {
    fn read(&mut self, reader: &Reader) -> Result<(), StoreError> {
        for (step, at) in reader.step_times(self.timed)? {
            self.times.push(at);
            self.timed = step;
        }
        let Metrics { by_name, steps, .. } = self;
        let known = steps.len();
        // Steps count from 1.
        reader.each_metric(steps.last().copied().unwrap_or(0), |step, name, value| {
            if steps.last() != Some(&step) {
                steps.push(step);
            }
            match by_name.get_mut(name) {
                Some(points) => points.push((step, value)),
                None => drop(by_name.insert(name.to_string(), vec![(step, value)])),
            }
        })?;
        if self.steps.len() > known {
            self.curves = self.drawn();
        }
        Ok(())
    }

    fn last(&self) -> BTreeMap<String, f64> {
        let Some(last) = self.steps.last() else { return BTreeMap::new() };
        let of = |points: &Vec<(u64, f64)>| points.last().filter(|(step, _)| step == last).map(|(_, value)| *value);
        self.by_name.iter().filter_map(|(name, points)| Some((name.clone(), of(points)?))).collect()
    }

    fn drawn(&self) -> Curves {
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

/// The curves that the overview draws, in `dashboard/assets/overview.js`, and so does the terminal.
pub const DRAWN: [&str; 21] = [
    "batch.reward_code",
    "batch.scored_reward_code",
    "batch.reward_plan",
    "batch.scored_reward_plan",
    "batch.scored_fast_1",
    "batch.scored_speedup",
    "batch.staleness_mean",
    "batch.staleness_max",
    "batch.answer_tokens",
    "batch.truncated",
    "batch.no_delimiter",
    "batch.executors",
    "batch.executors_wanted",
    "batch.executors_busy",
    "learner.mismatch_kl",
    "learner.entropy_plan",
    "learner.entropy_code",
    "learner.ess",
    "learner.clip_fraction",
    "learner.grad_norm",
    "learner.seconds",
];

impl Overview {
    /// For a page: what is drawn of the steps, in as many digits as can be seen.
    pub fn for_a_page(&mut self) {
        self.steps.for_a_page();
        self.hacks.curves.y.values_mut().flatten().flatten().for_each(|value| *value = five_digits(*value));
        self.last.retain(|name, _| DRAWN.contains(&name.as_str()));
        self.last.values_mut().for_each(|value| *value = five_digits(*value));
    }
}

impl Curves {
    /// For a page: the curves that are drawn, in as many digits as can be seen.
    fn for_a_page(&mut self) {
        self.y.retain(|name, _| DRAWN.contains(&name.as_str()));
        for value in self.y.values_mut().flatten().flatten() {
            *value = five_digits(*value);
        }
    }
}

fn five_digits(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let scale = 10f64.powi(4 - x.abs().log10().floor() as i32);
    let shorter = (x * scale).round() / scale;
    if shorter.is_finite() { shorter } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_digits_are_kept_of_a_number_of_any_size() {
        for (x, shown) in [
            (0.0, "0.0"),
            (-0.0015458161942660809, "-0.0015458"),
            (123456.7, "123460.0"),
            (1.0, "1.0"),
            (3.3e-7, "3.3e-7"),
        ] {
            assert_eq!(serde_json::to_string(&five_digits(x)).unwrap(), shown);
        }
        assert_eq!(five_digits(1e-320), 1e-320, "a number too small to be scaled stays");
    }

    #[test]
    fn what_is_drawn_is_in_the_page() {
        let page = include_str!("../dashboard/assets/overview.js");
        for name in DRAWN {
            let (_, last) = name.split_once('.').unwrap();
            assert!(page.contains(&format!("{last}: \"")), "{name}");
        }
    }
}
