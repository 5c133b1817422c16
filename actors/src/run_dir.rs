//! What a run keeps in its directory, beside its store: looked for before it begins, taken away where nothing was begun.

use std::path::{Path, PathBuf};

use crate::errors::UserError;
use crate::run::{POLICY_DIR, SUMMARY_FILE};
use crate::store::rows::PhaseTag;
use crate::store::{METRICS_FILE, Reader, StoreError};

/// Held by the process that works here.
pub const LOCK_FILE: &str = "lock";
/// The learner's checkpoints.
pub const CHECKPOINTS_DIR: &str = "checkpoints";
/// The policy that RL begins with.
pub const WARM_START_DIR: &str = "warm-start";
/// Of executors, while they work.
pub const SCRATCH_DIR: &str = "scratch";
/// The newest weights, for nodes that fetch them.
pub const WEIGHTS_DIR: &str = "published";
/// The newest weights, for a generation server.
pub const SERVED_DIR: &str = "served";

/// All that a run writes or replaces in its directory but the store.
const OURS: [&str; 8] =
    [METRICS_FILE, SUMMARY_FILE, POLICY_DIR, CHECKPOINTS_DIR, WARM_START_DIR, SCRATCH_DIR, WEIGHTS_DIR, SERVED_DIR];

/// Asked of a directory that holds no run.
///
/// # Errors
/// Something stands where this run would write.
pub fn require_room(run_dir: &Path) -> Result<(), UserError> {
    let Some(taken) = OURS.iter().map(|name| run_dir.join(name)).find(|path| path.exists()) else { return Ok(()) };
    Err(UserError::new("the run would replace what is there")
        .at(taken.display())
        .found("something, and no run beside it (run.sqlite)")
        .expected("a directory that is new or empty")
        .hint("name another one with --run-dir, or move this aside"))
}

/// A run that ended for its user's mistake before anything was made leaves nothing, so that the corrected command may name its
/// directory again. `new`: the directory was made for it.
pub fn forget_unbegun(run_dir: &Path, new: bool) {
    let made = [POLICY_DIR, CHECKPOINTS_DIR, WARM_START_DIR].iter().any(|name| run_dir.join(name).exists());
    if made || Reader::open(run_dir).and_then(|reader| begun(&reader)).unwrap_or(true) {
        return;
    }
    let store = crate::store::path(run_dir);
    let beside = |suffix: &str| PathBuf::from(format!("{}{suffix}", store.display()));
    for file in [beside("-wal"), beside("-shm"), run_dir.join(METRICS_FILE), run_dir.join(LOCK_FILE), store.clone()] {
        let _ = std::fs::remove_file(file);
    }
    let _ = std::fs::remove_dir_all(run_dir.join(SCRATCH_DIR));
    if new {
        let _ = std::fs::remove_dir(run_dir);
    }
}

fn begun(reader: &Reader) -> Result<bool, StoreError> {
    Ok(!reader.endings(PhaseTag::Train)?.is_empty()
        || !reader.evaluated(PhaseTag::EvalBefore)?.is_empty()
        || !reader.steps()?.is_empty()
        || !reader.faults()?.is_empty())
}
