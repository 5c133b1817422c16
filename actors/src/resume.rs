//! From a store back to the phases still to run: the newest snapshot, the journal after it, and what evaluations have
//! already answered. A fresh run is the same thing with an empty store.

use std::collections::BTreeSet;
use std::path::Path;

use rollout::curriculum::Part;
use rollout::event::Command;
use rollout::id::{Epoch, PolicyVersion, RolloutId, StepId, TaskId};
use rollout::journal::{JournalError, Snapshot};
use rollout::machine::MachineConfig;

use crate::driver::{PhaseSpec, done_key};
use crate::eval::{EvalLimits, EvalPlan};
use crate::flow::wall_ms;
use crate::policy::{Manifest, write_atomically};
use crate::store::rows::{EndingRow, Op, PhaseTag, RowPatch, StepRow};
use crate::store::{METRICS_FILE, Reader, StoreError};

/// What a run is made of, as far as phases go.
#[derive(Clone, Debug)]
pub struct Plan {
    pub machine: MachineConfig,
    pub train: Vec<TaskId>,
    /// Their parts in a mixture of levels; empty: there is none (`tasks.level_mix`).
    pub train_mixture: Vec<Part>,
    /// Tasks of the evaluations before and after RL.
    pub evaluated: Vec<TaskId>,
    /// Answers per evaluated task; 0 = no evaluation.
    pub eval_samples: u64,
    pub seed: u64,
    pub limits: EvalLimits,
}

/// Why a run cannot be continued.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("the journal does not fit together: {0}")]
    Journal(#[from] JournalError),
    #[error("cannot write {METRICS_FILE}: {0}")]
    Metrics(std::io::Error),
    /// The store has a step whose weights are not there: going on would train another policy under the same numbers.
    #[error("step {step} was trained, but checkpoints/newest.json {}", match .found {
        Some(found) => format!("names step {found}"),
        None => "is missing".to_string(),
    })]
    NoCheckpoint { step: StepId, found: Option<StepId> },
}

/// Phases still to run, and what the store is missing of what already happened.
pub struct Restored {
    pub phases: Vec<PhaseSpec>,
    pub repairs: Vec<Op>,
}

/// Reads the store; `newest` is the newest durable checkpoint.
pub fn restore(reader: &Reader, plan: &Plan, newest: Option<&Manifest>) -> Result<Restored, ResumeError> {
    // A step is told only when its checkpoint is durable.
    let (found, told) = (newest.map(|manifest| manifest.step), reader.steps()?.iter().map(|row| row.step).max());
    if let Some(step) = told.filter(|step| found.is_none_or(|found| found < *step)) {
        return Err(ResumeError::NoCheckpoint { step, found });
    }
    let mut restored = Restored { phases: Vec::new(), repairs: Vec::new() };
    let done = |tag: PhaseTag| Ok::<bool, StoreError>(reader.meta(done_key(tag))?.is_some());
    if plan.eval_samples > 0 && !done(PhaseTag::EvalBefore)? {
        restored.phases.push(eval(reader, plan, PhaseTag::EvalBefore)?);
    }
    if !done(PhaseTag::Train)? {
        let phase = rl(reader, plan, newest, &mut restored.repairs)?;
        restored.phases.push(phase);
    }
    if plan.eval_samples > 0 && !done(PhaseTag::EvalAfter)? {
        restored.phases.push(eval(reader, plan, PhaseTag::EvalAfter)?);
    }
    Ok(restored)
}

fn eval(reader: &Reader, plan: &Plan, tag: PhaseTag) -> Result<PhaseSpec, ResumeError> {
    let ended: BTreeSet<u64> = reader.ended_ids(tag)?.into_iter().collect();
    let verdicts = reader.evaluated(tag)?;
    let correct = verdicts.iter().filter(|(_, _, correct)| *correct).count() as u64;
    let eval = EvalPlan::new(tag, plan.evaluated.clone(), plan.eval_samples, plan.seed, plan.limits, &ended);
    Ok(PhaseSpec::Eval { plan: eval, done: verdicts.len() as u64, correct })
}

fn rl(
    reader: &Reader,
    plan: &Plan,
    newest: Option<&Manifest>,
    repairs: &mut Vec<Op>,
) -> Result<PhaseSpec, ResumeError> {
    let known = reader.snapshot()?;
    let fresh = known.is_none();
    let mut snapshot = known.unwrap_or_else(|| Snapshot::start(plan.machine.clone(), plan.train.clone()));
    snapshot.machine.set_mixture(&plan.train_mixture, fresh);
    // The commands of replayed events were carried out, all but possibly the last words of the old process to the
    // store: endings are written again, which changes nothing where they are there.
    let mut ended = BTreeSet::new();
    for record in reader.journal_from(snapshot.next_seq)? {
        for command in snapshot.apply(&record)? {
            if let Command::End { rollout, ending } = command {
                ended.insert(rollout.0);
                repairs.push(end_again(rollout, EndingRow::Train(ending)));
            }
        }
    }
    if let Some(manifest) = newest
        && !reader.steps()?.iter().any(|row| row.step == manifest.step)
    {
        repairs.push(Op::Step(Box::new(StepRow {
            step: manifest.step,
            policy: manifest.policy,
            applied: manifest.applied,
            report: manifest.report.clone(),
            batch: serde_json::json!({ "restored_from_checkpoint": true }),
            at_ms: wall_ms(),
        })));
    }
    let restored =
        reader.open_rollouts(PhaseTag::Train)?.into_iter().filter(|row| !ended.contains(&row.summary.id)).collect();
    Ok(PhaseSpec::Rl {
        epoch: Epoch(snapshot.machine.epoch().map_or(1, |last| last.0 + 1)),
        policy: newest.map_or(PolicyVersion(0), |m| m.policy),
        step: newest.map_or(StepId(0), |m| m.step),
        clock_ms: reader.last_clock_ms()?,
        snapshot: Box::new(snapshot),
        restored,
    })
}

fn end_again(rollout: RolloutId, ending: EndingRow) -> Op {
    Op::Row { rollout, patch: RowPatch::Ended { ending, at_ms: wall_ms() } }
}

/// Writes `metrics.jsonl` anew from the store: a killed process may have left half a line or none.
pub fn rebuild_metrics(run_dir: &Path, reader: &Reader) -> Result<(), ResumeError> {
    let mut lines = Vec::new();
    for row in reader.steps()? {
        serde_json::to_writer(&mut lines, &row).map_err(|e| ResumeError::Metrics(e.into()))?;
        lines.push(b'\n');
    }
    write_atomically(&run_dir.join(METRICS_FILE), &lines).map_err(ResumeError::Metrics)
}
