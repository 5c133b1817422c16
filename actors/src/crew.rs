//! The three kinds of heavy work behind the actors, as traits: sampling, verifying, training. The real ones are in
//! `policy` and `executor`; `bench` and the tests bring their own. An actor restarts its work from its factory here.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use model::learner::TrainSample;
use rollout::completion::Completion;
use rollout::id::{Attempt, Digest, PolicyVersion, RolloutId, StepId};
use rollout::outcome::{Candidate, ExecReport, Fault};
use rollout::task::TaskSpec;

use crate::store::TokenScores;

/// A policy's weights, opaque on their way from the learner to the generator (a network in this process's memory).
pub type Weights = Arc<dyn Any + Send + Sync>;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A task's rendered prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    pub text: String,
    pub tokens: Vec<u32>,
}

/// A task with what every actor needs of it, shared.
#[derive(Debug)]
pub struct TaskEntry {
    pub spec: Arc<TaskSpec>,
    pub id: Arc<rollout::id::TaskId>,
    pub prompt: Arc<Prompt>,
}

/// "Sample one answer."
#[derive(Clone, Debug)]
pub struct SampleJob {
    pub rollout: RolloutId,
    pub attempt: Attempt,
    pub task: Arc<TaskEntry>,
    pub seed: u64,
    /// No token of it may be sampled under an older version. A sampler that adopts weights before it takes its next order need not
    /// look; one that adopts them later does, and so does whoever chooses among several.
    pub least: PolicyVersion,
}

/// One answer, sampled.
#[derive(Clone, Debug)]
pub struct SampledItem {
    pub rollout: RolloutId,
    pub attempt: Attempt,
    pub completion: Arc<Completion>,
}

/// When new weights count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// From the next token on.
    Now,
    /// When `News::Adopted` says so.
    Later,
}

/// What a sampler has to tell besides answers.
#[derive(Clone, Debug)]
pub enum News {
    /// Everything that is begun from now on is sampled under this version.
    Adopted(PolicyVersion),
    /// An answer that cannot be had.
    Refused { rollout: RolloutId, attempt: Attempt, fault: Fault },
}

/// Draws answers. Lives on the generator's thread; never waits for anything but computation, or a moment for a server.
pub trait Sampler {
    fn admit(&mut self, job: SampleJob) -> Result<(), Fault>;
    /// Forgets the rollout if it is still here.
    fn cancel(&mut self, rollout: RolloutId);
    /// Continues under these weights; a newer version replaces one that still waits.
    fn adopt(&mut self, weights: Weights, policy: PolicyVersion) -> Result<Taken, Fault>;
    /// True while a call of `step` has something to do.
    fn busy(&self) -> bool;
    /// One token for every active answer; those that ended.
    fn step(&mut self) -> Result<Vec<SampledItem>, Fault>;
    /// What became known in `step` besides answers; called after it.
    fn news(&mut self) -> Vec<News> {
        Vec::new()
    }
}

/// Compiles and runs candidates, one at a time. Dropping it ends its processes.
pub trait Verifier: Send {
    fn verify<'a>(
        &'a mut self,
        task: &'a TaskSpec,
        candidate: &'a Candidate,
    ) -> BoxFuture<'a, Result<ExecReport, Fault>>;
}

/// One optimizer step to take.
#[derive(Clone, Debug)]
pub struct TrainJob {
    pub step: StepId,
    pub attempt: Attempt,
    pub samples: Vec<TrainSample>,
}

/// A step is durable: its checkpoint is on the disk.
#[derive(Clone)]
pub struct TrainedItem {
    pub step: StepId,
    pub policy: PolicyVersion,
    pub applied: bool,
    /// The learner's report, flat.
    pub report: serde_json::Value,
    pub digest: Digest,
    pub weights: Weights,
    /// What was found for the tokens of each sample, in their order; empty where that is not known (any more).
    pub tokens: Vec<TokenScores>,
}

impl std::fmt::Debug for TrainedItem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TrainedItem(step {}, policy {}, applied {})", self.step, self.policy, self.applied)
    }
}

/// Why a step was not taken.
#[derive(Clone, Debug)]
pub struct TrainError {
    pub fault: Fault,
    /// Trying again cannot help (a full disk): the run ends, resumable.
    pub fatal: bool,
}

/// Updates the policy. Lives on the learner's thread.
pub trait Trainer {
    /// The newest durable step, if any was taken.
    fn newest(&self) -> Option<TrainedItem>;
    /// Makes what the first step needs, so that whatever is lacking is told before anything else is done.
    fn prepare(&mut self) -> Result<(), Fault> {
        Ok(())
    }
    /// Takes the step and makes it durable before it returns.
    fn train(&mut self, job: &TrainJob) -> Result<TrainedItem, TrainError>;
}

/// Called on the generator's thread.
pub type SamplerFactory = Arc<dyn Fn(Weights, PolicyVersion) -> Result<Box<dyn Sampler>, Fault> + Send + Sync>;
/// Called on the learner's thread; reads the newest durable checkpoint.
pub type TrainerFactory = Arc<dyn Fn() -> Result<Box<dyn Trainer>, Fault> + Send + Sync>;
/// Called in the executor's task with its number.
pub type VerifierFactory = Arc<dyn Fn(u32) -> BoxFuture<'static, Result<Box<dyn Verifier>, Fault>> + Send + Sync>;

/// Whether more executors would only wait for the device that they time on.
pub type Saturated = Arc<dyn Fn() -> bool + Send + Sync>;

/// All factories of a run.
#[derive(Clone)]
pub struct Crew {
    pub sampler: SamplerFactory,
    pub trainer: TrainerFactory,
    pub verifier: VerifierFactory,
    /// Of the devices that verifiers use; `None` where there is none.
    pub saturated: Option<Saturated>,
    /// Asked about what passed; `None` when it is off.
    pub llm_judge: Option<Arc<crate::llm_judge::Setup>>,
    /// Where executors of other machines join; `None` when nobody can.
    pub cluster: Option<crate::cluster::Link>,
    /// What a learner's thread has for as long as it may write.
    pub pen: crate::learner::Pen,
}
