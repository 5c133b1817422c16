//! The closed lists: everything that can happen (`Event`) and everything we may do (`Command`).
//!
//! Reading these two enums is reading the system. `Machine::on(now_ms, Event) -> Vec<Command>` stands between them.

use serde::{Deserialize, Serialize};

use crate::id::{Attempt, Epoch, GroupId, PolicyVersion, RolloutId, StepId, TaskId};
use crate::reward::Reward;

/// What can happen. Payloads (texts, tokens, reports) stay in the shell, which stores them before it reports the
/// event; the machine sees only what it decides on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A process started (first start or resume). `policy` is the version of the newest durable checkpoint, `step`
    /// the step that produced it; every generator samples from it. Everything in flight under an older epoch is
    /// issued again. An epoch that is not newer than the last one changes nothing.
    Started { epoch: Epoch, policy: PolicyVersion, step: StepId },
    /// Time passed; expires leases.
    Tick,
    /// A generator finished an answer; its oldest token was sampled under `oldest`.
    Sampled { rollout: RolloutId, attempt: Attempt, oldest: PolicyVersion, tokens: u32 },
    /// The judge ruled.
    Judged { rollout: RolloutId, attempt: Attempt, ruling: Judgement },
    /// The executor returned an outcome, scored by the shell with `reward::score`.
    Executed { rollout: RolloutId, attempt: Attempt, reward: Reward },
    /// Our infrastructure failed at the rollout's present stage (`code` is the fault's code). Retried, then masked.
    Faulted { rollout: RolloutId, attempt: Attempt, code: String },
    /// The learner finished a step; `applied` is false when a non-finite loss or gradient was skipped. The policy
    /// version rises either way, and a checkpoint for it is durable.
    Trained { step: StepId, policy: PolicyVersion, applied: bool },
    /// The learner died or failed, and the step is not durable and will not become so by this attempt; the same step is
    /// issued again (bounded). `attempt` is the command's, so that a duplicate report counts once.
    TrainFaulted { step: StepId, attempt: Attempt, code: String },
    /// Every generator samples from `policy` now.
    Adopted { policy: PolicyVersion },
    /// Ctrl-C, a time limit, or an operator: start nothing new; drop what is in flight as `Stopped`.
    StopRequested,
}

/// What the judge's ruling means for the machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Judgement {
    /// Goes to the executor.
    Admitted,
    /// Ends without execution, scored.
    Scored(Reward),
    /// Ends without execution and without a score: the reward configuration drops such answers (for example one
    /// without the delimiter). It leaves its group like a masked member.
    Unscored,
}

/// What we may do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Sample one answer. `seed` depends on the run seed and the rollout id only, never on timing.
    Sample {
        rollout: RolloutId,
        attempt: Attempt,
        group: GroupId,
        task: TaskId,
        seed: u64,
    },
    Judge {
        rollout: RolloutId,
        attempt: Attempt,
    },
    Execute {
        rollout: RolloutId,
        attempt: Attempt,
    },
    /// The result is no longer wanted: stop the work if that is easy.
    Cancel {
        rollout: RolloutId,
        attempt: Attempt,
    },
    /// Update the policy. Issued with all members' rewards known; the shell flushes the journal first, so that a
    /// step can never be durable in a checkpoint and unknown to the journal. The same step may be issued again, with
    /// the same members and a higher attempt: a learner that is computing it goes on, one that has made it durable
    /// answers `Trained` again. A step is never issued with other members.
    Train {
        step: StepId,
        attempt: Attempt,
        groups: Vec<TrainGroup>,
    },
    /// Generators take this version over, between tokens.
    Adopt {
        policy: PolicyVersion,
    },
    /// A deadline passed. Nothing is to be done but to put it on record: what follows from it are the commands after
    /// this one.
    Overdue(Overdue),
    /// A rollout ended, exactly once.
    End {
        rollout: RolloutId,
        ending: Ending,
    },
    /// Nothing will start any more: the run is over. Nothing is in flight, unless the learner stayed silent past its
    /// deadlines: its step is then settled by the next resume.
    Finish,
}

/// What did not come in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overdue {
    /// The result of its present stage: one fault more for the rollout.
    Rollout { rollout: RolloutId, attempt: Attempt },
    /// `Trained` or `TrainFaulted`.
    Step { step: StepId, attempt: Attempt },
    /// `Adopted`.
    Adoption { policy: PolicyVersion },
}

/// A whole group in a training batch: masked members are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainGroup {
    pub group: GroupId,
    pub task: TaskId,
    /// Survivors in rollout order, with their rewards.
    pub members: Vec<(RolloutId, Reward)>,
}

/// How a rollout ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Ending {
    /// In a batch of this step.
    Trained(StepId),
    Dropped(DropReason),
}

/// Why a rollout was not trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// Its group's oldest token is more than `staleness_max` versions old.
    Stale,
    /// Every reward of both classes is equal across the group: no gradient.
    ZeroVariance,
    /// Retries of an infrastructure fault were used up.
    Faulted,
    /// The reward configuration gives such an answer no score.
    Unscored,
    /// Too few members of its group survived.
    GroupTooSmall,
    /// The run was stopped.
    Stopped,
    /// The learner could not take the step after bounded retries.
    LearnerFailed,
}
