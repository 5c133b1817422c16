//! Reward hacks: how many training answers were rejected as which class of them, by the policy that sampled them.

use std::collections::BTreeMap;

use reward::hacks::{CLASSES, UNCLEAR};
use serde::{Deserialize, Serialize};

use super::overview::Curves;
use super::table::{HACK, Table};
use crate::store::PhaseTag;

/// Points of a curve.
const POINTS: usize = 100;
/// The curve of all classes together.
pub const ALL: &str = "all";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hacks {
    /// Training answers with a verdict.
    pub answers: u64,
    /// Of them by class. Those of `unclear` are no hacks for all that is known.
    pub classes: BTreeMap<String, u64>,
    /// Shares of the answers by class, and of all hacks together (`all`); x is the version of the policy that sampled them,
    /// which is the step that made it.
    pub curves: Curves,
}

impl Hacks {
    /// Answers that are hacks.
    pub fn count(&self) -> u64 {
        self.classes.iter().filter(|(name, _)| *name != UNCLEAR).map(|(_, n)| n).sum()
    }

    /// Share of the answers; `None` before the first.
    pub fn rate(&self) -> Option<f64> {
        (self.answers > 0).then(|| self.count() as f64 / self.answers as f64)
    }
}

impl Table {
    pub fn hacks(&self) -> Hacks {
        let mut found = Hacks::default();
        let train = self.words("phase").and_then(|phases| phases.find(PhaseTag::Train.as_str()));
        let (Some(train), Some(words)) = (train, self.words(HACK)) else { return found };
        // By policy: all, and by class.
        let mut by_policy: BTreeMap<u64, (u64, BTreeMap<u32, u64>)> = BTreeMap::new();
        for (policy, hack, count) in self.totals().hacks(train) {
            let of = by_policy.entry(policy).or_default();
            of.0 += count;
            found.answers += count;
            if let Some(name) = words.text(hack) {
                *of.1.entry(hack).or_default() += count;
                *found.classes.entry(name.to_string()).or_default() += count;
            }
        }
        let policies: Vec<_> = by_policy.into_iter().collect();
        for part in policies.chunks(policies.len().div_ceil(POINTS).max(1)) {
            let all: u64 = part.iter().map(|(_, of)| of.0).sum();
            let share = |is: &dyn Fn(&str) -> bool| {
                let of = part.iter().flat_map(|(_, of)| &of.1).filter(|(hack, _)| words.text(**hack).is_some_and(is));
                Some(of.map(|(_, n)| n).sum::<u64>() as f64 / all.max(1) as f64)
            };
            found.curves.x.push(part[part.len() - 1].0 as f64);
            for class in CLASSES.iter().filter(|class| found.classes.contains_key(class.name)) {
                found.curves.y.entry(class.name.into()).or_default().push(share(&|name| name == class.name));
            }
            found.curves.y.entry(ALL.into()).or_default().push(share(&|name| name != UNCLEAR));
        }
        found
    }
}
