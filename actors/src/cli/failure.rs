//! The runtime's errors as the command line's: whose fault it is, and one rendering for all.

use std::path::Path;

use super::{Failure, pyenv, rollouts};
use crate::errors::UserError;
use crate::resume::ResumeError;
use crate::run::{RunError, model_disk_full};
use crate::sft::WarmStartError;
use crate::supervise::{LEARNER_FAILED, STORE_FAILED};

/// An error text whose last lines may be `hint: ..`.
fn from_text(text: &str) -> UserError {
    match text.split_once("\n  hint: ") {
        Some((what, hint)) => UserError::new(what).hint(hint),
        None => UserError::new(text),
    }
}

fn of_model(error: &model::ModelError) -> UserError {
    let mut user = from_text(&error.to_string());
    if model_disk_full(error) {
        user = user.hint("free some space, then do it again (`troupe resume` for a run that has begun)");
        user.disk_full = true;
    }
    user
}

/// Why a warm start failed.
pub fn of_warm_start(error: WarmStartError) -> Failure {
    match error {
        WarmStartError::User(e) => Failure::User(e),
        WarmStartError::Model(e) => Failure::User(of_model(&e)),
        WarmStartError::Interrupted => Failure::Interrupted,
        WarmStartError::Diverged { .. } => Failure::User(from_text(&error.to_string())),
        WarmStartError::Learner(_) => Failure::fault(LEARNER_FAILED, error),
    }
}

/// Why a run failed.
pub fn of_run(error: RunError, run_dir: &Path) -> Failure {
    let resume = format!("`troupe resume {}`", run_dir.display());
    // A user's error names its own way on.
    if error.disk_full() && !matches!(error, RunError::User(_)) {
        let hint = format!("free some space, then continue with {resume}");
        return Failure::fault(STORE_FAILED, format!("{error}\n  hint:     {hint}"));
    }
    match error {
        RunError::User(e) => Failure::User(e),
        RunError::PyEnv(e) => pyenv::failure(e),
        RunError::WarmStart(e) => of_warm_start(e),
        RunError::Model(e) => Failure::User(of_model(&e)),
        RunError::Store(e) | RunError::Resume(ResumeError::Store(e)) => rollouts::failure(e),
        RunError::Resume(e @ ResumeError::NoCheckpoint { .. }) => Failure::User(
            UserError::new("the run's newest weights are gone")
                .at(run_dir.join("checkpoints/newest.json").display())
                .found(&e)
                .expected("the checkpoint of the last step in run.sqlite")
                .hint("put `checkpoints` back, or start a new run; the rollouts of this one stay readable"),
        ),
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
        RunError::Io { .. } | RunError::Resume(ResumeError::Metrics(_) | ResumeError::Journal(_)) => {
            Failure::Broken(format!("{error}\n  hint:     what is done is safe; continue with {resume}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;
    use crate::store::StoreError;

    fn sqlite_full() -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None)
    }

    /// Planted: no look at `disk_full` (as it was). Seen: a model folder on a full disk exits with 2.
    #[test]
    fn a_full_disk_is_exit_code_3_with_the_way_on_wherever_it_is_met() {
        let full = || Error::from(ErrorKind::StorageFull);
        let quota = || Error::from(ErrorKind::QuotaExceeded);
        let model = || model::ModelError::Io { action: "write", path: "p".into(), source: full() };
        let met: Vec<RunError> = vec![
            RunError::Model(model()),
            WarmStartError::Model(model()).into(),
            RunError::Io { doing: "cannot write", path: "p".into(), source: quota() },
            RunError::Resume(ResumeError::Metrics(full())),
            RunError::Resume(ResumeError::Store(StoreError::Sqlite(sqlite_full()))),
            RunError::Store(StoreError::Open { path: "p".into(), source: sqlite_full() }),
            RunError::Store(StoreError::Io { path: "p".into(), source: quota() }),
            RunError::User(UserError::io("make the run directory", Path::new("p"), &full())),
        ];
        for error in met {
            let told = format!("{error:?}");
            let failure = of_run(error, Path::new("runs/7"));
            assert_eq!(failure.exit_code(), 3, "{told}");
            assert!(failure.to_string().contains("troupe resume"), "{failure}");
        }
        assert_eq!(of_warm_start(WarmStartError::Model(model())).exit_code(), 3);
    }

    #[test]
    fn another_error_of_a_file_has_the_way_on_too_and_a_bad_model_is_the_users() {
        let denied = Error::from(ErrorKind::PermissionDenied);
        let error = RunError::Io { doing: "cannot write", path: "p".into(), source: denied };
        let failure = of_run(error, Path::new("runs/7"));
        assert_eq!(failure.exit_code(), 3);
        assert!(failure.to_string().contains("troupe resume runs/7"), "{failure}");
        let missing = model::ModelError::MissingFolder { path: "m".into() };
        assert_eq!(of_run(RunError::Model(missing), Path::new("r")).exit_code(), 2);
    }
}
