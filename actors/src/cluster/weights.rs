//! Versions of the policy on their way to generators of other machines: a manifest names the files, each by its BLAKE3.
//!
//! The head writes a version into a folder of its own, once somebody wants it, and keeps the last two. Whoever is behind takes the newest
//! and none between.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rollout::id::PolicyVersion;
use rollout::outcome::Fault;
use serde::{Deserialize, Serialize};

use super::shelf::{Shelf, digest_of};
use super::wire::BlobRef;
use crate::crew::Weights;
use crate::supervise::{CHECKPOINT, fault};

/// What a version's files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// All weights.
    Whole,
    /// The adapters alone; without files, the base itself.
    Adapters,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Without a folder.
    pub name: String,
    #[serde(flatten)]
    pub blob: BlobRef,
}

impl FileRef {
    /// A name that is a path somewhere else is nobody's file.
    pub fn is_safe(&self) -> bool {
        Path::new(&self.name).file_name().is_some_and(|name| name == self.name.as_str()) && self.name != ".."
    }
}

/// One version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub policy: PolicyVersion,
    /// Of the head that wrote it.
    pub epoch: u64,
    pub shape: Shape,
    pub files: Vec<FileRef>,
    /// What adapters belong to; the same files in every version.
    pub base: Vec<FileRef>,
    /// The folder of `files` in `cluster.object_store`, where the head writes them there.
    pub shared: Option<String>,
}

/// What a publisher has written.
#[derive(Clone, Debug)]
pub struct Written {
    pub shape: Shape,
    pub files: Vec<PathBuf>,
    pub base: Vec<PathBuf>,
}

/// Writes a version's files into an empty folder. Called on a thread that may wait.
pub type Publisher = Arc<dyn Fn(&Weights, PolicyVersion, &Path) -> Result<Written, Fault> + Send + Sync>;

/// A version on disk and on the side channel.
#[derive(Clone, Debug)]
pub struct Published {
    pub policy: PolicyVersion,
    pub manifest: BlobRef,
    folder: PathBuf,
    /// Its own files on the shelf.
    digests: Vec<String>,
}

/// Where versions are written.
#[derive(Clone)]
pub struct Press {
    pub publisher: Publisher,
    /// A folder for this run's versions alone.
    pub folder: PathBuf,
    /// Its name in `cluster.object_store`, if it is there.
    pub shared: Option<String>,
    pub epoch: u64,
}

impl Press {
    /// Writes a version, unless it is there, and offers it. Not for an async thread.
    ///
    /// # Errors
    /// It cannot be written or read again.
    pub fn publish(&self, weights: &Weights, policy: PolicyVersion, shelf: &Shelf) -> Result<Published, Fault> {
        let failed = |e: io::Error| fault(CHECKPOINT, format!("{}: {e}", self.folder.display()));
        let name = format!("v{:06}", policy.0);
        let folder = self.folder.join(&name);
        // What a process that died was writing.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let written = (self.publisher)(weights, policy, &folder)?;
        let offer = |path: &PathBuf| -> io::Result<FileRef> {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok(FileRef { name, blob: shelf.put_file(path)? })
        };
        let files: Vec<FileRef> = written.files.iter().map(offer).collect::<io::Result<_>>().map_err(failed)?;
        let base: Vec<FileRef> = written.base.iter().map(offer).collect::<io::Result<_>>().map_err(failed)?;
        let mut digests: Vec<String> = files.iter().map(|file| file.blob.digest.clone()).collect();
        let shared = self.shared.as_ref().map(|run| format!("{run}/{name}"));
        let manifest = Manifest { policy, epoch: self.epoch, shape: written.shape, files, base, shared };
        let manifest = shelf.put(serde_json::to_vec(&manifest).map_err(|e| fault(CHECKPOINT, e))?);
        digests.push(manifest.digest.clone());
        Ok(Published { policy, manifest, folder, digests })
    }
}

impl Published {
    /// Nobody is offered it any more. `kept`: a file of the same content may belong to another version.
    pub fn forget(&self, shelf: &Shelf, kept: &[Published]) {
        let needed = |digest: &&String| kept.iter().any(|other| other.digests.contains(*digest));
        self.digests.iter().filter(|digest| !needed(digest)).for_each(|digest| shelf.remove(digest));
        if kept.iter().all(|other| other.folder != self.folder) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// Files of a folder that are not weights (configuration, tokenizer), and are small.
///
/// # Errors
/// They cannot be read.
pub fn small_files(folder: &Path, shelf: &Shelf) -> io::Result<Vec<FileRef>> {
    const MOST: u64 = 64 << 20;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let metadata = entry.metadata()?;
        if metadata.is_file() && metadata.len() <= MOST && !name.contains(".safetensors") && !name.starts_with('.') {
            files.push(FileRef { name, blob: shelf.put_file(&entry.path())? });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Whether a file is what it should be, read once.
pub fn is_there(path: &Path, file: &FileRef) -> bool {
    let length = std::fs::metadata(path).map(|metadata| metadata.len());
    length.is_ok_and(|length| length == file.blob.bytes) && digest_of(path).is_ok_and(|found| found == file.blob)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(folder: &Path) -> Press {
        let publisher: Publisher = Arc::new(|_, policy, folder| {
            let path = folder.join("w");
            std::fs::write(&path, policy.0.min(2).to_string()).map_err(|e| fault(CHECKPOINT, e))?;
            Ok(Written { shape: Shape::Whole, files: vec![path], base: Vec::new() })
        });
        Press { publisher, folder: folder.to_path_buf(), shared: None, epoch: 4 }
    }

    /// Planted: `forget` removes every digest. Seen: version 3, which has the same content, cannot be read any more.
    #[test]
    fn a_version_is_offered_by_its_manifest_and_forgetting_one_leaves_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let (press, shelf) = (press(dir.path()), Shelf::default());
        let weights: Weights = Arc::new(());
        let made: Vec<Published> =
            (1..=3).map(|n| press.publish(&weights, PolicyVersion(n), &shelf).unwrap()).collect();
        let read = |blob: &BlobRef| shelf.read(&blob.digest, 0, blob.bytes as usize);
        let manifest: Manifest = serde_json::from_slice(&read(&made[1].manifest).unwrap()).unwrap();
        assert_eq!((manifest.policy, manifest.epoch, manifest.files[0].name.as_str()), (PolicyVersion(2), 4, "w"));
        assert_eq!(read(&manifest.files[0].blob).unwrap(), b"2");
        made[0].forget(&shelf, &made[1..]);
        assert_eq!(shelf.bytes(&made[0].manifest.digest), None);
        assert!(!dir.path().join("v000001").exists());
        // Content that two versions share is found where it was put last.
        made[1].forget(&shelf, &made[2..]);
        assert_eq!(read(&manifest.files[0].blob).unwrap(), b"2");
        assert!(dir.path().join("v000003/w").exists());
    }

    #[test]
    fn a_file_elsewhere_is_nobodys() {
        let file = |name: &str| FileRef { name: name.into(), blob: BlobRef { digest: String::new(), bytes: 0 } };
        for bad in ["../x", "/etc/x", "a/b", "..", "", "."] {
            assert!(!file(bad).is_safe(), "{bad}");
        }
        assert!(file("model.safetensors").is_safe());
    }
}
