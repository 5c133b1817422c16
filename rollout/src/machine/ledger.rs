//! The ledger: what became of every sampled rollout, in counts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::{DropReason, Ending};

/// Counts over the whole run. `in_flight` is counted on its own, not derived, so that `closes` can fail.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    pub sampled: u64,
    pub trained: u64,
    pub dropped: BTreeMap<DropReason, u64>,
    pub in_flight: u64,
}

impl Ledger {
    /// sampled = trained + dropped by reason + in flight.
    pub fn closes(&self) -> bool {
        self.sampled == self.trained + self.dropped_total() + self.in_flight
    }

    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }

    pub(super) fn start(&mut self) {
        self.sampled += 1;
        self.in_flight += 1;
    }

    pub(super) fn end(&mut self, ending: Ending) {
        self.in_flight -= 1;
        match ending {
            Ending::Trained(_) => self.trained += 1,
            Ending::Dropped(reason) => *self.dropped.entry(reason).or_default() += 1,
        }
    }
}
