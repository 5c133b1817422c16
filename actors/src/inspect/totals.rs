//! Counts over all rollouts, kept up as rows come and change: whoever asks for them need not look at every row.

use std::collections::BTreeMap;

use super::table::{Table, Words};
use crate::store::PhaseTag;

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
    }

    /// Of a row that was added, before it changes.
    pub fn remove(&mut self, row: Facts) {
        fn less(counts: &mut BTreeMap<(u32, u32), u64>, key: (u32, u32)) {
            if let Some(count) = counts.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&key);
                }
            }
        }
        less(&mut self.endings, (row.phase, row.ending));
        less(&mut self.verdicts, (row.phase, row.verdict));
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

    pub fn seconds(&self) -> &BTreeMap<u64, (u64, u64)> {
        &self.seconds
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
    fn what_was_added_and_removed_leaves_nothing() {
        let row = Facts { phase: 1, ending: 0, state: 2, verdict: 3, ended_s: None, tokens: 7 };
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
