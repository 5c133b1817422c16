//! `troupe bench orchestrator`: rollouts per second through the whole actor graph, and the memory it takes.
//!
//! Generator, executors and learner are stand-ins of zero cost. Everything else is what a run has: the actors and
//! their threads, the machine, the judge on a real answer, the journal and the store on the disk, a durable barrier
//! before every step. Every rollout is judged and executed (no verdict is reused); a few groups go stale.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rollout::curriculum::CurriculumKind;
use rollout::id::{Epoch, PolicyVersion, StepId};
use rollout::journal::Snapshot;
use rollout::machine::MachineConfig;
use rollout::task::Split;
use serde::Serialize;
use tokio::sync::oneshot;

use super::standins;
use crate::driver::PhaseSpec;
use crate::generator::Adoption;
use crate::observe::{Observer, Progress};
use crate::orchestrator::{OrchestratorArgs, RunEnd};
use crate::run::RunError;
use crate::session::conduct;
use crate::stop::StopToken;
use crate::store::rows::PhaseTag;
use crate::store::{Reader, StoreConfig, Writer};
use crate::wiring::Capacities;

const GROUP_SIZE: u32 = 8;
const GROUPS_PER_STEP: u32 = 64;
const STALENESS: u64 = 2;
const CREDITS: u32 = 2048;
const TASKS: usize = 64;
/// Rollouts of one step.
pub const PER_STEP: u64 = (GROUP_SIZE * GROUPS_PER_STEP) as u64;

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OrchestratorBench {
    /// Rollouts that were sampled, judged, executed, scored and trained on.
    pub rollouts: u64,
    pub seconds: f64,
    pub rollouts_per_s: f64,
    /// Resident memory of the process when a tenth, and when all of them were done, MiB.
    pub rss_tenth_mib: f64,
    pub rss_end_mib: f64,
    /// Size of the store, MiB.
    pub store_mib: f64,
    /// Rollouts by ending, as the store has them.
    pub endings: std::collections::BTreeMap<String, u64>,
}

/// Sends `rollouts` (rounded up to whole steps) through the graph, with a store in a temporary folder of `scratch`.
pub fn run(rollouts: u64, scratch: Option<&Path>, stop: &StopToken) -> Result<OrchestratorBench, RunError> {
    let parent = scratch.map_or_else(std::env::temp_dir, Path::to_path_buf);
    let failed = |source| RunError::Io { doing: "cannot make a folder in", path: parent.clone(), source };
    let dir = tempfile::Builder::new().prefix("troupe-bench-").tempdir_in(&parent).map_err(failed)?;
    let steps = rollouts.div_ceil(PER_STEP).max(1);
    let writer = Writer::start(StoreConfig::new(dir.path().to_path_buf()), Box::new(|_| {}))?;
    let gauge = Arc::new(Gauge { tenth: steps.div_ceil(10), rss_mib: Mutex::new(0.0) });
    let (args, ended) = scene(steps, &writer, gauge.clone());
    let started = Instant::now();
    let end = conduct(args, ended, stop)?;
    writer.stop()?;
    let seconds = started.elapsed().as_secs_f64();
    if let RunEnd::Failed { fault, .. } = end {
        return Err(RunError::Fault { fault, hint: "the figures would mean nothing".into() });
    }
    let endings = Reader::open(dir.path())?.endings(PhaseTag::Train)?;
    let rollouts = endings.get("trained").copied().unwrap_or(0);
    let rss_tenth_mib = *gauge.rss_mib.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(OrchestratorBench {
        rollouts,
        seconds,
        rollouts_per_s: rollouts as f64 / seconds,
        rss_tenth_mib,
        rss_end_mib: rss_mib(),
        store_mib: size(&crate::store::path(dir.path())) as f64 / (1 << 20) as f64,
        endings,
    })
}

/// The actor graph with its stand-ins over a store, not begun; it ends after `steps` of [`PER_STEP`] rollouts.
pub fn scene(
    steps: u64,
    writer: &Writer,
    observer: Arc<dyn Observer>,
) -> (OrchestratorArgs, oneshot::Receiver<RunEnd>) {
    let tasks = standins::tasks(TASKS, Split::Train);
    let machine = MachineConfig {
        group_size: GROUP_SIZE,
        groups_per_step: GROUPS_PER_STEP,
        staleness_max: STALENESS,
        credits: CREDITS,
        curriculum: CurriculumKind::Uniform,
        drop_zero_variance: false,
        steps,
        ..MachineConfig::default()
    };
    let (done, ended) = oneshot::channel();
    let args = OrchestratorArgs {
        // Passed and failed in turns: every group has an advantage.
        crew: standins::crew(|n| n % 2 == 0),
        capacities: Capacities {
            credits: CREDITS as usize,
            executors: 2,
            executors_max: 2,
            execute_deadline: Duration::from_secs(10),
            train_deadline: Duration::from_secs(10),
            reuse_verdicts: false,
        },
        phases: vec![PhaseSpec::Rl {
            snapshot: Box::new(Snapshot::start(machine, tasks.iter().map(|t| t.spec.id.clone()).collect())),
            epoch: Epoch(1),
            policy: PolicyVersion(0),
            step: StepId(0),
            clock_ms: 0,
            restored: Vec::new(),
        }],
        tasks,
        store: writer.handle(),
        observer,
        reward: reward::RewardConfig::default(),
        start: Adoption { weights: standins::weights(), policy: PolicyVersion(0) },
        time_limit_ms: 0,
        tick: Duration::from_secs(1),
        done,
    };
    (args, ended)
}

/// Reads the memory when a tenth of the steps is done.
struct Gauge {
    tenth: u64,
    rss_mib: Mutex<f64>,
}

impl Observer for Gauge {
    fn on(&self, progress: Progress) {
        if let Progress::Step(row) = progress
            && row.step.0 == self.tenth
        {
            *self.rss_mib.lock().unwrap_or_else(PoisonError::into_inner) = rss_mib();
        }
    }
}

/// Resident memory of this process; 0 where `/proc` does not tell.
pub fn rss_mib() -> f64 {
    const PAGE_KIB: f64 = 4.0;
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<f64>().ok()).map_or(0.0, |p| p * PAGE_KIB / 1024.0)
}

fn size(path: &PathBuf) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}
