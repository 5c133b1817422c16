//! What candidates compiled to, by content: a candidate that comes again (after a fault, for a second look alone on the device)
//! is not compiled again. An entry is made by a candidate's own process and goes to no other candidate's.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use rollout::outcome::Candidate;
use rollout::task::TaskSpec;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The files of one candidate's cache folder: `[[name, length], ..]` and their contents, one after the other.
#[derive(Debug, PartialEq)]
pub(super) struct Compiled {
    pub files: Value,
    pub blob: Vec<u8>,
}

/// Over everything that a compilation depends on.
pub(super) type Key = [u8; 32];

/// The key of a candidate on a task's shapes, for a device.
pub(super) fn key(task: &TaskSpec, candidate: &Candidate, device: &Value) -> Key {
    let mut hash = Sha256::new();
    let protocol = crate::protocol_digest();
    for part in [task.source.as_str(), &candidate.source, &protocol.0, &device["capability"].to_string()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// The last used entries, up to so many bytes.
#[derive(Debug)]
pub(super) struct Cache {
    limit: usize,
    bytes: usize,
    entries: HashMap<Key, Arc<Compiled>>,
    /// The one that was used longest ago first.
    order: VecDeque<Key>,
    found: u64,
}

impl Cache {
    pub fn new(limit: usize) -> Cache {
        Cache { limit, bytes: 0, entries: HashMap::new(), order: VecDeque::new(), found: 0 }
    }

    pub fn get(&mut self, key: &Key) -> Option<Arc<Compiled>> {
        let found = self.entries.get(key).cloned()?;
        self.order.retain(|k| k != key);
        self.order.push_back(*key);
        self.found += 1;
        Some(found)
    }

    /// Entries, and how often one was found.
    pub fn counts(&self) -> (usize, u64) {
        (self.entries.len(), self.found)
    }

    /// One that is larger than the whole cache is not kept.
    pub fn put(&mut self, key: Key, compiled: Compiled) {
        if compiled.blob.len() > self.limit {
            return;
        }
        self.remove(&key);
        self.bytes += compiled.blob.len();
        self.entries.insert(key, Arc::new(compiled));
        self.order.push_back(key);
        while self.bytes > self.limit {
            let Some(oldest) = self.order.front().copied() else { return };
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(gone) = self.entries.remove(key) {
            self.bytes -= gone.blob.len();
        }
        self.order.retain(|k| k != key);
    }
}

#[cfg(test)]
mod tests {
    use rollout::id::{Digest, TaskId};
    use rollout::task::Split;
    use serde_json::json;

    use super::*;

    fn compiled(bytes: usize) -> Compiled {
        Compiled { files: json!([["a", bytes]]), blob: vec![1; bytes] }
    }

    #[test]
    fn the_last_used_are_kept() {
        let mut cache = Cache::new(10);
        cache.put([1; 32], compiled(4));
        cache.put([2; 32], compiled(4));
        assert!(cache.get(&[1; 32]).is_some());
        cache.put([3; 32], compiled(4));
        assert!(cache.get(&[2; 32]).is_none(), "used longest ago");
        assert!(cache.get(&[1; 32]).is_some() && cache.get(&[3; 32]).is_some());
        cache.put([4; 32], compiled(11));
        assert!(cache.get(&[4; 32]).is_none(), "larger than everything");
        cache.put([3; 32], compiled(6));
        assert_eq!((cache.bytes, cache.get(&[3; 32]).unwrap().blob.len()), (10, 6));
    }

    /// Planted bug: a key of the digest alone gives a candidate what was compiled for another task's shapes.
    #[test]
    fn a_key_depends_on_task_candidate_and_device() {
        let task = |source: &str| TaskSpec {
            id: TaskId("t".into()),
            level: 1,
            split: Split::Train,
            tags: vec![],
            source: source.into(),
        };
        let candidate = |source: &str| Candidate { source: source.into(), digest: Digest("same".into()) };
        let h100 = json!({"capability": [9, 0]});
        let one = key(&task("t"), &candidate("c"), &h100);
        assert_eq!(one, key(&task("t"), &candidate("c"), &h100));
        assert_ne!(one, key(&task("u"), &candidate("c"), &h100));
        assert_ne!(one, key(&task("t"), &candidate("d"), &h100));
        assert_ne!(one, key(&task("t"), &candidate("c"), &json!({"capability": [8, 0]})));
        assert_ne!(key(&task("ab"), &candidate("c"), &h100), key(&task("a"), &candidate("bc"), &h100));
    }
}
