//! Tasks: how often each is solved, over training and in the evaluations, and its best kernel so far.

use std::collections::HashMap;

use rollout::task::Split;
use serde::Serialize;

use super::Run;
use crate::store::StoreError;

/// Parts of training over which a task's solve rate is shown.
const PARTS: usize = 12;
/// Passed rollouts of a task whose reports are read for the best kernel.
const CANDIDATES: usize = 200;

#[derive(Clone, Debug, Serialize)]
pub struct TaskRow {
    pub task: String,
    pub level: Option<u8>,
    pub split: Option<Split>,
    /// Answers with a verdict, and how many of them passed.
    pub answers: u64,
    pub passed: u64,
    /// Of both evaluations: (answers, passed).
    pub before: (u64, u64),
    pub after: (u64, u64),
    /// Share solved in each part of training; null where the task was not drawn.
    pub over_time: Vec<Option<f64>>,
    /// Rollouts in flight.
    pub open: u64,
}

#[derive(Debug, Serialize)]
pub struct TaskDetail {
    #[serde(flatten)]
    pub row: TaskRow,
    pub tags: Vec<String>,
    pub source: Option<String>,
    pub best: Option<Best>,
    /// Newest rollouts of this task.
    pub newest: Vec<u64>,
}

/// The fastest passed kernel where something was timed, else the shortest one.
#[derive(Debug, Serialize)]
pub struct Best {
    pub rollout: u64,
    pub speedup: Option<f64>,
    pub code: String,
    pub code_lines: usize,
    /// Passed kernels that were compared.
    pub of: usize,
}

impl Run {
    /// All tasks of the run, those that were never drawn included.
    pub fn task_rows(&self) -> Vec<TaskRow> {
        let table = self.table();
        let mut rows: Vec<TaskRow> = Vec::new();
        let mut by_name: HashMap<String, usize> = HashMap::new();
        for task in self.tasks() {
            by_name.insert(task.id.0.clone(), rows.len());
            rows.push(TaskRow { level: Some(task.level), split: Some(task.split), ..empty(&task.id.0) });
        }
        let (Some(tasks), Some(phases), Some(verdicts)) =
            (table.words("task"), table.words("phase"), table.words("verdict"))
        else {
            return rows;
        };
        // From the code of a task's name to its row.
        let places: Vec<usize> = tasks
            .dictionary()
            .map(|name| {
                let name = name.unwrap_or("");
                *by_name.entry(name.to_string()).or_insert_with(|| {
                    rows.push(empty(name));
                    rows.len() - 1
                })
            })
            .collect();
        let code = |words: &super::table::Words, text: &str| words.find(text).unwrap_or(u32::MAX);
        let (train, before, after) = (code(phases, "train"), code(phases, "eval_before"), code(phases, "eval_after"));
        let passed = code(verdicts, "passed");
        let open = table.words("ending").map_or(&[][..], |e| e.codes());
        let training: Vec<usize> = (0..table.len()).filter(|row| phases.codes()[*row] == train).collect();
        let mut parts = vec![[(0u64, 0u64); PARTS]; rows.len()];
        let mut place_in_training = 0usize;
        for row in 0..table.len() {
            let (place, phase, verdict) =
                (places[tasks.codes()[row] as usize], phases.codes()[row], verdicts.codes()[row]);
            let target = &mut rows[place];
            target.open += u64::from(open[row] == 0);
            let part = place_in_training * PARTS / training.len().max(1);
            place_in_training += usize::from(phase == train);
            if verdict == 0 {
                continue;
            }
            let solved = u64::from(verdict == passed);
            target.answers += 1;
            target.passed += solved;
            let cell = match phase {
                p if p == before => &mut target.before,
                p if p == after => &mut target.after,
                _ => &mut parts[place][part.min(PARTS - 1)],
            };
            *cell = (cell.0 + 1, cell.1 + solved);
        }
        for (row, parts) in rows.iter_mut().zip(parts) {
            row.over_time = parts.iter().map(|(all, good)| (*all > 0).then(|| *good as f64 / *all as f64)).collect();
        }
        rows.retain(|row| !row.task.is_empty());
        rows
    }

    /// One task; `None` when the run has none of that name.
    pub fn task(&self, name: &str) -> Result<Option<TaskDetail>, StoreError> {
        let Some(row) = self.task_rows().into_iter().find(|row| row.task == name) else { return Ok(None) };
        let spec = self.tasks().iter().find(|t| t.id.0 == name);
        let (newest, passed) = self.of_task(name);
        Ok(Some(TaskDetail {
            tags: spec.map_or_else(Vec::new, |t| t.tags.clone()),
            source: spec.map(|t| t.source.clone()),
            best: self.best(&passed)?,
            newest,
            row,
        }))
    }

    /// The newest rollouts of a task, and the newest that passed.
    fn of_task(&self, name: &str) -> (Vec<u64>, Vec<u64>) {
        let table = self.table();
        let of = |row: &usize| table.word("task", *row) == Some(name);
        let rows: Vec<usize> = (0..table.len()).rev().filter(of).collect();
        let passed = rows.iter().filter(|row| table.word("verdict", **row) == Some("passed"));
        (
            rows.iter().take(50).map(|row| table.id(*row)).collect(),
            passed.take(CANDIDATES).map(|row| table.id(*row)).collect(),
        )
    }

    fn best(&self, passed: &[u64]) -> Result<Option<Best>, StoreError> {
        let reader = self.reader()?;
        let speedup = |report: &rollout::outcome::ExecReport| match report.outcome {
            rollout::outcome::Outcome::Passed { speedup } => speedup,
            _ => None,
        };
        let mut timed: Vec<(u64, f64)> =
            reader.reports(passed)?.iter().filter_map(|(id, report)| speedup(report).map(|x| (*id, x))).collect();
        timed.sort_by(|a, b| b.1.total_cmp(&a.1));
        if let Some((id, speedup)) = timed.first() {
            return Ok(self.code(&reader, *id)?.map(|code| best(*id, Some(*speedup), code, timed.len())));
        }
        let mut shortest: Option<Best> = None;
        for id in passed.iter().take(CANDIDATES / 4) {
            let Some(code) = self.code(&reader, *id)? else { continue };
            if shortest.as_ref().is_none_or(|s| code.len() < s.code.len()) {
                shortest = Some(best(*id, None, code, passed.len().min(CANDIDATES / 4)));
            }
        }
        Ok(shortest)
    }

    fn code(&self, reader: &crate::store::Reader, id: u64) -> Result<Option<String>, StoreError> {
        let answer = reader.rollout(id)?.and_then(|detail| detail.completion).map(|c| c.text);
        Ok(answer.and_then(|text| reward::extract::extract(&text).ok()).map(|candidate| candidate.source))
    }
}

fn best(rollout: u64, speedup: Option<f64>, code: String, of: usize) -> Best {
    Best { rollout, speedup, code_lines: code.lines().count(), code, of }
}

fn empty(name: &str) -> TaskRow {
    TaskRow {
        task: name.into(),
        level: None,
        split: None,
        answers: 0,
        passed: 0,
        before: (0, 0),
        after: (0, 0),
        over_time: Vec::new(),
        open: 0,
    }
}
