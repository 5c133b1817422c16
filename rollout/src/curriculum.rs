//! Which task the next group is drawn for: seeded, serialisable, and independent of the order results arrive in.
//!
//! Tasks take turns by stride scheduling: each has a place on a common line, the lowest is drawn and moves on by
//! `jitter / weight`, `jitter` seeded and uniform in [0.5, 1.5). So a task of weight w is drawn w times as often as one of
//! weight 1, no task is forgotten, and tasks of equal weight are covered evenly. `Uniform` has weight 1 throughout;
//! `Frontier` weighs by how uncertain a task's result is. With a mixture of levels (TritonRL, arXiv 2510.17891, section 3.3), a setting of
//! the run that is no part of what is written down, the tasks of a level share that level's draws in proportion to their weights.
//!
//! What groups report is collected apart and takes effect only when a step closes (`close_step`). Sums of counts do
//! not depend on the order of events, so a synchronous run draws the same tasks whatever the timing.

use serde::{Deserialize, Serialize};

use crate::id::TaskId;
use crate::seed::{Stream, derive_unit};

/// Which curriculum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CurriculumKind {
    /// Every task equally often.
    Uniform,
    /// Tasks that are solved sometimes are drawn more often: weight `max(4 p (1 - p), 0.1)`, where p is the smoothed
    /// share of solved answers `(solved + 1) / (answers + 2)`. A task not yet tried has weight 1.
    Frontier,
}

/// The lowest weight of a task under `Frontier`: it is still drawn a tenth as often as the most uncertain one.
const WEIGHT_FLOOR: f64 = 0.1;
/// Answers after which a task's counts are halved, so that old results of a weaker policy fade.
const MEMORY_ANSWERS: u64 = 64;

/// What is known of one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskStats {
    pub task: TaskId,
    /// Times drawn.
    pub draws: u64,
    /// Answers and solved answers in effect (halved now and then).
    pub answers: u64,
    pub solved: u64,
    /// Reported since the last step closed, not in effect yet.
    new_answers: u64,
    new_solved: u64,
    /// Place on the line; the lowest is drawn next.
    place: f64,
}

/// The curriculum's state. Size: the number of tasks, for ever.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curriculum {
    kind: CurriculumKind,
    seed: u64,
    tasks: Vec<TaskStats>,
    /// By task; empty: every task counts by its weight alone. Whoever reads a curriculum back sets it again (`Curriculum::set_mixture`).
    #[serde(skip)]
    mixture: Vec<Part>,
}

/// A task's part in a mixture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    pub level: u8,
    /// Of all draws, relative to other levels' shares, for all tasks of the level together; finite and above 0.
    pub share: f64,
}

/// A task's place in the curriculum, cheaper to carry than its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskIndex(pub u32);

impl Curriculum {
    pub fn new(kind: CurriculumKind, seed: u64, tasks: Vec<TaskId>) -> Curriculum {
        let tasks = tasks
            .into_iter()
            .zip(0u64..)
            .map(|(task, index)| TaskStats {
                task,
                draws: 0,
                answers: 0,
                solved: 0,
                new_answers: 0,
                new_solved: 0,
                place: derive_unit(seed, Stream::Curriculum, stream_id(index, 0)),
            })
            .collect();
        Curriculum { kind, seed, tasks, mixture: Vec::new() }
    }

    /// The same with a mixture, from the first draw on: a part for each task.
    pub fn with_mixture(mut self, mixture: &[Part]) -> Curriculum {
        self.set_mixture(mixture);
        let weights: Vec<f64> = (0..self.tasks.len()).map(|index| self.weight_at(index)).collect();
        for (stats, weight) in self.tasks.iter_mut().zip(weights) {
            stats.place /= weight;
        }
        self
    }

    /// The mixture of one that was read back: its tasks have their places.
    pub fn set_mixture(&mut self, mixture: &[Part]) {
        self.mixture = mixture.to_vec();
    }

    /// The next task; `None` only when there are no tasks. Linear in the number of tasks.
    pub fn draw(&mut self) -> Option<(TaskIndex, TaskId)> {
        let mut best: Option<(usize, f64)> = None;
        for (index, stats) in self.tasks.iter().enumerate() {
            if best.is_none_or(|(_, place)| stats.place < place) {
                best = Some((index, stats.place));
            }
        }
        let (index, _) = best?;
        let (seed, weight) = (self.seed, self.weight_at(index));
        let stats = self.tasks.get_mut(index)?;
        stats.draws += 1;
        let jitter = 0.5 + derive_unit(seed, Stream::Curriculum, stream_id(index as u64, stats.draws));
        stats.place += jitter / weight;
        Some((TaskIndex(index as u32), stats.task.clone()))
    }

    /// A group's result: `solved` of `answers` survivors had a code reward above zero. Takes effect at `close_step`.
    pub fn report(&mut self, task: TaskIndex, answers: u64, solved: u64) {
        if let Some(stats) = self.tasks.get_mut(task.0 as usize) {
            stats.new_answers += answers;
            stats.new_solved += solved;
        }
    }

    /// A step closed: what was reported since the last one takes effect.
    pub fn close_step(&mut self) {
        for stats in &mut self.tasks {
            stats.answers += std::mem::take(&mut stats.new_answers);
            stats.solved += std::mem::take(&mut stats.new_solved);
            while stats.answers > MEMORY_ANSWERS {
                stats.answers /= 2;
                stats.solved = (stats.solved / 2).min(stats.answers);
            }
        }
    }

    pub fn name(&self, task: TaskIndex) -> Option<&TaskId> {
        self.tasks.get(task.0 as usize).map(|stats| &stats.task)
    }

    pub fn tasks(&self) -> &[TaskStats] {
        &self.tasks
    }

    /// How often a task is drawn relative to others; in (0, 1] without a mixture. Linear in the number of tasks with one.
    pub fn weight(&self, task: TaskIndex) -> Option<f64> {
        let index = task.0 as usize;
        (index < self.tasks.len()).then(|| self.weight_at(index))
    }

    /// Of a task that there is.
    fn weight_at(&self, index: usize) -> f64 {
        let own = weight(self.kind, &self.tasks[index]);
        let Some(part) = self.mixture.get(index).filter(|part| part.share.is_finite() && part.share > 0.0) else {
            return own;
        };
        let peers = self.tasks.iter().zip(&self.mixture).filter(|(_, other)| other.level == part.level);
        part.share * own / peers.map(|(stats, _)| weight(self.kind, stats)).sum::<f64>()
    }
}

fn weight(kind: CurriculumKind, stats: &TaskStats) -> f64 {
    match kind {
        CurriculumKind::Uniform => 1.0,
        CurriculumKind::Frontier => {
            let p = (stats.solved + 1) as f64 / (stats.answers + 2) as f64;
            (4.0 * p * (1.0 - p)).max(WEIGHT_FLOOR)
        }
    }
}

/// One number for (task, draw), distinct for up to 2^40 draws of 2^24 tasks.
fn stream_id(index: u64, draws: u64) -> u64 {
    (index << 40) | draws
}
