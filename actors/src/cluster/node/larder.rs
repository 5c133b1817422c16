//! A generator node's copies of policy versions: fetched from the shared folder, from nodes that hold them, or from the head; checked; and
//! offered to other nodes where this one listens for them.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rollout::id::PolicyVersion;

use crate::cluster::bulk;
use crate::cluster::cookie::Cookie;
use crate::cluster::fetch::{Client, Pulse};
use crate::cluster::shelf::Shelf;
use crate::cluster::weights::{FileRef, Manifest, is_there};
use crate::cluster::wire::Offer;
use crate::errors::UserError;

/// Versions kept for others: the newest, and one that somebody may still be fetching.
const KEPT: usize = 2;

/// What is on this machine's disk.
pub(super) struct Larder {
    folder: PathBuf,
    /// `cluster.object_store`, where it is set.
    shared: Option<PathBuf>,
    cookie: Cookie,
    shelf: Arc<Shelf>,
    /// Our own side channel.
    serves: Option<String>,
    versions: Vec<Stored>,
    /// Base files that were checked: they are the same in every version.
    checked: Checked,
    shunned: Shunned,
}

type Checked = Arc<Mutex<HashSet<String>>>;
/// Nodes that did not give what they were asked for, of the version with this manifest.
type Shunned = Arc<Mutex<(String, HashSet<String>)>>;

/// A version on disk.
pub(super) struct Stored {
    pub(super) policy: PolicyVersion,
    pub(super) manifest: Manifest,
    pub(super) folder: PathBuf,
}

/// What one fetch needs, apart from the larder.
pub(super) struct Fetch {
    folder: PathBuf,
    base: PathBuf,
    shared: Option<PathBuf>,
    shelf: Option<Arc<Shelf>>,
    cookie: Cookie,
    checked: Checked,
    shunned: Shunned,
    /// How long nothing has come.
    pub(super) pulse: Arc<Pulse>,
}

/// Where another node is to be asked.
struct Neighbour {
    address: String,
    client: Client,
}

impl Larder {
    /// Listens for other nodes at `listen` (`cluster.peer_listen`), unless it is empty.
    ///
    /// # Errors
    /// An address that is not of this machine, or a port that is taken.
    pub(super) async fn open(
        folder: PathBuf,
        shared: Option<PathBuf>,
        cookie: Cookie,
        listen: &str,
    ) -> Result<Larder, UserError> {
        let shelf = Arc::<Shelf>::default();
        let serves = match listen {
            "" => None,
            listen => Some(serve(listen, shelf.clone(), cookie.clone()).await.map_err(|found| {
                UserError::new("this node cannot offer weights to others")
                    .at(format!("cluster.peer_listen = {listen:?}"))
                    .found(found)
                    .expected("an address of this machine that other nodes reach, and a free port")
                    .hint("name one address, not 0.0.0.0; or leave it empty, and other nodes fetch from the head")
            })?),
        };
        let (checked, shunned) = (Checked::default(), Shunned::default());
        Ok(Larder { folder, shared, cookie, shelf, serves, versions: Vec::new(), checked, shunned })
    }

    pub(super) fn serves(&self) -> Option<String> {
        self.serves.clone()
    }

    /// The folder of the run's small files, and of the base of adapters.
    pub(super) fn base(&self) -> PathBuf {
        self.folder.join("base")
    }

    pub(super) fn fetch(&self) -> Fetch {
        Fetch {
            folder: self.folder.clone(),
            base: self.base(),
            shared: self.shared.clone(),
            shelf: self.serves.as_ref().map(|_| self.shelf.clone()),
            cookie: self.cookie.clone(),
            checked: self.checked.clone(),
            shunned: self.shunned.clone(),
            pulse: Arc::default(),
        }
    }

    /// What has come of a version that is not wanted any more. `coming`: as long as none of that number is in use.
    pub(super) fn abandon(&self, policy: PolicyVersion, coming: &[Stored]) {
        let folder = version_folder(&self.folder, policy);
        if self.versions.iter().chain(coming).all(|stored| stored.folder != folder) {
            self.shelf.remove_folder(&folder);
            let _ = std::fs::remove_dir_all(&folder);
        }
    }

    /// A version is in use. Older ones go; where nobody asks for it, it goes too: its weights are in memory.
    pub(super) fn keep(&mut self, stored: Stored) {
        self.versions.retain(|other| other.policy != stored.policy);
        self.versions.push(stored);
        let kept = if self.serves.is_some() { KEPT } else { 0 };
        while self.versions.len() > kept {
            let old = self.versions.remove(0);
            let needed = |file: &&FileRef| self.versions.iter().any(|v| v.manifest.files.contains(*file));
            old.manifest.files.iter().filter(|f| !needed(f)).for_each(|file| self.shelf.remove(&file.blob.digest));
            let _ = std::fs::remove_dir_all(&old.folder);
        }
    }

    /// Another run: nothing of this one is of use.
    pub(super) fn clear(&mut self) {
        for old in self.versions.drain(..) {
            old.manifest.files.iter().for_each(|file| self.shelf.remove(&file.blob.digest));
        }
        self.checked = Checked::default();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn version_folder(folder: &Path, policy: PolicyVersion) -> PathBuf {
    folder.join(format!("v{:06}", policy.0))
}

async fn serve(listen: &str, shelf: Arc<Shelf>, cookie: Cookie) -> Result<String, String> {
    let listener = tokio::net::TcpListener::bind(listen).await.map_err(|e| e.to_string())?;
    let address: SocketAddr = listener.local_addr().map_err(|e| e.to_string())?;
    if address.ip().is_unspecified() {
        return Err("every interface, which is no address that others could be told".into());
    }
    tokio::spawn(bulk::serve(listener, shelf, cookie));
    Ok(address.to_string())
}

impl Fetch {
    /// All files of the newest version, each from the first source that has it whole.
    ///
    /// # Errors
    /// A manifest that makes no sense, or a file that is nowhere: in words.
    pub(super) async fn version(&self, offer: &Offer, head: &Client) -> Result<Stored, String> {
        let manifest = head.get(&offer.manifest).await.map_err(|e| format!("the manifest: {e}"))?;
        let manifest: Manifest = serde_json::from_slice(&manifest).map_err(|e| format!("the manifest: {e}"))?;
        if let Some(bad) = manifest.files.iter().chain(&manifest.base).find(|file| !file.is_safe()) {
            return Err(format!("the manifest names the file {:?}", bad.name));
        }
        let folder = version_folder(&self.folder, manifest.policy);
        let peers = self.neighbours(offer);
        let shared = match (&self.shared, &manifest.shared) {
            (Some(root), Some(name)) if !name.split('/').any(|part| part == ".." || part.is_empty()) => {
                Some(root.join(name))
            }
            _ => None,
        };
        let known = |digest: &str| self.checked.lock().unwrap_or_else(PoisonError::into_inner).contains(digest);
        for file in manifest.base.iter().filter(|file| !known(&file.blob.digest)) {
            self.file(file, &self.base, None, &peers, head).await?;
            self.checked.lock().unwrap_or_else(PoisonError::into_inner).insert(file.blob.digest.clone());
        }
        for file in &manifest.files {
            self.file(file, &folder, shared.as_deref(), &peers, head).await?;
        }
        let shape = self.base.join("config.json");
        if shape.is_file() && !folder.join("config.json").exists() {
            std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
            std::fs::copy(&shape, folder.join("config.json")).map_err(|e| format!("{}: {e}", shape.display()))?;
        }
        Ok(Stored { policy: manifest.policy, manifest, folder })
    }

    /// Small files, into the base's folder.
    ///
    /// # Errors
    /// As [`Fetch::version`].
    pub(super) async fn small(&self, files: &[FileRef], head: &Client) -> Result<(), String> {
        for file in files {
            if !file.is_safe() {
                return Err(format!("the recipe names the file {:?}", file.name));
            }
            self.file(file, &self.base, None, &[], head).await?;
        }
        Ok(())
    }

    fn neighbours(&self, offer: &Offer) -> Vec<Neighbour> {
        {
            let mut shunned = self.shunned.lock().unwrap_or_else(PoisonError::into_inner);
            if shunned.0 != offer.manifest.digest {
                *shunned = (offer.manifest.digest.clone(), HashSet::new());
            }
        }
        let neighbour = |address: &String| {
            let (host, port) = address.rsplit_once(':')?;
            let client = Client::of_peer(host, port.parse().ok()?, self.cookie.clone()).ok()?;
            Some(Neighbour { address: address.clone(), client: client.watched(self.pulse.clone()) })
        };
        offer.peers.iter().filter_map(neighbour).collect()
    }

    async fn file(
        &self,
        file: &FileRef,
        folder: &Path,
        shared: Option<&Path>,
        peers: &[Neighbour],
        head: &Client,
    ) -> Result<(), String> {
        let told = |e: std::io::Error| format!("{}: {e}", folder.display());
        std::fs::create_dir_all(folder).map_err(told)?;
        let whole = folder.join(&file.name);
        if !checked(&whole, file).await {
            let part = folder.join(format!("{}.part", file.name));
            let copied = match shared.map(|shared| shared.join(&file.name)) {
                Some(from) => copied(from, part.clone()).await && checked(&part, file).await,
                None => false,
            };
            if !copied {
                if shared.is_some() {
                    // What was copied is not what it should be, or not whole.
                    let _ = std::fs::remove_file(&part);
                }
                self.over_the_side_channel(file, &part, peers, head).await?;
            }
            std::fs::rename(&part, &whole).map_err(told)?;
        }
        if let Some(shelf) = &self.shelf {
            shelf.put_known(&file.blob, &whole);
        }
        Ok(())
    }

    async fn over_the_side_channel(
        &self,
        file: &FileRef,
        part: &Path,
        peers: &[Neighbour],
        head: &Client,
    ) -> Result<(), String> {
        // Left over from a copy that is not what it should be.
        if std::fs::metadata(part).is_ok_and(|metadata| metadata.len() > file.blob.bytes) {
            let _ = std::fs::remove_file(part);
        }
        let shunned = || self.shunned.lock().unwrap_or_else(PoisonError::into_inner);
        for Neighbour { address, client } in peers {
            // The version's other files, and another try, are not worth the same wait again.
            if shunned().1.contains(address) {
                continue;
            }
            match client.get_file(&file.blob, part).await {
                Ok(()) => return Ok(()),
                Err(why) => {
                    tracing::info!(why, address, file = file.name, "not from this node any more; the next is asked");
                    shunned().1.insert(address.clone());
                }
            }
        }
        head.get_file(&file.blob, part).await.map_err(|why| format!("{}: {why}", file.name))
    }
}

async fn copied(from: PathBuf, to: PathBuf) -> bool {
    tokio::task::spawn_blocking(move || std::fs::copy(from, to).is_ok()).await.unwrap_or(false)
}

async fn checked(path: &Path, file: &FileRef) -> bool {
    let (path, file) = (path.to_path_buf(), file.clone());
    tokio::task::spawn_blocking(move || is_there(&path, &file)).await.unwrap_or(false)
}

#[cfg(test)]
#[path = "larder_tests.rs"]
mod tests;
