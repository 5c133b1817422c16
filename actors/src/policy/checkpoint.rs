//! The run's checkpoints on disk: one folder a policy version, and a manifest that names the newest, switched atomically.
//!
//! `checkpoints/v000007/` is complete before `checkpoints/newest.json` names it; a crash between leaves an unnamed
//! folder, which the next step replaces.

use std::io::Write;
use std::path::{Path, PathBuf};

use rollout::id::{Digest, PolicyVersion, StepId};
use serde::{Deserialize, Serialize};

use crate::run_dir::CHECKPOINTS_DIR;

/// What `newest.json` says: the published weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub step: StepId,
    pub policy: PolicyVersion,
    /// Folder beside the manifest.
    pub folder: String,
    /// SHA-256 of the checkpoint's `state.safetensors`; a resumed run compares it with the file's own.
    pub digest: Digest,
    pub applied: bool,
    /// The learner's report on the step: a resumed run restores its row from here.
    pub report: serde_json::Value,
}

/// The checkpoints of one run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    /// Kept besides the newest.
    keep: usize,
}

impl Checkpoints {
    pub fn new(run_dir: &Path, keep: usize) -> Checkpoints {
        Checkpoints { folder: run_dir.join(CHECKPOINTS_DIR), keep }
    }

    /// Where the weights and the optimizer state of a version are.
    pub fn path(&self, policy: PolicyVersion) -> PathBuf {
        self.folder.join(name(policy))
    }

    /// The newest published checkpoint.
    pub fn newest(&self) -> std::io::Result<Option<Manifest>> {
        let text = match std::fs::read(self.folder.join("newest.json")) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        serde_json::from_slice(&text).map(Some).map_err(std::io::Error::other)
    }

    /// Makes `manifest` the newest, durably, then removes versions beyond those kept.
    pub fn publish(&self, manifest: &Manifest) -> std::io::Result<()> {
        let text = serde_json::to_vec_pretty(manifest).map_err(std::io::Error::other)?;
        write_atomically(&self.folder.join("newest.json"), &text)?;
        self.prune(manifest.policy)
    }

    /// A manifest for a complete checkpoint folder.
    pub fn manifest(
        &self,
        step: StepId,
        policy: PolicyVersion,
        digest: Digest,
        applied: bool,
        report: serde_json::Value,
    ) -> Manifest {
        Manifest { step, policy, folder: name(policy), digest, applied, report }
    }

    fn prune(&self, newest: PolicyVersion) -> std::io::Result<()> {
        let oldest_kept = newest.0.saturating_sub(self.keep as u64);
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let version = name.to_str().and_then(|n| n.strip_prefix('v')).and_then(|n| n.parse::<u64>().ok());
            // A hidden folder is what a killed process was writing.
            let unfinished = name.to_str().is_some_and(|n| n.starts_with(".v"));
            if unfinished || version.is_some_and(|v| v < oldest_kept || v > newest.0) {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

fn name(policy: PolicyVersion) -> String {
    format!("v{:06}", policy.0)
}

/// Writes a file whole or not at all, durably.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_named_only_when_published_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(dir.path(), 1);
        assert_eq!(checkpoints.newest().unwrap(), None);
        for n in 1..=4 {
            std::fs::create_dir_all(checkpoints.path(PolicyVersion(n))).unwrap();
            std::fs::create_dir(dir.path().join("checkpoints/.v000009.new-1")).unwrap();
            assert_eq!(checkpoints.newest().unwrap().map_or(0, |m| m.policy.0), n - 1, "not named before it is whole");
            let manifest = checkpoints.manifest(
                StepId(n),
                PolicyVersion(n),
                Digest(format!("{n}")),
                true,
                serde_json::json!({ "loss": 0.5 }),
            );
            checkpoints.publish(&manifest).unwrap();
            assert_eq!(checkpoints.newest().unwrap(), Some(manifest));
        }
        let left: Vec<bool> = (1..=4).map(|n| checkpoints.path(PolicyVersion(n)).exists()).collect();
        assert_eq!(left, [false, false, true, true]);
        assert!(!dir.path().join("checkpoints/.v000009.new-1").exists());
    }
}
