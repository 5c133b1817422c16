//! Reading a store, while a run writes it or after: never takes a lock that the writer waits for.

use std::path::{Path, PathBuf};

use rollout::completion::{Completion, Finish, PolicySpan};
use rollout::id::{StepId, TaskId};
use rollout::journal::{Record, Snapshot};
use rollout::outcome::{ExecReport, Ruling};
use rollout::reward::{Advantage, Reward};
use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize};

use super::pack::{unpack_f32s, unpack_u32s};
use super::rows::{PhaseTag, StepRow};
use super::{Opened, StoreError, schema};
use crate::codec;

/// A read-only view of one run.
pub struct Reader {
    connection: Opened,
    run_dir: PathBuf,
}

/// One rollout without its long columns: what a list shows. Absent fields are not known yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutSummary {
    pub id: u64,
    pub phase: PhaseTag,
    pub group: u64,
    pub task: TaskId,
    /// `sampling`, `sampled`, `judged`, `executed`, `scored` or `ended`.
    pub state: String,
    pub attempt: u32,
    pub policy_oldest: Option<u64>,
    pub policy_newest: Option<u64>,
    pub finish: Option<String>,
    pub n_tokens: Option<u64>,
    pub plan_tokens: Option<u32>,
    /// `Outcome::verdict`.
    pub verdict: Option<String>,
    pub reward_plan: Option<f64>,
    pub reward_code: Option<f64>,
    pub adv_plan: Option<f64>,
    pub adv_code: Option<f64>,
    /// `trained`, `evaluated`, or why it was dropped.
    pub ending: Option<String>,
    pub step: Option<u64>,
    /// Milliseconds since the Unix epoch.
    pub sampled_at: Option<u64>,
    pub ended_at: Option<u64>,
}

/// One rollout with everything the store has of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RolloutDetail {
    #[serde(flatten)]
    pub summary: RolloutSummary,
    pub seed: u64,
    pub prompt: Option<String>,
    /// `None` while it is being sampled, or when it never was.
    pub completion: Option<Completion>,
    pub ruling: Option<Ruling>,
    pub report: Option<ExecReport>,
}

impl RolloutDetail {
    pub fn reward(&self) -> Option<Reward> {
        Some(Reward { plan: self.summary.reward_plan?, code: self.summary.reward_code? })
    }

    pub fn advantage(&self) -> Option<Advantage> {
        Some(Advantage { plan: self.summary.adv_plan?, code: self.summary.adv_code? })
    }
}

/// One fault, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultEntry {
    pub rollout: Option<u64>,
    pub attempt: Option<u32>,
    pub code: String,
    pub message: String,
    pub at: u64,
}

const SUMMARY: &str =
    "id, phase, grp, task, state, attempt, policy_oldest, policy_newest, finish, n_tokens, plan_tokens,
 verdict, reward_plan, reward_code, adv_plan, adv_code, ending, step, sampled_at, ended_at";

impl Reader {
    /// Opens the store of a run directory.
    pub fn open(run_dir: &Path) -> Result<Reader, StoreError> {
        Ok(Reader { connection: schema::open_reader(&super::path(run_dir))?, run_dir: run_dir.to_path_buf() })
    }

    /// True when a run has gone on in a store that nobody had open, or there is another store: this reader does not see it.
    pub fn is_outdated(&self) -> bool {
        self.connection.is_outdated()
    }

    /// For whoever reads more than one row: an error where what was read does not belong together.
    pub fn unmoved(&self) -> Result<(), StoreError> {
        if self.is_outdated() { Err(StoreError::WentOn(self.run_dir.clone())) } else { Ok(()) }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// A value of the `meta` table (`docs/store.md` lists the keys).
    pub fn meta(&self, key: &str) -> Result<Option<String>, StoreError> {
        let mut statement = self.connection.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
        Ok(statement.query_row([key], |row| row.get(0)).optional()?)
    }

    /// Calls `visit` with every rollout in id order until it returns false.
    pub fn each_summary(&self, mut visit: impl FnMut(RolloutSummary) -> bool) -> Result<(), StoreError> {
        let sql = format!("SELECT {SUMMARY} FROM rollouts WHERE phase IS NOT NULL ORDER BY id");
        let mut statement = self.connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if !visit(summary(row)?) {
                break;
            }
        }
        Ok(())
    }

    pub fn rollout(&self, id: u64) -> Result<Option<RolloutDetail>, StoreError> {
        Ok(self.details("id = ?1", &[&(id as i64)])?.into_iter().next())
    }

    /// Rollouts of a phase that have no ending yet, in id order.
    pub fn open_rollouts(&self, phase: PhaseTag) -> Result<Vec<RolloutDetail>, StoreError> {
        self.details("phase = ?1 AND ending IS NULL", &[&phase.as_str()])
    }

    fn details(&self, condition: &str, values: &[&dyn rusqlite::ToSql]) -> Result<Vec<RolloutDetail>, StoreError> {
        let sql = format!(
            "SELECT {SUMMARY}, seed, spans, answer, rollouts.tokens, logprobs, ruling, report, prompt_text, prompt_tokens
             FROM rollouts LEFT JOIN (SELECT task AS prompt_task, text AS prompt_text, tokens AS prompt_tokens FROM prompts)
             ON prompt_task = task WHERE phase IS NOT NULL AND {condition} ORDER BY id"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(values)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(detail(row)?);
        }
        Ok(found)
    }

    /// Journalled events from `seq` on, in order.
    pub fn journal_from(&self, seq: u64) -> Result<Vec<Record>, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT events FROM journal WHERE seq_last >= ?1 ORDER BY seq_first")?;
        let mut rows = statement.query([seq as i64])?;
        let mut records = Vec::new();
        while let Some(row) = rows.next()? {
            let events: Vec<Record> = codec::decode(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?)?;
            records.extend(events.into_iter().filter(|record| record.seq >= seq));
        }
        Ok(records)
    }

    /// The newest snapshot of the machine.
    pub fn snapshot(&self) -> Result<Option<Snapshot>, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT machine FROM snapshots ORDER BY next_seq DESC LIMIT 1")?;
        let machine: Option<Vec<u8>> = statement.query_row([], |row| row.get(0)).optional()?;
        Ok(machine.map(|bytes| codec::decode(&bytes)).transpose()?)
    }

    /// All optimizer steps, in order.
    pub fn steps(&self) -> Result<Vec<StepRow>, StoreError> {
        self.steps_where("1 ORDER BY step")
    }

    fn steps_where(&self, condition: &str) -> Result<Vec<StepRow>, StoreError> {
        let sql = format!("SELECT step, policy, applied, report, batch, at FROM steps WHERE {condition}");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query([])?;
        let mut steps = Vec::new();
        while let Some(row) = rows.next()? {
            steps.push(StepRow {
                step: StepId(row.get::<_, i64>(0)? as u64),
                policy: rollout::id::PolicyVersion(row.get::<_, i64>(1)? as u64),
                applied: row.get(2)?,
                report: serde_json::from_str(&row.get::<_, String>(3)?)?,
                batch: serde_json::from_str(&row.get::<_, String>(4)?)?,
                at_ms: row.get::<_, i64>(5)? as u64,
            });
        }
        Ok(steps)
    }

    /// The newest optimizer step.
    pub fn last_step(&self) -> Result<Option<StepRow>, StoreError> {
        Ok(self.steps_where("1 ORDER BY step DESC LIMIT 1")?.pop())
    }

    /// Each step after `step`, and when it was done (milliseconds since the Unix epoch), in order.
    pub fn step_times(&self, step: u64) -> Result<Vec<(u64, u64)>, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT step, at FROM steps WHERE step > ?1 ORDER BY step")?;
        let rows = statement
            .query_map([step as i64], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Calls `visit` with every number of every step after `step` (step, name, value), in order of steps.
    pub fn each_metric(&self, step: u64, mut visit: impl FnMut(u64, &str, f64)) -> Result<(), StoreError> {
        let sql = "SELECT step, name, value FROM metrics WHERE step > ?1 ORDER BY step";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([step as i64])?;
        while let Some(row) = rows.next()? {
            let name = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
            visit(row.get::<_, i64>(0)? as u64, name, row.get(2)?);
        }
        Ok(())
    }

    /// Faults by code.
    pub fn fault_counts(&self) -> Result<std::collections::BTreeMap<String, u64>, StoreError> {
        let mut statement = self.connection.prepare_cached("SELECT code, count(*) FROM faults GROUP BY code")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The newest faults, newest first.
    pub fn newest_faults(&self, count: u32) -> Result<Vec<FaultEntry>, StoreError> {
        self.faults_where("1 ORDER BY id DESC LIMIT ?1", &[&count])
    }

    /// Faults of one rollout, oldest first.
    pub fn faults_of(&self, rollout: u64) -> Result<Vec<FaultEntry>, StoreError> {
        self.faults_where("rollout = ?1 ORDER BY id", &[&(rollout as i64)])
    }

    /// The executor's reports of these rollouts, where there are some. Ask for few at once.
    pub fn reports(&self, ids: &[u64]) -> Result<Vec<(u64, ExecReport)>, StoreError> {
        let list = serde_json::to_string(ids)?;
        let mut statement = self.connection.prepare_cached(
            "SELECT id, report FROM rollouts WHERE id IN (SELECT value FROM json_each(?1)) AND report IS NOT NULL",
        )?;
        let mut rows = statement.query([list])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let text = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
            found.push((row.get::<_, i64>(0)? as u64, serde_json::from_str(text)?));
        }
        Ok(found)
    }

    /// Faults of ours, oldest first.
    pub fn faults(&self) -> Result<Vec<FaultEntry>, StoreError> {
        self.faults_where("1 ORDER BY id", &[])
    }

    fn faults_where(&self, condition: &str, values: &[&dyn rusqlite::ToSql]) -> Result<Vec<FaultEntry>, StoreError> {
        let sql = format!("SELECT rollout, attempt, code, message, at FROM faults WHERE {condition}");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map(values, |row| {
            Ok(FaultEntry {
                rollout: row.get::<_, Option<i64>>(0)?.map(|v| v as u64),
                attempt: row.get(1)?,
                code: row.get(2)?,
                message: row.get(3)?,
                at: row.get::<_, i64>(4)? as u64,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Finished answers of an evaluation phase: id, task, verified correct.
    pub fn evaluated(&self, phase: PhaseTag) -> Result<Vec<(u64, TaskId, bool)>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT id, task, coalesce(verdict, '') = 'passed' FROM rollouts WHERE phase = ?1 AND ending = 'evaluated' ORDER BY id",
        )?;
        let rows = statement
            .query_map([phase.as_str()], |row| Ok((row.get::<_, i64>(0)? as u64, TaskId(row.get(1)?), row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The task of each answer of an evaluation phase that was masked.
    pub fn masked(&self, phase: PhaseTag) -> Result<Vec<TaskId>, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT task FROM rollouts WHERE phase = ?1 AND ending = 'faulted' ORDER BY id")?;
        let rows = statement.query_map([phase.as_str()], |row| Ok(TaskId(row.get(0)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Ids of a phase's rollouts that have an ending, whichever.
    pub fn ended_ids(&self, phase: PhaseTag) -> Result<Vec<u64>, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT id FROM rollouts WHERE phase = ?1 AND ending IS NOT NULL")?;
        let rows = statement.query_map([phase.as_str()], |row| row.get::<_, i64>(0))?;
        Ok(rows.map(|id| id.map(|id| id as u64)).collect::<Result<_, _>>()?)
    }

    /// The run's clock at the last journalled event, milliseconds of RL.
    pub fn last_clock_ms(&self) -> Result<u64, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT events FROM journal ORDER BY seq_first DESC LIMIT 1")?;
        let bytes: Option<Vec<u8>> = statement.query_row([], |row| row.get(0)).optional()?;
        let Some(bytes) = bytes else { return Ok(0) };
        let events: Vec<Record> = codec::decode(&bytes)?;
        Ok(events.last().map_or(0, |record| record.now_ms))
    }

    /// Rollouts of a phase by ending (`in_flight` for those without one).
    pub fn endings(&self, phase: PhaseTag) -> Result<std::collections::BTreeMap<String, u64>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT coalesce(ending, 'in_flight'), count(*) FROM rollouts WHERE phase = ?1 GROUP BY 1",
        )?;
        let rows = statement.query_map([phase.as_str()], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn summary(row: &Row<'_>) -> Result<RolloutSummary, StoreError> {
    let phase: String = row.get(1)?;
    let number = |column: usize| row.get::<_, Option<i64>>(column).map(|v| v.map(|v| v as u64));
    Ok(RolloutSummary {
        id: row.get::<_, i64>(0)? as u64,
        phase: PhaseTag::parse(&phase).ok_or_else(|| StoreError::Incomplete(format!("a known phase: {phase}")))?,
        group: row.get::<_, i64>(2)? as u64,
        task: TaskId(row.get(3)?),
        state: row.get(4)?,
        attempt: row.get(5)?,
        policy_oldest: number(6)?,
        policy_newest: number(7)?,
        finish: row.get(8)?,
        n_tokens: number(9)?,
        plan_tokens: row.get(10)?,
        verdict: row.get(11)?,
        reward_plan: row.get(12)?,
        reward_code: row.get(13)?,
        adv_plan: row.get(14)?,
        adv_code: row.get(15)?,
        ending: row.get(16)?,
        step: number(17)?,
        sampled_at: number(18)?,
        ended_at: number(19)?,
    })
}

fn detail(row: &Row<'_>) -> Result<RolloutDetail, StoreError> {
    let summary = summary(row)?;
    let json = |column: usize| row.get::<_, Option<String>>(column);
    let blob = |column: usize| row.get::<_, Option<Vec<u8>>>(column);
    let completion = match (json(21)?, json(22)?, blob(23)?, blob(24)?) {
        (Some(spans), Some(text), Some(tokens), Some(logprobs)) => Some(Completion {
            prompt_tokens: blob(28)?.map_or(Ok(Vec::new()), |packed| unpack_u32s(&packed))?,
            tokens: unpack_u32s(&tokens)?,
            logprobs: unpack_f32s(&logprobs)?,
            spans: serde_json::from_str::<Vec<PolicySpan>>(&spans)?,
            finish: if summary.finish.as_deref() == Some("stop") { Finish::Stop } else { Finish::Length },
            text,
            plan_tokens: summary.plan_tokens,
        }),
        _ => None,
    };
    Ok(RolloutDetail {
        seed: row.get::<_, i64>(20)? as u64,
        prompt: row.get(27)?,
        completion,
        ruling: json(25)?
            .map(|t| serde_json::from_str(&t))
            .transpose()?
            .map(|ruling| with_source(ruling, json(22).ok().flatten().as_deref().unwrap_or(""))),
        report: json(26)?.map(|t| serde_json::from_str(&t)).transpose()?,
        summary,
    })
}

/// Puts the candidate's source back, which is stored once, in the answer.
fn with_source(mut ruling: Ruling, answer: &str) -> Ruling {
    let candidate = match &mut ruling {
        Ruling::Admit { candidate, .. } => Some(candidate),
        Ruling::Reject { candidate, .. } => candidate.as_mut(),
    };
    if let Some(candidate) = candidate
        && let Ok(found) = reward::extract::extract(answer)
        && found.digest == candidate.digest
    {
        candidate.source = found.source;
    }
    ruling
}
