//! The audit: every relation between the machine's parts that must hold after every event, checked in one pass. For
//! tests; never on the hot path.

use super::{Machine, RunPhase};

impl Machine {
    /// The first relation that does not hold.
    pub fn audit(&self) -> Result<(), String> {
        let need = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("audit: {what}")) };
        need(self.ledger.closes(), "the ledger does not close")?;
        need(self.ledger.in_flight == self.rollouts.len() as u64, "ledger and rollouts in flight differ")?;
        need(self.rollouts.len() as u64 <= u64::from(self.config.credits), "more rollouts in flight than credits")?;
        let members: usize = self.groups.values().map(|group| group.members.len()).sum();
        need(members == self.rollouts.len(), "members and rollouts differ in number")?;
        let mut leased = 0;
        for (id, rollout) in &self.rollouts {
            let group = self.groups.get(&rollout.group).ok_or(format!("audit: {id} has no group"))?;
            need(group.members.contains(id), "a rollout is not in its group")?;
            need(rollout.faults <= self.config.retries, "a rollout outlived its retries")?;
            if let Some(deadline_ms) = rollout.stage.deadline_ms() {
                leased += 1;
                need(self.leases.contains(deadline_ms, *id), "a rollout at work has no lease")?;
            }
        }
        need(leased == self.leases.len(), "a lease has no rollout at work")?;
        for (id, group) in &self.groups {
            let members = || group.members.iter().filter_map(|member| self.rollouts.get(member));
            let unscored = members().filter(|rollout| rollout.stage.deadline_ms().is_some()).count();
            need(unscored == group.unscored, "a group miscounts its unscored members")?;
            need(group.members.len() >= 2, "a group with fewer than two members lives")?;
            let oldest = members().filter_map(|rollout| rollout.stage.oldest()).min();
            need(group.oldest == oldest, "a group does not know its oldest token")?;
            let waits = self.ready.contains(id);
            need(!(waits && group.training), "a group waits and trains at once")?;
            need((group.unscored == 0) == (waits || group.training), "a complete group neither waits nor trains")?;
            let staleness = group.oldest.map_or(0, |version| self.policy.0.saturating_sub(version.0));
            need(staleness <= self.config.staleness_max, "a live group is too stale")?;
        }
        let outstanding = self.training.as_ref().map_or(0, |training| training.groups.len());
        let training = self.groups.values().filter(|group| group.training).count();
        need(outstanding == training, "the outstanding batch and its groups differ")?;
        match self.phase {
            RunPhase::Waiting => need(self.rollouts.is_empty() && self.training.is_none(), "work before a run"),
            RunPhase::Stopping(_) | RunPhase::Finished(_) => {
                need(self.groups.len() == outstanding, "work besides the last step while stopping")
            }
            RunPhase::Running => Ok(()),
        }
    }
}
