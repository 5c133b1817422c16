//! What the side channel offers: bytes and files by the BLAKE3 of their content. Bounded in memory.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::wire::BlobRef;

/// Bytes that a node may leave here in one piece (a long report).
pub const UPLOAD_MAX: usize = 16 << 20;
/// Bytes of all pieces that nobody has taken yet.
const UPLOADS_MAX: usize = 256 << 20;
/// What nobody has taken by then is of a node that was lost before it could say so: it makes room.
const UPLOAD_KEPT: Duration = Duration::from_secs(120);

enum Blob {
    Memory(Vec<u8>),
    File { path: PathBuf, bytes: u64 },
}

#[derive(Default)]
struct Content {
    blobs: HashMap<String, Blob>,
    uploads: HashMap<String, (Instant, Vec<u8>)>,
    uploaded: usize,
}

/// Shared by the gateway and the side channel's server.
#[derive(Default)]
pub struct Shelf(Mutex<Content>);

/// The digest of `bytes`, hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// The digest and length of a file, read in pieces.
///
/// # Errors
/// It cannot be read.
pub fn digest_of(path: &Path) -> io::Result<BlobRef> {
    let mut hasher = blake3::Hasher::new();
    let bytes = hasher.update_reader(File::open(path)?)?.count();
    Ok(BlobRef { digest: hasher.finalize().to_hex().to_string(), bytes })
}

impl Content {
    fn forget_uploads(&mut self, kept: Duration) {
        self.uploads.retain(|_, (since, _)| since.elapsed() < kept);
        self.uploaded = self.uploads.values().map(|(_, bytes)| bytes.len()).sum();
    }
}

impl Shelf {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers bytes.
    pub fn put(&self, bytes: Vec<u8>) -> BlobRef {
        let blob = BlobRef { digest: digest(&bytes), bytes: bytes.len() as u64 };
        self.content().blobs.insert(blob.digest.clone(), Blob::Memory(bytes));
        blob
    }

    /// Offers a file that does not change any more.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn put_file(&self, path: &Path) -> io::Result<BlobRef> {
        let blob = digest_of(path)?;
        let file = Blob::File { path: path.to_path_buf(), bytes: blob.bytes };
        self.content().blobs.insert(blob.digest.clone(), file);
        Ok(blob)
    }

    /// Offers a file whose digest is known.
    pub fn put_known(&self, blob: &BlobRef, path: &Path) {
        let file = Blob::File { path: path.to_path_buf(), bytes: blob.bytes };
        self.content().blobs.insert(blob.digest.clone(), file);
    }

    /// Offers it no more.
    pub fn remove(&self, digest: &str) {
        self.content().blobs.remove(digest);
    }

    /// Offers no file of this folder any more.
    pub fn remove_folder(&self, folder: &Path) {
        let inside = |blob: &Blob| matches!(blob, Blob::File { path, .. } if path.starts_with(folder));
        self.content().blobs.retain(|_, blob| !inside(blob));
    }

    /// Length of what is offered under this digest.
    pub fn bytes(&self, digest: &str) -> Option<u64> {
        self.content().blobs.get(digest).map(|blob| match blob {
            Blob::Memory(bytes) => bytes.len() as u64,
            Blob::File { bytes, .. } => *bytes,
        })
    }

    /// `count` bytes from `start`; the caller has looked at the length. Reads a file: not for an async thread.
    ///
    /// # Errors
    /// The file cannot be read, or has become shorter, or nothing is offered any more.
    pub fn read(&self, digest: &str, start: u64, count: usize) -> io::Result<Vec<u8>> {
        let path = match self.content().blobs.get(digest) {
            None => return Err(io::ErrorKind::NotFound.into()),
            Some(Blob::File { path, .. }) => path.clone(),
            Some(Blob::Memory(bytes)) => {
                let start = start.min(bytes.len() as u64) as usize;
                return Ok(bytes[start..bytes.len().min(start + count)].to_vec());
            }
        };
        let mut piece = vec![0; count];
        File::open(path)?.read_exact_at(&mut piece, start)?;
        Ok(piece)
    }

    /// Takes a node's piece in.
    ///
    /// # Errors
    /// Too long, too much at once, or another content than its name says.
    pub fn upload(&self, named: &str, bytes: Vec<u8>) -> Result<(), String> {
        if bytes.len() > UPLOAD_MAX {
            return Err(format!("{} bytes, the limit is {UPLOAD_MAX}", bytes.len()));
        }
        if digest(&bytes) != named {
            return Err("the content is not what its digest says".into());
        }
        let mut content = self.content();
        content.forget_uploads(UPLOAD_KEPT);
        if let Some((since, _)) = content.uploads.get_mut(named) {
            *since = Instant::now();
            return Ok(());
        }
        if content.uploaded + bytes.len() > UPLOADS_MAX {
            return Err(format!("more than {UPLOADS_MAX} bytes that nobody has taken yet"));
        }
        content.uploaded += bytes.len();
        content.uploads.insert(named.to_string(), (Instant::now(), bytes));
        Ok(())
    }

    /// A node's piece, once.
    pub fn take(&self, named: &str) -> Option<Vec<u8>> {
        let mut content = self.content();
        let (_, bytes) = content.uploads.remove(named)?;
        content.uploaded -= bytes.len();
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_files_are_found_by_their_content_and_read_in_pieces() {
        let shelf = Shelf::default();
        let blob = shelf.put(b"0123456789".to_vec());
        assert_eq!(blob, BlobRef { digest: digest(b"0123456789"), bytes: 10 });
        assert_eq!(shelf.read(&blob.digest, 4, 3).unwrap(), b"456");
        assert_eq!(shelf.read(&blob.digest, 8, 9).unwrap(), b"89");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "abcdef").unwrap();
        let file = shelf.put_file(&path).unwrap();
        assert_eq!(file, BlobRef { digest: digest(b"abcdef"), bytes: 6 });
        assert_eq!(shelf.read(&file.digest, 2, 4).unwrap(), b"cdef");
        std::fs::write(&path, "abc").unwrap();
        assert!(shelf.read(&file.digest, 2, 4).is_err(), "it became shorter");
        shelf.remove(&file.digest);
        assert_eq!(shelf.bytes(&file.digest), None);
    }

    #[test]
    fn an_upload_is_what_its_digest_says_and_is_taken_once() {
        let shelf = Shelf::default();
        assert!(shelf.upload(&digest(b"x"), b"y".to_vec()).is_err());
        assert!(shelf.upload(&digest(b"x"), vec![0; UPLOAD_MAX + 1]).is_err());
        shelf.upload(&digest(b"x"), b"x".to_vec()).unwrap();
        shelf.upload(&digest(b"x"), b"x".to_vec()).unwrap();
        assert_eq!(shelf.take(&digest(b"x")).as_deref(), Some(&b"x"[..]));
        assert_eq!(shelf.take(&digest(b"x")), None);
        assert_eq!(shelf.content().uploaded, 0);
    }

    /// Planted: nothing is ever forgotten (as it was). Seen: the node's next report finds no room.
    #[test]
    fn reports_that_nobody_takes_make_room_for_others() {
        let shelf = Shelf::default();
        for n in 0..UPLOADS_MAX / UPLOAD_MAX {
            let orphan = vec![n as u8; UPLOAD_MAX];
            shelf.upload(&digest(&orphan), orphan).unwrap();
        }
        let next = b"the next".to_vec();
        assert!(shelf.upload(&digest(&next), next.clone()).is_err(), "bounded");
        shelf.content().forget_uploads(Duration::ZERO);
        shelf.upload(&digest(&next), next.clone()).unwrap();
        assert_eq!(shelf.take(&digest(&next)), Some(next));
    }
}
