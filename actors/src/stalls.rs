//! Who keeps a run waiting: a stage that has work and answers nothing, for longer than it ever took before. Pure; it only tells.

use crate::outbox::Stage;

/// Silence that is never worth a word, milliseconds.
const LEAST_MS: u64 = 60_000;
/// And this many times the longest silence that ended in an answer.
const TIMES: u64 = 3;

/// Who works on what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worker {
    Generator,
    Judge,
    Pool,
    Learner,
}

impl Worker {
    pub const ALL: [Worker; 4] = [Worker::Generator, Worker::Judge, Worker::Pool, Worker::Learner];

    pub fn of(stage: Stage) -> Option<Worker> {
        match stage {
            Stage::Sample => Some(Worker::Generator),
            Stage::Judge => Some(Worker::Judge),
            Stage::Execute => Some(Worker::Pool),
            Stage::Rest => None,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Worker::Generator => "the generator (sampling)",
            Worker::Judge => "the judge (judging)",
            Worker::Pool => "the executors' pool (executing)",
            Worker::Learner => "the learner (training)",
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    /// Since when it has work and has not answered.
    since_ms: Option<u64>,
    longest_ms: u64,
    /// Told at this length of silence; the next time is at twice that.
    told_ms: u64,
}

/// One watch for each stage.
#[derive(Clone, Debug, Default)]
pub struct Stalls([Watch; 4]);

impl Stalls {
    /// It answered.
    pub fn answered(&mut self, now_ms: u64, worker: Worker) {
        let watch = &mut self.0[worker as usize];
        if let Some(since) = watch.since_ms.replace(now_ms) {
            watch.longest_ms = watch.longest_ms.max(now_ms.saturating_sub(since));
        }
        watch.told_ms = 0;
    }

    /// How long each has had work and not answered, milliseconds, in the order of [`Worker::ALL`].
    pub fn silent_ms(&self, now_ms: u64) -> [Option<u64>; 4] {
        self.0.map(|watch| watch.since_ms.map(|since| now_ms.saturating_sub(since)))
    }

    /// Looks at who has how much to do, in the order of [`Worker::ALL`]; what to tell.
    pub fn look(&mut self, now_ms: u64, waiting: [u64; 4]) -> Vec<String> {
        let mut told = Vec::new();
        for worker in Worker::ALL {
            let (watch, waiting) = (&mut self.0[worker as usize], waiting[worker as usize]);
            if waiting == 0 {
                (watch.since_ms, watch.told_ms) = (None, 0);
                continue;
            }
            let silent = now_ms - (*watch.since_ms.get_or_insert(now_ms)).min(now_ms);
            let limit = LEAST_MS.max(TIMES * watch.longest_ms).max(2 * watch.told_ms);
            if silent >= limit {
                watch.told_ms = silent;
                told.push(format!(
                    "stalled? {} has {waiting} to do and has answered none of it for {} s",
                    worker.words(),
                    silent / 1000
                ));
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Planted: `answered` does not restart the watch. Seen: a stage that answers every 10 s is told of.
    #[test]
    fn only_silence_with_work_to_do_is_told_and_less_and_less_often() {
        let mut stalls = Stalls::default();
        let mut told = Vec::new();
        for s in 0..600 {
            let now = s * 1000;
            if s % 10 == 0 {
                stalls.answered(now, Worker::Judge);
            }
            let pool = if s >= 100 { 24 } else { 0 };
            told.extend(stalls.look(now, [0, 5, pool, 0]).into_iter().map(|text| (s, text)));
        }
        let when: Vec<u64> = told.iter().map(|(s, _)| *s).collect();
        assert_eq!(when, [160, 220, 340, 580], "60, 120, 240 and 480 s after it got work: {told:?}");
        assert!(told[0].1.contains("the executors' pool (executing) has 24 to do") && told[0].1.contains("60 s"));
    }

    #[test]
    fn who_always_takes_long_is_given_time() {
        let mut stalls = Stalls::default();
        stalls.look(0, [0, 0, 0, 1]);
        stalls.answered(100_000, Worker::Learner);
        assert!(stalls.look(399_000, [0, 0, 0, 1]).is_empty());
        assert_eq!(stalls.look(400_000, [0, 0, 0, 1]).len(), 1);
        assert!(stalls.look(401_000, [0, 0, 0, 0]).is_empty());
        assert!(stalls.look(402_000, [0, 0, 0, 1]).is_empty(), "new work, new watch");
    }
}
