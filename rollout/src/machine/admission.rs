//! Admission: when a new group may start (R-2, and the half of R-3 that wastes no work).

use super::Machine;
use crate::event::Command;

impl Machine {
    /// Starts as many groups as may start.
    pub(super) fn admit(&mut self, now_ms: u64, out: &mut Vec<Command>) {
        while self.may_start_group() {
            self.start_group(now_ms, out);
        }
    }

    /// A group may start when it has credits for all its members, when a step is left for it to be trained in, and
    /// when that step is at most `staleness_max` versions ahead of what the generators sample from.
    ///
    /// Every live group holds a place in the steps to come, the outstanding batch included; a dropped group gives its
    /// place back. With `live` groups ahead of it the new one trains `live / groups_per_step` steps after the next.
    fn may_start_group(&self) -> bool {
        let group_size = u64::from(self.config.group_size);
        let groups_per_step = u64::from(self.config.groups_per_step);
        let in_flight = self.rollouts.len() as u64;
        let live = self.groups.len() as u64;
        let steps_left = self.config.steps.saturating_sub(self.step.0);
        let trained_at = self.policy.0 + live / groups_per_step;
        in_flight + group_size <= u64::from(self.config.credits)
            && live < steps_left.saturating_mul(groups_per_step)
            && trained_at.saturating_sub(self.adopted.0) <= self.config.staleness_max
    }
}
