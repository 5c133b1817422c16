//! `troupe bench inspect`: what viewers cost a run that uses all of a machine.
//!
//! One run (the actor graph of `bench orchestrator`, its stand-ins cost nothing) goes on for the whole time, with three viewers attached.
//! Windows of it in which they are stopped (SIGSTOP) and in which they go on take turns, in an order that turns round each time, so that
//! what drifts (a growing store, a warming machine) falls on both alike; attaching them anew for each would leave most of the time
//! unmeasured. Viewers are processes of their own, each in a session of its own as in terminals of their own. What they catch up with
//! after they were stopped is measured with what they do anyway.

mod page;
mod process;
mod viewers;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::orchestrator::{PER_STEP, scene};
use crate::observe::{Observer, Progress};
use crate::orchestrator::RunEnd;
use crate::run::RunError;
use crate::session::conduct;
use crate::stop::StopToken;
use crate::store::{StoreConfig, Writer};
use process::cpu_seconds;
use viewers::Viewers;

/// Steps before the first window.
const BEGUN: usize = 20;
const BEGUN_DEADLINE: Duration = Duration::from_secs(60);
/// Between stopping viewers, or letting them go on, and measuring.
const SETTLE: Duration = Duration::from_millis(300);
/// Between looks at how much they use while they read the past.
const LOOK: Duration = Duration::from_millis(1000);
/// Processors that viewers use no longer once they have read the past, and how long they may take for it.
const CALM: f64 = 0.15;
const READS: Duration = Duration::from_secs(30);
/// More steps than any bench takes.
const STEPS: u64 = 1 << 40;

/// What is attached in every second window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Attached {
    /// One dashboard with two pages open (overview, rollouts), and `troupe watch`.
    Shared,
    /// Three dashboards with a page each: nothing is shared.
    Apart,
    /// Nothing: how far windows of one run differ by themselves.
    None,
}

#[derive(Clone, Debug)]
pub struct InspectBench {
    pub attached: Attached,
    /// The viewers' program, where it is not this one.
    pub program: Option<PathBuf>,
    /// Pairs of windows.
    pub rounds: u32,
    pub window: Duration,
}

/// One window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Leg {
    pub rollouts_per_s: f64,
    /// Processor time of the run's own process for one rollout.
    pub own_us_per_rollout: f64,
    /// Processors that the run used.
    pub own_cores: f64,
    /// Processors that the viewers used.
    pub viewer_cores: f64,
    /// Updates of the page that was updated least.
    pub updates_per_s: f64,
    /// The store's log, MiB.
    pub log_mib: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Round {
    pub without: Leg,
    pub with: Leg,
    /// How many fewer rollouts a second with viewers, percent.
    pub loss_percent: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InspectFigures {
    pub attached: Attached,
    pub window_s: f64,
    /// False where there is no `setsid` program: the viewers were in the bench's own session.
    pub own_sessions: bool,
    pub processors: usize,
    pub rounds: Vec<Round>,
    pub rollouts_per_s_without: f64,
    pub rollouts_per_s_with: f64,
    /// Processors that the run used, and its own processor time for a rollout: they depend less than rates on how fast the
    /// machine happens to be.
    pub own_cores_without: f64,
    pub own_cores_with: f64,
    pub own_us_without: f64,
    pub own_us_with: f64,
    pub viewer_cores: f64,
    /// With viewers: updates a second of the page that was updated least, on average.
    pub updates_per_s: f64,
    /// Of the rounds: the median, the mean and its standard error, percent.
    pub loss_median: f64,
    pub loss_mean: f64,
    pub loss_error: f64,
    pub rollouts: u64,
}

/// When each step was done.
#[derive(Default)]
struct Marks(Mutex<Vec<Instant>>);

impl Observer for Marks {
    fn on(&self, progress: Progress) {
        if let Progress::Step(_) = progress {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        }
    }
}

impl Marks {
    fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Rollouts a second between the first and the last step of a window.
    fn rate(&self, from: Instant, to: Instant) -> f64 {
        let marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let inside: Vec<Instant> = marks.iter().copied().filter(|at| *at >= from && *at <= to).collect();
        match (inside.first(), inside.last()) {
            (Some(first), Some(last)) if last > first => {
                (inside.len() - 1) as f64 * PER_STEP as f64 / last.duration_since(*first).as_secs_f64()
            }
            _ => 0.0,
        }
    }
}

/// Runs it; `each` is told of every round.
///
/// # Errors
/// No folder, no store, a viewer that does not come up, or a fault of the run.
pub fn run(bench: InspectBench, stop: &StopToken, mut each: impl FnMut(&Round)) -> Result<InspectFigures, RunError> {
    let parent = std::env::temp_dir();
    let failed = |source| RunError::Io { doing: "cannot make a folder in", path: parent.clone(), source };
    let dir = tempfile::Builder::new().prefix("troupe-bench-").tempdir_in(&parent).map_err(failed)?;
    let writer = Writer::start(StoreConfig::new(dir.path().to_path_buf()), Box::new(|_| {}))?;
    let marks = Arc::new(Marks::default());
    let (args, ended) = scene(STEPS, &writer, marks.clone());
    let over = StopToken::default();
    let (end, rounds) = std::thread::scope(|scope| {
        let run = {
            let over = over.clone();
            scope.spawn(move || conduct(args, ended, &over))
        };
        let rounds = windows(&bench, dir.path(), &marks, stop, &mut each);
        over.ask();
        (run.join(), rounds)
    });
    let gone = || RunError::Fault { fault: crate::orchestrator::orchestrator_lost(), hint: String::new() };
    let end = end.map_err(|_| gone())??;
    writer.stop()?;
    if let RunEnd::Failed { fault, .. } = end {
        return Err(RunError::Fault { fault, hint: "the figures would mean nothing".into() });
    }
    Ok(summed(&bench, rounds?, marks.count()))
}

fn windows(
    bench: &InspectBench,
    dir: &Path,
    marks: &Marks,
    stop: &StopToken,
    each: &mut impl FnMut(&Round),
) -> Result<Vec<Round>, RunError> {
    let until = Instant::now() + BEGUN_DEADLINE;
    while marks.count() < BEGUN {
        if Instant::now() > until {
            let source = std::io::ErrorKind::TimedOut.into();
            return Err(RunError::Io { doing: "no steps were taken in", path: dir.into(), source });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut viewers = Viewers::attach(bench, dir)?;
    settle(&viewers);
    let mut rounds = Vec::new();
    for n in 0..bench.rounds {
        if stop.asked() {
            break;
        }
        let mut leg = |attached: bool| -> Result<Leg, RunError> {
            viewers.let_go_on(attached)?;
            std::thread::sleep(SETTLE);
            Ok(window(bench.window, dir, marks, &viewers))
        };
        let (without, with) = if n % 2 == 0 {
            (leg(false)?, leg(true)?)
        } else {
            let with = leg(true)?;
            (leg(false)?, with)
        };
        let loss_percent = 100.0 * (1.0 - with.rollouts_per_s / without.rollouts_per_s);
        let round = Round { without, with, loss_percent };
        each(&round);
        rounds.push(round);
    }
    viewers.let_go_on(true)?;
    viewers.check()?;
    Ok(rounds)
}

/// Until the viewers have read what was there.
fn settle(viewers: &Viewers) {
    let until = Instant::now() + READS;
    loop {
        let before = viewers.cpu_seconds();
        std::thread::sleep(LOOK);
        let calm = viewers.cpu_seconds() - before < CALM * LOOK.as_secs_f64();
        if calm || Instant::now() >= until {
            return;
        }
    }
}

fn window(length: Duration, dir: &Path, marks: &Marks, viewers: &Viewers) -> Leg {
    let own = std::process::id();
    let watched = || viewers.cpu_seconds();
    let (began, own_before, viewers_before) = (Instant::now(), cpu_seconds(own), watched());
    let updates_before = viewers.updates();
    std::thread::sleep(length);
    let (ended, own_after, viewers_after) = (Instant::now(), cpu_seconds(own), watched());
    let seconds = ended.duration_since(began).as_secs_f64();
    let updates = viewers.updates().iter().zip(&updates_before).map(|(after, before)| after - before).min();
    let rate = marks.rate(began, ended);
    let own_cores = (own_after - own_before) / seconds;
    let mut log = crate::store::path(dir).into_os_string();
    log.push("-wal");
    Leg {
        rollouts_per_s: rate,
        own_us_per_rollout: 1e6 * own_cores / rate.max(1.0),
        own_cores,
        viewer_cores: (viewers_after - viewers_before) / seconds,
        updates_per_s: updates.unwrap_or(0) as f64 / seconds,
        log_mib: std::fs::metadata(log).map_or(0.0, |m| m.len() as f64 / f64::from(1 << 20)),
    }
}

fn summed(bench: &InspectBench, rounds: Vec<Round>, steps: usize) -> InspectFigures {
    let of = |get: fn(&Round) -> f64| median(rounds.iter().map(get).collect());
    let losses: Vec<f64> = rounds.iter().map(|r| r.loss_percent).collect();
    let count = losses.len().max(1) as f64;
    let mean = losses.iter().sum::<f64>() / count;
    let variance = losses.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    InspectFigures {
        attached: bench.attached,
        window_s: bench.window.as_secs_f64(),
        own_sessions: process::own_sessions(),
        processors: std::thread::available_parallelism().map_or(0, usize::from),
        rollouts_per_s_without: of(|r| r.without.rollouts_per_s),
        rollouts_per_s_with: of(|r| r.with.rollouts_per_s),
        own_cores_without: of(|r| r.without.own_cores),
        own_cores_with: of(|r| r.with.own_cores),
        own_us_without: of(|r| r.without.own_us_per_rollout),
        own_us_with: of(|r| r.with.own_us_per_rollout),
        viewer_cores: of(|r| r.with.viewer_cores),
        updates_per_s: rounds.iter().map(|r| r.with.updates_per_s).sum::<f64>() / count,
        loss_median: median(losses),
        loss_mean: mean,
        loss_error: (variance / count).sqrt(),
        rounds,
        rollouts: steps as u64 * PER_STEP,
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    match all.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => all[n / 2],
        n => (all[n / 2 - 1] + all[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_of_each_round_and_the_middle_of_them_counts() {
        let leg = |rate| Leg {
            rollouts_per_s: rate,
            own_us_per_rollout: 0.0,
            own_cores: 0.0,
            viewer_cores: 0.0,
            updates_per_s: 0.0,
            log_mib: 0.0,
        };
        let round = |without, with: f64| Round {
            without: leg(without),
            with: leg(with),
            loss_percent: 100.0 * (1.0 - with / without),
        };
        let bench =
            InspectBench { attached: Attached::Shared, program: None, rounds: 3, window: Duration::from_secs(1) };
        let f = summed(&bench, vec![round(100.0, 99.0), round(200.0, 180.0), round(100.0, 97.0)], 2);
        assert!((f.loss_median - 3.0).abs() < 1e-9 && (f.loss_mean - 14.0 / 3.0).abs() < 1e-9, "{f:?}");
        assert_eq!((f.rollouts_per_s_without, f.rollouts_per_s_with), (100.0, 99.0));
        assert_eq!(f.rollouts, 2 * PER_STEP);
    }

    #[test]
    fn a_rate_is_between_the_steps_of_a_window() {
        let marks = Marks::default();
        let began = Instant::now();
        for n in 0..10u32 {
            marks.0.lock().unwrap().push(began + n * Duration::from_millis(100));
        }
        let rate = marks.rate(began + Duration::from_millis(150), began + Duration::from_millis(650));
        assert!((rate - 10.0 * PER_STEP as f64).abs() < 1e-6, "{rate}");
        assert_eq!(marks.rate(began + Duration::from_secs(5), began + Duration::from_secs(6)), 0.0);
    }
}
