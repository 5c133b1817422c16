//! What drives the actors in each phase: the machine in RL, an evaluation plan before and after. Both are given events
//! and return commands; only the machine's events are journalled.

use rollout::event::{Command, Event};
use rollout::id::{Epoch, PolicyVersion, StepId};
use rollout::journal::{Record, Snapshot};

use crate::eval::{EvalCommand, EvalPlan};
use crate::observe::RunPhase;
use crate::store::reader::RolloutDetail;
use crate::store::rows::{EndingRow, PhaseTag};

/// A phase to come.
pub enum PhaseSpec {
    Eval {
        plan: EvalPlan,
        /// Answers that an earlier process finished, and how many of them were correct.
        done: u64,
        correct: u64,
    },
    Rl {
        /// The machine as the journal left it.
        snapshot: Box<Snapshot>,
        epoch: Epoch,
        /// The newest durable checkpoint.
        policy: PolicyVersion,
        step: StepId,
        /// Where the run's clock stood, milliseconds of RL.
        clock_ms: u64,
        /// Rollouts in flight according to the store.
        restored: Vec<RolloutDetail>,
    },
}

impl PhaseSpec {
    pub fn tag(&self) -> PhaseTag {
        match self {
            PhaseSpec::Eval { plan, .. } => plan.phase,
            PhaseSpec::Rl { .. } => PhaseTag::Train,
        }
    }
}

/// The key of `meta` that says a phase is complete.
pub fn done_key(tag: PhaseTag) -> &'static str {
    match tag {
        PhaseTag::EvalBefore => "done.eval_before",
        PhaseTag::Train => "done.train",
        PhaseTag::EvalAfter => "done.eval_after",
    }
}

pub fn run_phase(tag: PhaseTag) -> RunPhase {
    match tag {
        PhaseTag::EvalBefore => RunPhase::EvalBefore,
        PhaseTag::Train => RunPhase::Rl,
        PhaseTag::EvalAfter => RunPhase::EvalAfter,
    }
}

/// The present phase's mind.
pub enum Driver {
    /// Before the first phase and after the last.
    Idle,
    Eval(EvalPlan),
    Rl(Box<Snapshot>),
}

/// What a driver decided, in one language.
pub enum Decision {
    Do(Command),
    End { rollout: rollout::id::RolloutId, ending: EndingRow },
    Finish,
}

impl Driver {
    /// Takes an event in: the record to journal (RL only) and what to do.
    pub fn on(&mut self, now_ms: u64, event: Event) -> (Option<Record>, Vec<Decision>) {
        match self {
            Driver::Idle => (None, Vec::new()),
            Driver::Eval(plan) => {
                let commands = plan.on(now_ms, &event);
                let decide = |command| match command {
                    EvalCommand::Do(command) => Decision::Do(command),
                    EvalCommand::End { rollout, ending } => Decision::End { rollout, ending },
                    EvalCommand::Finish => Decision::Finish,
                };
                (None, commands.into_iter().map(decide).collect())
            }
            Driver::Rl(snapshot) => {
                let (record, commands) = snapshot.on(now_ms, event);
                let decide = |command| match command {
                    Command::End { rollout, ending } => Decision::End { rollout, ending: EndingRow::Train(ending) },
                    Command::Finish => Decision::Finish,
                    other => Decision::Do(other),
                };
                (Some(record), commands.into_iter().map(decide).collect())
            }
        }
    }

    pub fn is_rl(&self) -> bool {
        matches!(self, Driver::Rl(_))
    }
}
