//! What is sent to the store: plain owned records, each named by what it has become.

use std::sync::Arc;

use rollout::completion::Completion;
use rollout::event::Ending;
use rollout::id::{Attempt, GroupId, PolicyVersion, RolloutId, StepId, TaskId};
use rollout::journal::Record;
use rollout::outcome::{ExecReport, Ruling};
use rollout::reward::{Advantage, Reward};
use serde::{Deserialize, Serialize};

/// Which part of a run a rollout belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseTag {
    EvalBefore,
    Train,
    EvalAfter,
}

impl PhaseTag {
    pub fn as_str(self) -> &'static str {
        match self {
            PhaseTag::EvalBefore => "eval_before",
            PhaseTag::Train => "train",
            PhaseTag::EvalAfter => "eval_after",
        }
    }

    pub fn parse(text: &str) -> Option<PhaseTag> {
        [PhaseTag::EvalBefore, PhaseTag::Train, PhaseTag::EvalAfter].into_iter().find(|p| p.as_str() == text)
    }
}

/// One change of one rollout's row. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug)]
pub enum RowPatch {
    /// A generator was asked for it.
    Issued {
        phase: PhaseTag,
        group: GroupId,
        task: Arc<TaskId>,
        seed: u64,
        attempt: Attempt,
    },
    Sampled {
        completion: Arc<Completion>,
        at_ms: u64,
    },
    Judged {
        ruling: Arc<Ruling>,
    },
    /// The executor's report, or for a rejected answer nothing but the reward.
    Executed {
        report: Arc<ExecReport>,
    },
    Scored {
        reward: Reward,
    },
    Credited {
        advantage: Advantage,
    },
    Ended {
        ending: EndingRow,
        at_ms: u64,
    },
}

/// `Ending`, and the endings that only evaluation phases have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndingRow {
    Train(Ending),
    /// An evaluation answer that has its verdict.
    Evaluated,
    /// An evaluation answer whose retries were used up by faults of ours: not counted.
    EvalFaulted,
}

impl EndingRow {
    /// `trained`, `evaluated`, or the drop reason in snake case.
    pub fn as_str(&self) -> &'static str {
        use rollout::event::DropReason;
        match self {
            EndingRow::Train(Ending::Trained(_)) => "trained",
            EndingRow::Train(Ending::Dropped(reason)) => match reason {
                DropReason::Stale => "stale",
                DropReason::ZeroVariance => "zero_variance",
                DropReason::Faulted => "faulted",
                DropReason::Unscored => "unscored",
                DropReason::GroupTooSmall => "group_too_small",
                DropReason::Stopped => "stopped",
                DropReason::LearnerFailed => "learner_failed",
            },
            EndingRow::Evaluated => "evaluated",
            EndingRow::EvalFaulted => "faulted",
        }
    }

    pub fn step(&self) -> Option<StepId> {
        match self {
            EndingRow::Train(Ending::Trained(step)) => Some(*step),
            _ => None,
        }
    }
}

/// One optimizer step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRow {
    pub step: StepId,
    pub policy: PolicyVersion,
    /// False when a non-finite loss or gradient was skipped.
    pub applied: bool,
    /// The learner's report (losses, ratios, entropies) as JSON.
    pub report: serde_json::Value,
    /// What the batch was made of: rollouts, mean rewards, staleness, verdicts.
    pub batch: serde_json::Value,
    pub at_ms: u64,
}

/// A fault of ours that happened to a rollout, an actor or a step: counted, never scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultRow {
    pub rollout: Option<RolloutId>,
    pub attempt: Option<Attempt>,
    pub code: String,
    pub message: String,
    pub at_ms: u64,
}

/// What one lane (an executor, the learner) did for one rollout or step, from its beginning on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpanRow {
    /// Rises with time, also over the processes of a run.
    pub id: u64,
    /// `executor 3`, `NODE/executor 65537`, `learner`.
    pub lane: String,
    pub rollout: Option<u64>,
    pub attempt: Option<u32>,
    pub began_ms: u64,
    /// `None` while it goes on.
    pub ended_ms: Option<u64>,
    /// What was entered, and how many milliseconds after the beginning.
    pub stages: Vec<(String, u64)>,
    /// `report`, `step`, `started`, a fault's code, or `lost`.
    pub ending: Option<String>,
}

/// What one source said at one moment: `run`, `pool`, `gpu N`, `node NAME`. About once a second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleRow {
    pub at_ms: u64,
    pub source: String,
    pub value: serde_json::Value,
}

/// Something that happened to an actor or a node, not to a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HappeningRow {
    pub at_ms: u64,
    pub actor: String,
    /// `started`, `died`, `restarted`, `joined`, ...
    pub what: String,
    pub detail: String,
}

/// What the learner found for each token of an answer, before it updated anything. Natural log, nats; one per token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScores {
    pub logprobs: Vec<f32>,
    pub entropies: Vec<f32>,
    /// What its correction made of each token (`model::correction::Fate::code`; from 2 on it did not count); empty where it kept all
    /// of them as they are, `None` where that was not stored.
    pub fates: Option<Vec<u8>>,
}

/// One operation. Operations sent together are written together.
#[derive(Debug)]
pub enum Op {
    Meta {
        key: &'static str,
        value: String,
    },
    /// The rendered prompt of one task: rollouts refer to it by task.
    Prompt {
        task: TaskId,
        text: String,
        tokens: Vec<u32>,
    },
    /// An event the machine was given.
    Journal(Record),
    /// `rollout::journal::Snapshot`, encoded: the machine before the event `next_seq`.
    Snapshot {
        next_seq: u64,
        machine: Vec<u8>,
    },
    Row {
        rollout: RolloutId,
        patch: RowPatch,
    },
    Step(Box<StepRow>),
    Fault(FaultRow),
    /// Replaces what is known of the span.
    Span(SpanRow),
    Sample(SampleRow),
    Happening(HappeningRow),
    TokenScores {
        rollout: RolloutId,
        step: StepId,
        scores: TokenScores,
    },
}
