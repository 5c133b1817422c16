//! Deadlines of work in flight, ordered so that a tick looks only at what is overdue.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::id::RolloutId;

/// One deadline per leased rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Leases {
    by_deadline: BTreeSet<(u64, RolloutId)>,
}

impl Leases {
    pub(super) fn grant(&mut self, deadline_ms: u64, rollout: RolloutId) {
        self.by_deadline.insert((deadline_ms, rollout));
    }

    pub(super) fn release(&mut self, deadline_ms: u64, rollout: RolloutId) {
        self.by_deadline.remove(&(deadline_ms, rollout));
    }

    /// Takes out every lease whose deadline is at or before `now_ms`, in order of deadline.
    pub(super) fn expired(&mut self, now_ms: u64) -> Vec<RolloutId> {
        let mut overdue = Vec::new();
        while let Some(&(deadline_ms, rollout)) = self.by_deadline.first() {
            if deadline_ms > now_ms {
                break;
            }
            self.by_deadline.pop_first();
            overdue.push(rollout);
        }
        overdue
    }

    pub(super) fn contains(&self, deadline_ms: u64, rollout: RolloutId) -> bool {
        self.by_deadline.contains(&(deadline_ms, rollout))
    }

    pub(super) fn len(&self) -> usize {
        self.by_deadline.len()
    }
}
