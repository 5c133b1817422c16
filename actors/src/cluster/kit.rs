//! What a node evaluates with: the run's settings, tasks and secret, as the head hands them out over the side channel.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rollout::id::TaskId;
use rollout::outcome::{Candidate, ExecReport, Fault};
use rollout::task::TaskSpec;
use sandbox::pyenv::{self, PyEnvConfig};
use serde::{Deserialize, Serialize};

use crate::bench::standins;
use crate::config::Config;
use crate::crew::{BoxFuture, Verifier, VerifierFactory};
use crate::errors::UserError;
use crate::observe::{Observer, Progress};
use crate::policy;
use crate::run::RunError;
use crate::session::limits;

/// The whole of it, JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kit {
    pub work: Work,
    pub tasks: Vec<TaskSpec>,
    /// Longest time of one evaluation (`rollout.execute_deadline_s`).
    pub deadline_ms: u64,
    /// Executors of a node that names no number.
    pub executors: u32,
}

/// What is done with a candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Compiled and run.
    Sandbox {
        /// The head's resolved configuration.
        config: String,
        /// Seeds of the inputs, so that all executors draw the same.
        secret: [u8; 32],
    },
    /// For benches and drills: nothing is run, the verdict hangs on the text alone.
    StandIn { takes_ms: u64 },
}

/// What this machine adds.
#[derive(Clone, Debug)]
pub struct Local {
    /// Its own run file: `[python]` counts, and `[gpu] devices`.
    pub config: Config,
    /// Whether the user said which GPUs.
    pub gpus: Option<String>,
}

impl Kit {
    pub fn tasks_by_id(&self) -> HashMap<TaskId, Arc<TaskSpec>> {
        self.tasks.iter().map(|task| (task.id.clone(), Arc::new(task.clone()))).collect()
    }

    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }

    /// Executors as the kit wants them, on this machine. May make a Python environment: not for an async thread.
    ///
    /// # Errors
    /// No Python, no such GPU, an isolation that the run requires and this machine does not have, or GPUs where the run times
    /// nothing (or the other way round).
    pub fn factory(
        &self,
        local: &Local,
        scratch: &Path,
        observer: &Arc<dyn Observer>,
    ) -> Result<VerifierFactory, RunError> {
        let (config, secret) = match &self.work {
            Work::StandIn { takes_ms } => return Ok(stand_in(Duration::from_millis(*takes_ms))),
            Work::Sandbox { config, secret } => {
                (Config::from_resolved(config, Path::new("the head's run file"))?, *secret)
            }
        };
        let devices = local.gpus.clone().unwrap_or_else(|| local.config.gpu.devices.clone());
        if timed_on(&devices) != timed_on(&config.gpu.devices) {
            return Err(UserError::new("this node would judge candidates in another way than the run does")
                .at("--gpus")
                .found(format!("GPUs of this node: {devices}; gpu.devices of the run: {}", config.gpu.devices))
                .expected("GPUs on every node of a run that times candidates on GPUs, and on none of one that does not")
                .hint("`troupe join .. --gpus all` (or `none`); `gpu.devices` in the head's run file decides")
                .into());
        }
        let mut config = config;
        config.gpu.devices = devices;
        let wanted = PyEnvConfig {
            interpreter: local.config.python.path().map(Path::to_path_buf),
            cache_dir: pyenv::default_cache_dir()?,
        };
        let python = pyenv::ensure(&wanted, &mut |line| observer.on(Progress::Note(line.to_string())))?;
        policy::require_isolation(&python, &config.executor.require_isolation)?;
        let gpus = policy::Gpus::find(&config, &python, scratch, secret)?;
        let require = config.executor.require_isolation.clone();
        let scratch = scratch.to_path_buf();
        Ok(policy::verifier_factory(python, scratch, limits(&config), secret, require, gpus, observer.clone()))
    }
}

/// What candidates are timed on, by `gpu.devices`: nothing, the processor in a GPU's place (for tests), or GPUs. Members of
/// a group are paid alike only where that is the same.
fn timed_on(devices: &str) -> &str {
    match devices.trim() {
        of @ ("none" | "processor") => of,
        _ => "GPUs",
    }
}

/// Takes its time; the verdict is a function of the candidate's text alone, on every machine.
pub fn stand_in(takes: Duration) -> VerifierFactory {
    Arc::new(move |_| Box::pin(async move { Ok(Box::new(StandIn { takes }) as Box<dyn Verifier>) }))
}

struct StandIn {
    takes: Duration,
}

impl Verifier for StandIn {
    fn verify<'a>(&'a mut self, _: &'a TaskSpec, candidate: &'a Candidate) -> BoxFuture<'a, Result<ExecReport, Fault>> {
        Box::pin(async move {
            // Even a sleep of no time waits for the timer's next tick.
            if !self.takes.is_zero() {
                tokio::time::sleep(self.takes).await;
            }
            let passed = blake3::hash(candidate.source.as_bytes()).as_bytes()[0].is_multiple_of(3);
            Ok(standins::report(passed))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Planted bug: anything but "none" is a GPU. Seen: a node's processor times candidates for a run on GPUs.
    #[test]
    fn a_node_times_on_what_the_run_times_on() {
        for (node, run, same) in [
            ("all", "GPU-1,GPU-2", true),
            ("GPU-1", "all", true),
            ("none", "none", true),
            (" processor", "processor", true),
            ("processor", "all", false),
            ("all", "processor", false),
            ("none", "all", false),
            ("processor", "none", false),
        ] {
            assert_eq!(timed_on(node) == timed_on(run), same, "{node} {run}");
        }
    }
}
