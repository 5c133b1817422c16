//! The runtime's errors as the command line's: whose fault it is, and one rendering for all.

use std::path::Path;

use super::{Failure, pyenv, rollouts};
use crate::errors::UserError;
use crate::run::RunError;
use crate::sft::WarmStartError;
use crate::supervise::LEARNER_FAILED;

/// An error text whose last lines may be `hint: ..`.
fn from_text(text: &str) -> UserError {
    match text.split_once("\n  hint: ") {
        Some((what, hint)) => UserError::new(what).hint(hint),
        None => UserError::new(text),
    }
}

fn of_model(error: &model::ModelError) -> Failure {
    Failure::User(from_text(&error.to_string()))
}

/// Why a warm start failed.
pub fn of_warm_start(error: WarmStartError) -> Failure {
    match error {
        WarmStartError::User(e) => Failure::User(e),
        WarmStartError::Model(e) => of_model(&e),
        WarmStartError::Interrupted => Failure::Interrupted,
        WarmStartError::Diverged { .. } => Failure::User(from_text(&error.to_string())),
        WarmStartError::Learner(_) => Failure::fault(LEARNER_FAILED, error),
    }
}

/// Why a run failed.
pub fn of_run(error: RunError, run_dir: &Path) -> Failure {
    let code = error.exit_code();
    match error {
        RunError::User(e) => Failure::User(e),
        RunError::PyEnv(e) => pyenv::failure(e),
        RunError::WarmStart(e) => of_warm_start(e),
        RunError::Model(e) => of_model(&e),
        RunError::Store(e) => rollouts::failure(e),
        RunError::Busy(dir) => Failure::User(
            UserError::new("another process is working on this run")
                .at(dir.display())
                .found("its lock is held")
                .expected("one process a run")
                .hint("wait for it or stop it; `troupe rollouts` can look at the run meanwhile"),
        ),
        RunError::Fault { fault, hint } => {
            Failure::Fault { code: fault.code, message: format!("{}\n  hint:     {hint}", fault.message) }
        }
        other if code == 2 => Failure::User(from_text(&other.to_string()).at(run_dir.display())),
        other => Failure::Broken(other.to_string()),
    }
}
