//! What the bookkeeping hands to the actors, and where a rollout's work is.

use rollout::id::{Attempt, RolloutId, StepId};

use crate::crew::{SampleJob, TrainJob};
use crate::executor::ExecJob;
use crate::generator::Adoption;
use crate::judge::JudgeJob;

/// Where a rollout's work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Sample,
    Judge,
    Execute,
    /// With nobody: scored, or just restored.
    Rest,
}

/// What leaves after the store has the batch.
#[derive(Default)]
pub struct Outbox {
    pub adopt: Option<Adoption>,
    pub unsample: Vec<RolloutId>,
    pub samples: Vec<SampleJob>,
    pub judges: Vec<JudgeJob>,
    pub unexecute: Vec<RolloutId>,
    pub executes: Vec<ExecJob>,
    /// The journal must be durable before this step is trained.
    pub barrier: Option<(StepId, Attempt)>,
    pub train: Option<Box<TrainJob>>,
}
