//! What a run tells whoever watches it: the terminal, a test, later a dashboard. A watcher can never slow a run down
//! or change it: calls are short, and everything told is also in the store.

use std::path::PathBuf;

use rollout::id::{PolicyVersion, StepId};
use serde::Serialize;

use crate::cluster::Link;
use crate::logbook::Glance;
use crate::scaling::Hint;
use crate::store::rows::StepRow;

/// The parts of a run, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunPhase {
    /// The Python environment, then the folders.
    SetUp,
    /// Supervised fine-tuning, or loading its cached result.
    WarmStart,
    EvalBefore,
    Rl,
    EvalAfter,
    Summary,
}

/// Where the work stands; sent about once a second while actors run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Live {
    /// Rollouts per stage.
    pub sampling: u64,
    pub judging: u64,
    pub executing: u64,
    /// Scored, waiting for the rest of their group or for the learner.
    pub waiting: u64,
    pub credits_in_use: u64,
    pub credits: u64,
    /// Rollouts ended since the run began (RL phase), by trained and dropped.
    pub trained: u64,
    pub dropped: u64,
    pub steps_done: u64,
    pub steps_total: u64,
    pub policy: PolicyVersion,
    /// Answer tokens sampled per second over the last few seconds.
    pub tokens_per_s: f64,
    /// Answers scored per second over the last few seconds.
    pub scored_per_s: f64,
    /// Mean code reward (verified correctness) of the last 256 scored answers; `None` before the first.
    pub recent_correct: Option<f64>,
    /// Share of finished groups whose rewards were all equal; `None` before the first.
    pub zero_variance_rate: Option<f64>,
    pub groups_ready: u64,
    /// True while the learner works on a step.
    pub training: bool,
    /// Rollouts of the last batch by staleness in versions (index 0: on-policy).
    pub staleness: Vec<u64>,
    /// Faults of ours so far.
    pub faults: u64,
    /// The executors, and how many would keep up.
    pub executors: Hint,
}

/// What is told. Every text is one line.
#[derive(Clone, Debug)]
pub enum Progress {
    Phase(RunPhase),
    /// Something worth a line, for example what set-up is doing.
    Note(String),
    /// Optimizer steps of the warm start; `loss` is the mean token loss in nats.
    WarmStart {
        step: u64,
        steps: u64,
        loss: f64,
    },
    /// Answers of the present evaluation phase; `correct` of `done` were verified correct.
    Eval {
        phase: RunPhase,
        done: u64,
        total: u64,
        correct: u64,
    },
    Live(Live),
    /// One optimizer step is durable.
    Step(Box<StepRow>),
    /// A fault of ours; the run goes on.
    Fault {
        code: String,
        message: String,
    },
    /// The run was asked to stop and is letting go of what is in flight.
    Stopping {
        after: StepId,
    },
}

/// Someone who watches.
pub trait Observer: Send + Sync {
    fn on(&self, progress: Progress);

    /// There is this to look at from now on. Most do not care.
    fn may_look(&self, _: Source) {}
}

/// Something that answers at any time, also where the run itself says nothing any more.
#[derive(Clone)]
pub enum Source {
    Logbook(Glance),
    /// The head's gateway.
    Cluster(Link),
    /// Where this process may leave files.
    Folder(PathBuf),
}

/// Nobody watches.
pub struct Silent;

impl Observer for Silent {
    fn on(&self, _progress: Progress) {}
}
