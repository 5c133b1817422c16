//! Counts for whoever watches, and for the step's row; nothing here feeds back into the run.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rollout::machine::View;
use rollout::reward::Reward;
use serde_json::{Map, Value, json};

use crate::observe::{Live, Progress, RunPhase};
use crate::scaling::Hint;
use crate::store::rows::EndingRow;

/// Rates are over this window.
const WINDOW: Duration = Duration::from_secs(10);
/// Answers in `recent_correct`.
const RECENT: usize = 256;

#[derive(Default)]
pub struct Meters {
    eval: (u64, u64, u64),
    faults: u64,
    /// Since the last step.
    step_faults: u64,
    tokens: u64,
    scored: u64,
    /// (when, tokens, scored) about once a second.
    marks: VecDeque<(Instant, u64, u64)>,
    recent: VecDeque<bool>,
    recent_correct: usize,
    /// Since the last step closed: answers scored, their summed rewards.
    step: (u64, f64, f64),
    /// Of these, correct ones that were timed: how many, how many of them faster than their reference, summed speed-ups.
    timed: (u64, u64, f64),
    /// The executors as they were last, and since the last step closed.
    hint: Hint,
    executors: Executors,
}

/// About once a second, summed up.
#[derive(Default)]
struct Executors {
    present: u64,
    busy: u64,
    oldest_ms: u64,
}

impl Meters {
    pub fn executors(&mut self, hint: Hint) {
        self.hint = hint;
        self.executors.present += u64::from(hint.load.executors);
        self.executors.busy += u64::from(hint.load.busy);
        self.executors.oldest_ms = self.executors.oldest_ms.max(hint.load.oldest_ms);
    }

    pub fn start_eval(&mut self, total: u64, done: u64, correct: u64) {
        self.eval = (total, done, correct);
    }

    pub fn start_rl(&mut self) {
        *self = Meters { faults: self.faults, ..Meters::default() };
    }

    pub fn sampled(&mut self, tokens: usize) {
        self.tokens += tokens as u64;
    }

    pub fn scored(&mut self, reward: Reward) {
        self.scored += 1;
        self.step = (self.step.0 + 1, self.step.1 + reward.plan, self.step.2 + reward.code);
        let correct = reward.code > 0.0;
        self.recent.push_back(correct);
        self.recent_correct += usize::from(correct);
        if self.recent.len() > RECENT {
            self.recent_correct -= usize::from(self.recent.pop_front() == Some(true));
        }
    }

    /// A correct answer was timed.
    pub fn timed(&mut self, speedup: f64) {
        self.timed = (self.timed.0 + 1, self.timed.1 + u64::from(speedup > 1.0), self.timed.2 + speedup);
    }

    pub fn ended(&mut self, ending: EndingRow, correct: bool) {
        if ending == EndingRow::Evaluated {
            self.eval.1 += 1;
            self.eval.2 += u64::from(correct);
        }
    }

    pub fn fault(&mut self) {
        self.faults += 1;
        self.step_faults += 1;
    }

    /// Adds what was scored since the last step: all answers, whether their group was trained on or not.
    pub fn close_step(&mut self, about: &mut Map<String, Value>) {
        let (count, plan, code) = std::mem::take(&mut self.step);
        about.insert("scored".into(), json!(count));
        if count > 0 {
            about.insert("scored_reward_plan".into(), json!(plan / count as f64));
            about.insert("scored_reward_code".into(), json!(code / count as f64));
        }
        let (timed, faster, speedups) = std::mem::take(&mut self.timed);
        if timed > 0 && count > 0 {
            about.insert("scored_fast_1".into(), json!(faster as f64 / count as f64));
            about.insert("scored_speedup".into(), json!(speedups / timed as f64));
        }
        about.insert("faults".into(), json!(std::mem::take(&mut self.step_faults)));
        let seen = std::mem::take(&mut self.executors);
        if seen.present > 0 {
            about.insert("executors".into(), json!(self.hint.load.executors));
            about.insert("executors_wanted".into(), json!(self.hint.wanted));
            about.insert("timing_saturated".into(), json!(self.hint.load.saturated));
            about.insert("executors_busy".into(), json!(seen.busy as f64 / seen.present as f64));
            about.insert("executors_oldest_wait_ms".into(), json!(seen.oldest_ms));
        }
    }

    pub fn eval(&self, phase: RunPhase) -> Progress {
        let (total, done, correct) = self.eval;
        Progress::Eval { phase, done, total, correct }
    }

    pub fn live(&mut self, view: &View, training: bool) -> Live {
        let now = Instant::now();
        self.marks.push_back((now, self.tokens, self.scored));
        while self.marks.len() > 2 && self.marks.front().is_some_and(|(at, ..)| now.duration_since(*at) > WINDOW) {
            self.marks.pop_front();
        }
        let (tokens_per_s, scored_per_s) = match self.marks.front() {
            Some((at, tokens, scored)) if now > *at => {
                let seconds = now.duration_since(*at).as_secs_f64();
                ((self.tokens - tokens) as f64 / seconds, (self.scored - scored) as f64 / seconds)
            }
            _ => (0.0, 0.0),
        };
        Live {
            sampling: view.sampling,
            judging: view.judging,
            executing: view.executing,
            waiting: view.scored + view.ready + view.training,
            credits_in_use: view.credits_in_use,
            credits: view.credits,
            trained: view.ledger.trained,
            dropped: view.ledger.dropped_total(),
            steps_done: view.step.0,
            steps_total: view.steps,
            policy: view.policy,
            tokens_per_s,
            scored_per_s,
            recent_correct: (!self.recent.is_empty()).then(|| self.recent_correct as f64 / self.recent.len() as f64),
            zero_variance_rate: (view.groups.completed > 0).then_some(view.groups.zero_variance_rate),
            groups_ready: view.groups.ready,
            training,
            staleness: view.batches.last().map_or_else(Vec::new, |b| {
                let oldest = b.staleness.keys().max().copied().unwrap_or(0);
                (0..=oldest).map(|lag| b.staleness.get(&lag).copied().unwrap_or(0)).collect()
            }),
            faults: self.faults,
            executors: self.hint,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_1_is_a_share_of_all_scored_answers_and_absent_where_nothing_was_timed() {
        let mut meters = Meters::default();
        let close = |meters: &mut Meters| {
            let mut about = Map::new();
            meters.close_step(&mut about);
            (about.get("scored_fast_1").cloned(), about.get("scored_speedup").cloned())
        };
        meters.scored(Reward { plan: 1.0, code: 1.0 });
        assert_eq!(close(&mut meters), (None, None));
        for speedup in [0.5, 1.5, 4.0] {
            meters.timed(speedup);
            meters.scored(Reward { plan: speedup, code: 1.0 });
        }
        meters.scored(Reward { plan: 0.0, code: 0.0 });
        assert_eq!(close(&mut meters), (Some(json!(0.5)), Some(json!(2.0))), "two of four are correct and faster");
        assert_eq!(close(&mut meters), (None, None), "the next step begins at nothing");
    }
}
