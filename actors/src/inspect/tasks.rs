//! Tasks: how often each is solved, over training and in the evaluations, and its best kernel so far.

use std::collections::HashMap;
use std::sync::PoisonError;

use rollout::task::Split;
use serde::{Deserialize, Serialize};

use super::Run;
use super::diff::{Line, lines};
use super::overview::Curves;
use super::table::SPEEDUP;
use crate::store::StoreError;

/// Parts of training over which a task's solve rate is shown.
const PARTS: usize = 12;
/// Points of one task's solve rate.
const POINTS: usize = 24;
/// Newest rollouts of a task that are named.
const NEWEST: usize = 50;

#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// From the reference to the best kernel, line by line.
    pub diff: Option<Vec<Line>>,
    /// Share of training answers that solved it (`solved`), over equally many answers a point; x is the time at which the last of
    /// them was sampled, seconds since the Unix epoch.
    pub solve_rate: Curves,
    /// Newest rollouts of this task.
    pub newest: Vec<u64>,
}

/// Of all that passed the fastest where something was timed, else the one with the fewest tokens after its plan; of equals the first.
#[derive(Clone, Debug, Serialize)]
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
        let of = self.of_task(name);
        let (best, diff) = self.best(name, &of)?.map_or((None, None), |found| (Some(found.best), found.diff));
        Ok(Some(TaskDetail {
            tags: spec.map_or_else(Vec::new, |t| t.tags.clone()),
            source: spec.map(|t| t.source.clone()),
            diff,
            best,
            solve_rate: of.solve_rate,
            newest: of.newest,
            row,
        }))
    }

    /// What the columns of all its rollouts say.
    fn of_task(&self, name: &str) -> OfTask {
        let table = self.table();
        let mut found = OfTask::default();
        let (Some(tasks), Some(verdicts), Some(phases)) =
            (table.words("task"), table.words("verdict"), table.words("phase"))
        else {
            return found;
        };
        let code = |words: &super::table::Words, text: &str| words.find(text).unwrap_or(u32::MAX);
        let (task, passed, train) = (code(tasks, name), code(verdicts, "passed"), code(phases, "train"));
        let (speedup, tokens, plan) = (table.number(SPEEDUP), table.number("n_tokens"), table.number("plan_tokens"));
        let sampled = table.number("sampled_at");
        let rows: Vec<usize> = (0..table.len()).filter(|row| tasks.codes()[*row] == task).collect();
        // When it was sampled, and whether it is solved; in the order of rollouts.
        let mut answers: Vec<(f64, bool)> = Vec::new();
        for row in rows.iter().copied().filter(|row| verdicts.codes()[*row] != 0) {
            let solved = verdicts.codes()[row] == passed;
            if phases.codes()[row] == train && !sampled[row].is_nan() {
                answers.push((sampled[row], solved));
            }
            if !solved {
                continue;
            }
            found.passed += 1;
            if !speedup[row].is_nan() {
                found.timed += 1;
                if found.fastest.is_none_or(|(_, best)| speedup[row] > best) {
                    found.fastest = Some((table.id(row), speedup[row]));
                }
            }
            let length = tokens[row] - if plan[row].is_nan() { 0.0 } else { plan[row] };
            if found.shortest.is_none_or(|(_, best)| length < best) {
                found.shortest = Some((table.id(row), length));
            }
        }
        found.newest = rows.iter().rev().take(NEWEST).map(|row| table.id(*row)).collect();
        found.solve_rate = solve_rate(answers);
        found
    }

    /// The best kernel and its difference to the reference, from what was found out before where it is still the same.
    fn best(&self, name: &str, of: &OfTask) -> Result<Option<Compared>, StoreError> {
        let (id, speedup, count) = match (of.fastest, of.shortest) {
            (Some((id, speedup)), _) => (id, Some(speedup), of.timed),
            (None, Some((id, _))) => (id, None, of.passed),
            (None, None) => return Ok(None),
        };
        let known = self.compared.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some((_, mut compared)) = known.filter(|(known, _)| *known == id) {
            (compared.best.speedup, compared.best.of) = (speedup, count);
            return Ok(Some(compared));
        }
        let reader = self.reader()?;
        let Some(code) = self.code(&reader, id)? else { return Ok(None) };
        reader.unmoved()?;
        let spec = self.tasks().iter().find(|t| t.id.0 == name);
        let diff = spec.map(|spec| lines(&spec.source, &code));
        let best = Best { rollout: id, speedup, code_lines: code.lines().count(), code, of: count };
        let compared = Compared { best, diff };
        self.compared.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_string(), (id, compared.clone()));
        Ok(Some(compared))
    }

    fn code(&self, reader: &crate::store::Reader, id: u64) -> Result<Option<String>, StoreError> {
        let answer = reader.rollout(id)?.and_then(|detail| detail.completion).map(|c| c.text);
        Ok(answer.and_then(|text| reward::extract::extract(&text).ok()).map(|candidate| candidate.source))
    }
}

/// A task's best kernel, and the lines from the reference to it.
#[derive(Clone, Debug)]
pub struct Compared {
    best: Best,
    diff: Option<Vec<Line>>,
}

/// What was compared last, by task: its best rollout with it.
pub type AllCompared = HashMap<String, (u64, Compared)>;

/// Over time, whatever the order of rollouts: a later one may have been sampled sooner, or again.
fn solve_rate(mut answers: Vec<(f64, bool)>) -> Curves {
    answers.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut curve = Curves::default();
    let points = answers.len().min(POINTS);
    for n in 0..points {
        let part = &answers[n * answers.len() / points..(n + 1) * answers.len() / points];
        let solved = part.iter().filter(|(_, solved)| *solved).count() as f64 / part.len() as f64;
        curve.x.push(part[part.len() - 1].0 / 1000.0);
        curve.y.entry("solved".into()).or_default().push(Some(solved));
    }
    curve
}

/// One task's rollouts in short.
#[derive(Default)]
struct OfTask {
    newest: Vec<u64>,
    passed: usize,
    timed: usize,
    /// Rollout, and its speed-up or its tokens after the plan.
    fastest: Option<(u64, f64)>,
    shortest: Option<(u64, f64)>,
    solve_rate: Curves,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_solve_rate_is_over_time_whatever_the_order_of_rollouts() {
        let curve = solve_rate(vec![(3_000.0, true), (1_000.0, false), (2_000.0, true)]);
        assert_eq!(curve.x, [1.0, 2.0, 3.0]);
        assert_eq!(curve.y["solved"], [Some(0.0), Some(1.0), Some(1.0)]);
        assert_eq!(solve_rate(Vec::new()), Curves::default());
    }
}
