//! The machine's settings and the check that a run with them can proceed at all.

use serde::{Deserialize, Serialize};

use crate::curriculum::CurriculumKind;

/// Settings, all fixed for a run. `cluster.toml` holds them in `[run]` and `[rollout]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineConfig {
    pub seed: u64,
    /// Rollouts per group (G), at least 2.
    pub group_size: u32,
    /// Groups per optimizer step, at least 1.
    pub groups_per_step: u32,
    /// Policy versions a rollout's oldest token may be behind the policy it trains; 0 = synchronous.
    pub staleness_max: u64,
    /// Rollouts in flight at once; at least `group_size * groups_per_step`, or no batch would ever be complete.
    pub credits: u32,
    /// Faults a rollout survives before it is masked; also reissues a training step gets before it is given up,
    /// steps in a row that may be given up, and deadlines the learner or (in a row) an adoption may miss, before the
    /// run stops.
    pub retries: u32,
    pub curriculum: CurriculumKind,
    pub drop_zero_variance: bool,
    /// Optimizer steps; a step that is given up counts.
    pub steps: u64,
    /// The wait for a place among those that are sampled at once included.
    pub sample_deadline_ms: u64,
    pub judge_deadline_ms: u64,
    /// The wait for a free executor included: with all credits queued before it, hours.
    pub execute_deadline_ms: u64,
    pub train_deadline_ms: u64,
    /// `Adopt` is issued again when no `Adopted` came in this time.
    pub adopt_deadline_ms: u64,
    /// Groups started since the last step closed after which those without variance are trained on all the same, so
    /// that a policy that solves everything or nothing still comes to the end of the run. 0 = no limit.
    pub zero_variance_limit: u32,
    /// Groups lost to faults in a row, with no group completing between them, after which the run stops: the
    /// infrastructure is broken and more sampling is wasted. 0 = no limit.
    pub lost_groups_limit: u32,
}

impl Default for MachineConfig {
    /// The values that the built-in `cluster.toml` leads to (a test of `actors` holds them equal). Those without a key
    /// there: 60 s for an adoption, 16 batches' worth of groups without variance, 24 lost groups.
    fn default() -> MachineConfig {
        MachineConfig {
            seed: 1,
            group_size: 8,
            groups_per_step: 12,
            staleness_max: 1,
            credits: 288,
            retries: 2,
            curriculum: CurriculumKind::Frontier,
            drop_zero_variance: true,
            steps: 240,
            sample_deadline_ms: 900_000,
            judge_deadline_ms: 30_000,
            execute_deadline_ms: 78_300_000,
            train_deadline_ms: 1_200_000,
            adopt_deadline_ms: 60_000,
            zero_variance_limit: 192,
            lost_groups_limit: 24,
        }
    }
}

/// Why no run can proceed with these settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("rollout.group_size is {found}; a group needs at least 2 answers, advantages compare them with each other")]
    GroupSize { found: u32 },
    #[error("rollout.groups_per_step is 0; a step needs at least 1 group")]
    GroupsPerStep,
    #[error(
        "rollout.credits is {found}, but one step needs {needed} rollouts in flight (group_size * groups_per_step)"
    )]
    Credits { found: u32, needed: u64 },
    #[error("{key} is 0; a deadline is at least 1 ms")]
    Deadline { key: &'static str },
    #[error("there are no tasks to train on")]
    NoTasks,
}

impl MachineConfig {
    /// The first reason why no run can proceed. A machine made in spite of an error finishes at once and samples
    /// nothing.
    pub fn check(&self, tasks: usize) -> Result<(), ConfigError> {
        if self.group_size < 2 {
            return Err(ConfigError::GroupSize { found: self.group_size });
        }
        if self.groups_per_step == 0 {
            return Err(ConfigError::GroupsPerStep);
        }
        let needed = u64::from(self.group_size) * u64::from(self.groups_per_step);
        if u64::from(self.credits) < needed {
            return Err(ConfigError::Credits { found: self.credits, needed });
        }
        for (key, value) in [
            ("sample_deadline_ms", self.sample_deadline_ms),
            ("judge_deadline_ms", self.judge_deadline_ms),
            ("execute_deadline_ms", self.execute_deadline_ms),
            ("train_deadline_ms", self.train_deadline_ms),
            ("adopt_deadline_ms", self.adopt_deadline_ms),
        ] {
            if value == 0 {
                return Err(ConfigError::Deadline { key });
            }
        }
        if tasks == 0 {
            return Err(ConfigError::NoTasks);
        }
        Ok(())
    }
}
