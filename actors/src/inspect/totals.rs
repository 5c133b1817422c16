//! Counts over all rollouts, kept up as rows come and change: whoever asks for them need not look at every row.

use std::collections::BTreeMap;

use super::overview::Curves;
use super::table::{Table, Words};
use crate::store::PhaseTag;

/// Intervals of the throughput's curve.
const INTERVALS: u64 = 120;
/// Seconds over which `rate_lately` counts.
const LATELY_S: u64 = 60;

/// What of a row is counted; words by their codes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facts {
    pub phase: u32,
    pub ending: u32,
    pub state: u32,
    pub verdict: u32,
    /// Whole seconds since the Unix epoch; `None` while it goes on.
    pub ended_s: Option<u64>,
    pub tokens: u64,
    /// The oldest policy that sampled it.
    pub policy: Option<u64>,
    /// The class of hack.
    pub hack: u32,
}

impl Facts {
    fn hack_key(&self) -> Option<(u32, u64, u32)> {
        (self.verdict != 0).then_some((self.phase, self.policy?, self.hack))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// By phase and ending.
    endings: BTreeMap<(u32, u32), u64>,
    /// By phase and verdict.
    verdicts: BTreeMap<(u32, u32), u64>,
    /// Rollouts without an ending, by phase and state.
    open: BTreeMap<(u32, u32), u64>,
    /// Rollouts, and their tokens, by the second in which they ended.
    seconds: BTreeMap<u64, (u64, u64)>,
    /// Answers with a verdict, by phase, policy and class of hack (0: none).
    hacks: BTreeMap<(u32, u64, u32), u64>,
}

impl Totals {
    pub fn add(&mut self, row: Facts) {
        *self.endings.entry((row.phase, row.ending)).or_default() += 1;
        *self.verdicts.entry((row.phase, row.verdict)).or_default() += 1;
        if row.ending == 0 {
            *self.open.entry((row.phase, row.state)).or_default() += 1;
        }
        if let Some(second) = row.ended_s {
            let sum = self.seconds.entry(second).or_default();
            *sum = (sum.0 + 1, sum.1 + row.tokens);
        }
        if let Some(key) = row.hack_key() {
            *self.hacks.entry(key).or_default() += 1;
        }
    }

    /// Of a row that was added, before it changes.
    pub fn remove(&mut self, row: Facts) {
        fn less<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K) {
            if let Some(count) = counts.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&key);
                }
            }
        }
        less(&mut self.endings, (row.phase, row.ending));
        less(&mut self.verdicts, (row.phase, row.verdict));
        if let Some(key) = row.hack_key() {
            less(&mut self.hacks, key);
        }
        if row.ending == 0 {
            less(&mut self.open, (row.phase, row.state));
        }
        if let Some(second) = row.ended_s
            && let Some(sum) = self.seconds.get_mut(&second)
        {
            *sum = (sum.0 - 1, sum.1 - row.tokens);
            if sum.0 == 0 {
                self.seconds.remove(&second);
            }
        }
    }

    /// Ended rollouts and their tokens per second over whole intervals; what is left of the last one is no rate yet.
    pub fn throughput(&self) -> Curves {
        let Some((from, to)) = self.range() else { return Curves::default() };
        // Whole seconds, so that a point is a rate and not an accident of milliseconds.
        let width = (to - from).div_ceil(INTERVALS).max(1);
        let mut sums = vec![(0, 0); ((to - from) / width) as usize];
        for (second, (rollouts, tokens)) in &self.seconds {
            if let Some(sum) = sums.get_mut(((second - from) / width) as usize) {
                *sum = (sum.0 + rollouts, sum.1 + tokens);
            }
        }
        let rate =
            |of: fn(&(u64, u64)) -> u64| sums.iter().map(|s| Some(of(s) as f64 / width as f64)).collect::<Vec<_>>();
        Curves {
            x: (0..sums.len()).map(|n| (n as f64 + 0.5) * width as f64 + from as f64).collect(),
            y: [("rollouts_per_s".to_string(), rate(|s| s.0)), ("tokens_per_s".to_string(), rate(|s| s.1))].into(),
        }
    }

    /// Rollouts per second in the last whole minute before second `end`, or before the last one in which any ended; less than
    /// a minute where the first ended later. `None` before two seconds have seen one.
    pub fn rate_lately(&self, end: Option<u64>) -> Option<f64> {
        let (first, last) = self.range()?;
        let end = end.unwrap_or(last).max(first + 1);
        let from = end.saturating_sub(LATELY_S).max(first);
        let ended: u64 = self.seconds.range(from..end).map(|(_, (rollouts, _))| rollouts).sum();
        Some(ended as f64 / (end - from) as f64)
    }

    /// Answers with a verdict of a phase: policy, class of hack (0: none), how many; in order of policies.
    pub fn hacks(&self, phase: u32) -> impl Iterator<Item = (u64, u32, u64)> {
        self.hacks.range((phase, 0, 0)..=(phase, u64::MAX, u32::MAX)).map(|((_, policy, hack), n)| (*policy, *hack, *n))
    }

    /// The last second in which one ended.
    pub fn newest(&self) -> Option<u64> {
        self.seconds.keys().next_back().copied()
    }

    /// The first and the last second in which one ended, where they are two.
    fn range(&self) -> Option<(u64, u64)> {
        let (first, last) = (self.seconds.keys().next()?, self.seconds.keys().next_back()?);
        (first < last).then_some((*first, *last))
    }
}

/// By phase and ending.
pub type Ledger = BTreeMap<String, BTreeMap<String, u64>>;

impl Table {
    /// Rollouts by phase and ending (`in_flight` for those without one), and training answers by verdict.
    pub fn ledger(&self) -> (Ledger, BTreeMap<String, u64>) {
        let (mut ledger, mut verdicts) = (Ledger::new(), BTreeMap::new());
        let (Some(phases), Some(endings), Some(found)) =
            (self.words("phase"), self.words("ending"), self.words("verdict"))
        else {
            return (ledger, verdicts);
        };
        for ((phase, ending), count) in &self.totals().endings {
            let of_phase = ledger.entry(text(phases, *phase, "unknown")).or_default();
            of_phase.insert(text(endings, *ending, "in_flight"), *count);
        }
        let train = phases.find(PhaseTag::Train.as_str());
        for ((phase, verdict), count) in &self.totals().verdicts {
            if Some(*phase) == train && *verdict > 0 {
                verdicts.insert(text(found, *verdict, ""), *count);
            }
        }
        (ledger, verdicts)
    }

    /// Rollouts without an ending by state, and those of training.
    pub fn open(&self) -> (BTreeMap<String, u64>, u64) {
        let (mut stages, mut training) = (BTreeMap::new(), 0);
        let (Some(phases), Some(states)) = (self.words("phase"), self.words("state")) else { return (stages, 0) };
        let train = phases.find(PhaseTag::Train.as_str());
        for ((phase, state), count) in &self.totals().open {
            *stages.entry(text(states, *state, "unknown")).or_default() += count;
            training += if Some(*phase) == train { *count } else { 0 };
        }
        (stages, training)
    }
}

fn text(words: &Words, code: u32, none: &str) -> String {
    words.text(code).unwrap_or(none).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_rate_is_seen_as_even_to_the_end() {
        let mut totals = Totals::default();
        let ended = |second| Facts {
            phase: 1,
            ending: 1,
            state: 1,
            verdict: 1,
            ended_s: Some(second),
            tokens: 7,
            policy: None,
            hack: 0,
        };
        assert_eq!((totals.throughput(), totals.rate_lately(Some(9))), (Curves::default(), None));
        // 1,001 seconds: an interval is 9 s long, and the 112th has lasted 2 s.
        for second in 10_000..=11_000 {
            (0..3).for_each(|_| totals.add(ended(second)));
        }
        let curves = totals.throughput();
        assert_eq!(curves.x.len(), 111);
        assert!(curves.y["rollouts_per_s"].iter().all(|rate| *rate == Some(3.0)), "{curves:?}");
        assert!(curves.y["tokens_per_s"].iter().all(|rate| *rate == Some(21.0)));
        assert_eq!(totals.rate_lately(None), Some(3.0));
        assert_eq!(totals.rate_lately(Some(11_000)), Some(3.0));
        assert_eq!(totals.rate_lately(Some(11_031)), Some(1.5), "nothing for half a minute");
        assert_eq!(totals.rate_lately(Some(20_000)), Some(0.0));
        assert_eq!(totals.rate_lately(Some(10_020)), Some(3.0), "a run of twenty seconds");
    }

    #[test]
    fn what_was_added_and_removed_leaves_nothing() {
        let row =
            Facts { phase: 1, ending: 0, state: 2, verdict: 3, ended_s: None, tokens: 7, policy: Some(4), hack: 1 };
        let ended = Facts { ending: 4, ended_s: Some(9), ..row };
        let mut totals = Totals::default();
        totals.add(row);
        totals.add(ended);
        assert_eq!((totals.open.len(), totals.seconds[&9]), (1, (1, 7)));
        totals.remove(row);
        totals.remove(ended);
        assert_eq!(totals, Totals::default());
    }
}
