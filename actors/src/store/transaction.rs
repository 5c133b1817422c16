//! One transaction's worth of operations: changes of one rollout are merged, so a short life costs one insert.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use rollout::completion::Completion;
use rollout::id::{Attempt, GroupId, TaskId};
use rollout::journal::Record;
use rollout::outcome::{Candidate, ExecReport, Finding, Outcome, Ruling};
use rollout::reward::{Advantage, Reward};
use rusqlite::{Connection, params};

use super::notes::Notes;
use crate::codec;
use crate::store::StoreError;
use crate::store::pack::Packer;
use crate::store::rows::{EndingRow, FaultRow, Op, PhaseTag, RowPatch, StepRow};

/// Snapshots kept: the newest and the one before it.
const SNAPSHOTS_KEPT: i64 = 2;

const UPSERT: &str = "
INSERT INTO rollouts (id, phase, grp, task, seed, state, attempt, policy_oldest, policy_newest, spans, answer, finish,
  n_tokens, plan_tokens, tokens, logprobs, ruling, verdict, report, reward_plan, reward_code, adv_plan, adv_code,
  ending, step, sampled_at, ended_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24,
  ?25, ?26, ?27)
ON CONFLICT (id) DO UPDATE SET
  phase = coalesce(excluded.phase, phase), grp = coalesce(excluded.grp, grp), task = coalesce(excluded.task, task),
  seed = coalesce(excluded.seed, seed), state = excluded.state, attempt = coalesce(excluded.attempt, attempt),
  policy_oldest = coalesce(excluded.policy_oldest, policy_oldest),
  policy_newest = coalesce(excluded.policy_newest, policy_newest), spans = coalesce(excluded.spans, spans),
  answer = coalesce(excluded.answer, answer), finish = coalesce(excluded.finish, finish),
  n_tokens = coalesce(excluded.n_tokens, n_tokens), plan_tokens = coalesce(excluded.plan_tokens, plan_tokens),
  tokens = coalesce(excluded.tokens, tokens), logprobs = coalesce(excluded.logprobs, logprobs),
  ruling = coalesce(excluded.ruling, ruling), verdict = coalesce(excluded.verdict, verdict),
  report = coalesce(excluded.report, report), reward_plan = coalesce(excluded.reward_plan, reward_plan),
  reward_code = coalesce(excluded.reward_code, reward_code), adv_plan = coalesce(excluded.adv_plan, adv_plan),
  adv_code = coalesce(excluded.adv_code, adv_code), ending = coalesce(excluded.ending, ending),
  step = coalesce(excluded.step, step), sampled_at = coalesce(excluded.sampled_at, sampled_at),
  ended_at = coalesce(excluded.ended_at, ended_at)";

struct Issued {
    phase: PhaseTag,
    group: GroupId,
    task: Arc<TaskId>,
    seed: u64,
    attempt: Attempt,
}

/// What is known of one rollout in this transaction.
#[derive(Default)]
struct Row {
    issued: Option<Issued>,
    sampled: Option<(Arc<Completion>, u64)>,
    ruling: Option<Arc<Ruling>>,
    report: Option<Arc<ExecReport>>,
    reward: Option<Reward>,
    advantage: Option<Advantage>,
    ended: Option<(EndingRow, u64)>,
}

pub struct Pending {
    packer: Packer,
    barriers: u64,
    ops: usize,
    journal: Vec<Record>,
    rows: HashMap<u64, Row>,
    order: Vec<u64>,
    meta: Vec<(&'static str, String)>,
    prompts: Vec<(TaskId, String, Vec<u32>)>,
    snapshot: Option<(u64, Vec<u8>)>,
    steps: Vec<StepRow>,
    faults: Vec<FaultRow>,
    notes: Notes,
}

impl Pending {
    pub fn new() -> Result<Pending, StoreError> {
        let packer = Packer::new().map_err(|source| StoreError::Io { path: "the zstd context".into(), source })?;
        Ok(Pending {
            packer,
            barriers: 0,
            ops: 0,
            journal: Vec::new(),
            rows: HashMap::new(),
            order: Vec::new(),
            meta: Vec::new(),
            prompts: Vec::new(),
            snapshot: None,
            steps: Vec::new(),
            faults: Vec::new(),
            notes: Notes::default(),
        })
    }

    /// Operations waiting for the next commit.
    pub fn len(&self) -> usize {
        self.ops
    }

    pub fn add(&mut self, ops: Vec<Op>) {
        self.ops += ops.len();
        for op in ops {
            match op {
                Op::Meta { key, value } => self.meta.push((key, value)),
                Op::Prompt { task, text, tokens } => self.prompts.push((task, text, tokens)),
                Op::Journal(record) => self.journal.push(record),
                Op::Snapshot { next_seq, machine } => self.snapshot = Some((next_seq, machine)),
                Op::Row { rollout, patch } => self.patch(rollout.0, patch),
                Op::Step(row) => self.steps.push(*row),
                Op::Fault(row) => self.faults.push(row),
                Op::Span(row) => self.notes.span(row),
                Op::Sample(row) => self.notes.samples.push(row),
                Op::Happening(row) => self.notes.happenings.push(row),
                Op::TokenScores { rollout, step, scores } => self.notes.scores.push((rollout, step, scores)),
            }
        }
    }

    fn patch(&mut self, rollout: u64, patch: RowPatch) {
        let row = self.rows.entry(rollout).or_insert_with(|| {
            self.order.push(rollout);
            Row::default()
        });
        match patch {
            RowPatch::Issued { phase, group, task, seed, attempt } => {
                row.issued = Some(Issued { phase, group, task, seed, attempt });
            }
            RowPatch::Sampled { completion, at_ms } => row.sampled = Some((completion, at_ms)),
            RowPatch::Judged { ruling } => row.ruling = Some(ruling),
            RowPatch::Executed { report } => row.report = Some(report),
            RowPatch::Scored { reward } => row.reward = Some(reward),
            RowPatch::Credited { advantage } => row.advantage = Some(advantage),
            RowPatch::Ended { ending, at_ms } => row.ended = Some((ending, at_ms)),
        }
    }

    /// Writes everything in one transaction; the lines to append to `metrics.jsonl`. `durable` also survives a
    /// power cut. After an error nothing of it is in the file.
    pub fn commit(&mut self, connection: &mut Connection, durable: bool) -> Result<String, StoreError> {
        if self.ops == 0 && !durable {
            return Ok(String::new());
        }
        if durable {
            // A WAL commit under FULL syncs the log, and with it every commit before.
            connection.pragma_update(None, "synchronous", "FULL")?;
        }
        let tx = connection.transaction()?;
        if durable {
            // An empty transaction would not touch, and so not sync, the log.
            self.barriers += 1;
            tx.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES ('barriers', ?1)")?
                .execute([self.barriers.to_string()])?;
        }
        for (key, value) in self.meta.drain(..) {
            tx.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)")?
                .execute(params![key, value])?;
        }
        for (task, text, tokens) in self.prompts.drain(..) {
            let tokens = self.packer.u32s(&tokens).map_err(pack_error)?;
            tx.prepare_cached("INSERT OR REPLACE INTO prompts (task, text, tokens) VALUES (?1, ?2, ?3)")?
                .execute(params![task.0, text, tokens])?;
        }
        if let (Some(first), Some(last)) = (self.journal.first(), self.journal.last()) {
            tx.prepare_cached("INSERT INTO journal (seq_first, seq_last, events) VALUES (?1, ?2, ?3)")?
                .execute(params![first.seq as i64, last.seq as i64, codec::encode(&self.journal)?])?;
        }
        self.journal.clear();
        if let Some((next_seq, machine)) = self.snapshot.take() {
            tx.prepare_cached("INSERT OR REPLACE INTO snapshots (next_seq, machine) VALUES (?1, ?2)")?
                .execute(params![next_seq as i64, machine])?;
            tx.prepare_cached(
                "DELETE FROM snapshots WHERE next_seq NOT IN
                 (SELECT next_seq FROM snapshots ORDER BY next_seq DESC LIMIT ?1)",
            )?
            .execute([SNAPSHOTS_KEPT])?;
        }
        {
            let mut upsert = tx.prepare_cached(UPSERT)?;
            self.order.sort_unstable();
            for id in self.order.drain(..) {
                if let Some(row) = self.rows.remove(&id) {
                    write_row(&mut upsert, &mut self.packer, id, &row)?;
                }
            }
        }
        let mut lines = String::new();
        for row in self.steps.drain(..) {
            write_step(&tx, &row)?;
            let _ = writeln!(lines, "{}", serde_json::to_string(&row)?);
        }
        for fault in self.faults.drain(..) {
            tx.prepare_cached("INSERT INTO faults (rollout, attempt, code, message, at) VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![
                    fault.rollout.map(|r| r.0 as i64),
                    fault.attempt.map(|a| a.0),
                    fault.code,
                    fault.message,
                    fault.at_ms as i64
                ])?;
        }
        self.notes.write(&tx, &mut self.packer)?;
        tx.commit()?;
        if durable {
            connection.pragma_update(None, "synchronous", "NORMAL")?;
        }
        self.ops = 0;
        Ok(lines)
    }
}

fn write_row(
    upsert: &mut rusqlite::CachedStatement<'_>,
    packer: &mut Packer,
    id: u64,
    row: &Row,
) -> Result<(), StoreError> {
    let issued = row.issued.as_ref();
    let completion = row.sampled.as_ref().map(|(completion, _)| &**completion);
    let (tokens, logprobs, spans) = match completion {
        Some(c) => (
            Some(packer.u32s(&c.tokens).map_err(pack_error)?),
            Some(packer.f32s(&c.logprobs).map_err(pack_error)?),
            Some(serde_json::to_string(&c.spans)?),
        ),
        None => (None, None, None),
    };
    let ruling = row.ruling.as_ref().map(|r| serde_json::to_string(&RulingText::from(&**r))).transpose()?;
    let report = row.report.as_ref().map(|r| serde_json::to_string(&**r)).transpose()?;
    let rejected = match row.ruling.as_deref() {
        Some(Ruling::Reject { outcome, .. }) => Some(outcome.verdict()),
        _ => None,
    };
    let state = match row {
        Row { ended: Some(_), .. } => "ended",
        Row { reward: Some(_), .. } | Row { advantage: Some(_), .. } => "scored",
        Row { report: Some(_), .. } => "executed",
        Row { ruling: Some(_), .. } => "judged",
        Row { sampled: Some(_), .. } => "sampled",
        _ => "sampling",
    };
    upsert.execute(params![
        id as i64,
        issued.map(|i| i.phase.as_str()),
        issued.map(|i| i.group.0 as i64),
        issued.map(|i| i.task.0.as_str()),
        issued.map(|i| i.seed as i64),
        state,
        issued.map(|i| i.attempt.0),
        completion.and_then(|c| c.spans.iter().map(|s| s.policy.0).min()).map(|v| v as i64),
        completion.and_then(|c| c.spans.iter().map(|s| s.policy.0).max()).map(|v| v as i64),
        spans,
        completion.map(|c| c.text.as_str()),
        completion.map(|c| match c.finish {
            rollout::completion::Finish::Stop => "stop",
            rollout::completion::Finish::Length => "length",
        }),
        completion.map(|c| c.tokens.len() as i64),
        completion.and_then(|c| c.plan_tokens),
        tokens,
        logprobs,
        ruling,
        row.report.as_ref().map(|r| r.outcome.verdict()).or(rejected),
        report,
        row.reward.map(|r| r.plan),
        row.reward.map(|r| r.code),
        row.advantage.map(|a| a.plan),
        row.advantage.map(|a| a.code),
        row.ended.as_ref().map(|(e, _)| e.as_str()),
        row.ended.as_ref().and_then(|(e, _)| e.step()).map(|s| s.0 as i64),
        row.sampled.as_ref().map(|(_, at)| *at as i64),
        row.ended.as_ref().map(|(_, at)| *at as i64),
    ])?;
    Ok(())
}

/// `Ruling` with the candidate's source left empty: it is in the answer, and `Reader` extracts it again.
#[derive(serde::Serialize)]
enum RulingText<'a> {
    Admit { candidate: CandidateText<'a>, findings: &'a [Finding] },
    Reject { candidate: Option<CandidateText<'a>>, findings: &'a [Finding], outcome: &'a Outcome },
}

#[derive(serde::Serialize)]
struct CandidateText<'a> {
    source: &'static str,
    digest: &'a rollout::id::Digest,
}

impl<'a> From<&'a Ruling> for RulingText<'a> {
    fn from(ruling: &'a Ruling) -> RulingText<'a> {
        let text = |candidate: &'a Candidate| CandidateText { source: "", digest: &candidate.digest };
        match ruling {
            Ruling::Admit { candidate, findings } => RulingText::Admit { candidate: text(candidate), findings },
            Ruling::Reject { candidate, findings, outcome } => {
                RulingText::Reject { candidate: candidate.as_ref().map(text), findings, outcome }
            }
        }
    }
}

fn write_step(tx: &rusqlite::Transaction<'_>, row: &StepRow) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT OR REPLACE INTO steps (step, policy, applied, report, batch, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        row.step.0 as i64,
        row.policy.0 as i64,
        row.applied,
        serde_json::to_string(&row.report)?,
        serde_json::to_string(&row.batch)?,
        row.at_ms as i64
    ])?;
    let mut insert = tx.prepare_cached("INSERT OR REPLACE INTO metrics (step, name, value) VALUES (?1, ?2, ?3)")?;
    for (part, value) in [("learner", &row.report), ("batch", &row.batch)] {
        for (name, value) in value.as_object().into_iter().flatten() {
            if let Some(value) = value.as_f64() {
                insert.execute(params![row.step.0 as i64, format!("{part}.{name}"), value])?;
            }
        }
    }
    Ok(())
}

pub(super) fn pack_error(source: std::io::Error) -> StoreError {
    StoreError::Io { path: "a token column".into(), source }
}
