//! What a run found: held-out verified pass@1 before and after, and the gain, each with a 95 % interval.
//!
//! Intervals are percentile intervals of a cluster bootstrap: tasks are drawn with replacement and bring all their
//! answers along, because answers to one task are not independent. Before and after are drawn with the same tasks, so
//! the gain is paired by task. The seed is fixed: the same verdicts give the same intervals.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rollout::id::TaskId;
use serde::{Deserialize, Serialize};

/// Resamples of the bootstrap.
const RESAMPLES: usize = 10_000;
const SEED: u64 = 95;

/// An estimate with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

/// Held-out correctness (a share of answers, 0 to 1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    pub tasks: usize,
    /// Answers to these tasks.
    pub samples_before: usize,
    pub samples_after: usize,
    pub before: Interval,
    /// Absent until the evaluation after RL is complete.
    pub after: Option<Interval>,
    /// After minus before, paired by task.
    pub gain: Option<Interval>,
}

/// One verdict of a held-out answer.
pub type Verdict = (TaskId, bool);

/// The least and the most that pass@1 can be, masked answers included: all of them wrong, all of them right. What masks an answer may
/// strike those alone that are right (a measurement that is disturbed, an LLM judge that is away), so a mean without them may be far off.
pub fn bounds(verdicts: &[Verdict], masked: &[TaskId]) -> Option<[f64; 2]> {
    let mean = |all_right: bool| {
        let mut by_task: BTreeMap<&TaskId, (f64, f64)> = BTreeMap::new();
        let known = verdicts.iter().map(|(task, correct)| (task, *correct));
        for (task, correct) in known.chain(masked.iter().map(|task| (task, all_right))) {
            let cell = by_task.entry(task).or_default();
            *cell = (cell.0 + f64::from(u8::from(correct)), cell.1 + 1.0);
        }
        (!by_task.is_empty())
            .then(|| by_task.values().map(|(good, all)| good / all).sum::<f64>() / by_task.len() as f64)
    };
    Some([mean(false)?, mean(true)?])
}

/// `None` when nothing was evaluated before.
pub fn held_out(before: &[Verdict], after: &[Verdict]) -> Option<HeldOut> {
    let mut by_task: BTreeMap<&TaskId, [(f64, f64); 2]> = BTreeMap::new();
    for (phase, verdicts) in [before, after].into_iter().enumerate() {
        for (task, correct) in verdicts {
            let cell = &mut by_task.entry(task).or_default()[phase];
            *cell = (cell.0 + f64::from(u8::from(*correct)), cell.1 + 1.0);
        }
    }
    let both = !after.is_empty();
    // A task counts where it was answered in every phase that is compared.
    let compared = || by_task.values().filter(|[b, a]| b.1 > 0.0 && (!both || a.1 > 0.0));
    let rates: Vec<(f64, f64)> = compared().map(|[b, a]| (b.0 / b.1, if both { a.0 / a.1 } else { 0.0 })).collect();
    let samples = |phase: usize| compared().map(|task| task[phase].1 as usize).sum();
    if rates.is_empty() {
        return None;
    }
    let [before_mean, after_mean, gain] = bootstrap(&rates);
    Some(HeldOut {
        tasks: rates.len(),
        samples_before: samples(0),
        samples_after: samples(1),
        before: before_mean,
        after: both.then_some(after_mean),
        gain: both.then_some(gain),
    })
}

/// Intervals of the mean of `.0`, of `.1`, and of their difference.
fn bootstrap(rates: &[(f64, f64)]) -> [Interval; 3] {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let count = rates.len() as f64;
    let mut draws = [Vec::with_capacity(RESAMPLES), Vec::with_capacity(RESAMPLES), Vec::with_capacity(RESAMPLES)];
    for _ in 0..RESAMPLES {
        let (mut before, mut after) = (0.0, 0.0);
        for _ in 0..rates.len() {
            let (b, a) = rates[rng.random_range(0..rates.len())];
            before += b;
            after += a;
        }
        draws[0].push(before / count);
        draws[1].push(after / count);
        draws[2].push((after - before) / count);
    }
    let means = [
        rates.iter().map(|r| r.0).sum::<f64>() / count,
        rates.iter().map(|r| r.1).sum::<f64>() / count,
        rates.iter().map(|r| r.1 - r.0).sum::<f64>() / count,
    ];
    let mut intervals = [Interval { mean: 0.0, low: 0.0, high: 0.0 }; 3];
    for (n, mut sorted) in draws.into_iter().enumerate() {
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted[((RESAMPLES - 1) as f64 * share).round() as usize];
        intervals[n] = Interval { mean: means[n], low: at(0.025), high: at(0.975) };
    }
    intervals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(rates: &[(usize, usize)]) -> Vec<Verdict> {
        let of =
            |task: usize, (good, all): (usize, usize)| (0..all).map(move |n| (TaskId(format!("t{task:03}")), n < good));
        rates.iter().enumerate().flat_map(|(task, rate)| of(task, *rate)).collect()
    }

    #[test]
    fn means_are_over_tasks_and_the_gain_is_paired() {
        let before = verdicts(&[(0, 8), (4, 8), (8, 8), (2, 8)]);
        let after = verdicts(&[(2, 8), (6, 8), (8, 8), (4, 8)]);
        let found = held_out(&before, &after).unwrap();
        assert_eq!((found.tasks, found.samples_before, found.samples_after), (4, 32, 32));
        assert!((found.before.mean - 14.0 / 32.0).abs() < 1e-12);
        assert!((found.after.unwrap().mean - 20.0 / 32.0).abs() < 1e-12);
        let gain = found.gain.unwrap();
        assert!((gain.mean - 6.0 / 32.0).abs() < 1e-12);
        // Every task gained at least nothing and at most a quarter; pairing keeps the interval inside.
        assert!(gain.low >= 0.0 && gain.high <= 0.25, "{gain:?}");
        assert!(found.before.high - found.before.low > 0.5, "tasks differ much: {:?}", found.before);
        assert_eq!(held_out(&before, &after), Some(found), "same verdicts, same intervals");
        // A task without an answer after RL is in no figure.
        let fewer = held_out(&before, &after[..24]).unwrap();
        assert_eq!((fewer.tasks, fewer.samples_before, fewer.samples_after), (3, 24, 24));
    }

    #[test]
    fn coverage_of_the_interval_is_close_to_nominal() {
        // 60 tasks with rate 0.3 each, 8 answers: the 95 % interval should hold the truth about 95 times in 100.
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut covered = 0;
        for _ in 0..100 {
            let rates: Vec<(usize, usize)> =
                (0..60).map(|_| ((0..8).filter(|_| rng.random_range(0..10) < 3).count(), 8)).collect();
            let found = held_out(&verdicts(&rates), &[]).unwrap();
            covered += usize::from(found.before.low <= 0.3 && 0.3 <= found.before.high);
        }
        assert!((88..=100).contains(&covered), "{covered} of 100");
    }

    /// Planted bug: masked answers weigh their task by their number, or a task of which every answer was masked is left out.
    #[test]
    fn masked_answers_leave_a_range() {
        let known = verdicts(&[(4, 7), (8, 8)]);
        let task = |n: usize| TaskId(format!("t{n:03}"));
        let close = |found: Option<[f64; 2]>, wanted: [f64; 2]| {
            let found = found.unwrap();
            assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?} {wanted:?}");
        };
        close(bounds(&known, &[task(0)]), [(4.0 / 8.0 + 1.0) / 2.0, (5.0 / 8.0 + 1.0) / 2.0]);
        close(bounds(&known, &[task(2), task(2)]), [(4.0 / 7.0 + 1.0) / 3.0, (4.0 / 7.0 + 2.0) / 3.0]);
        let mean = held_out(&known, &[]).unwrap().before.mean;
        close(bounds(&known, &[]), [mean, mean]);
        assert_eq!(bounds(&[], &[]), None);
    }

    #[test]
    fn without_an_evaluation_after_there_is_no_gain() {
        let found = held_out(&verdicts(&[(1, 2)]), &[]).unwrap();
        assert_eq!((found.after, found.gain), (None, None));
        assert_eq!(held_out(&[], &[]), None);
    }
}
