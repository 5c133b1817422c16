//! Candidates that lie on the shelf for nodes to fetch: each is there as long as an errand needs it, and no longer.

use std::collections::HashMap;
use std::sync::Arc;

use super::shelf::Shelf;
use super::wire::{BlobRef, NodeKey};

/// What is out, by errand. Its end takes all of it from the shelf.
pub struct Lent {
    shelf: Arc<Shelf>,
    errands: HashMap<(NodeKey, u64), String>,
    /// The same candidate may be out twice.
    holders: HashMap<String, u32>,
}

impl Lent {
    pub fn new(shelf: Arc<Shelf>) -> Lent {
        Lent { shelf, errands: HashMap::new(), holders: HashMap::new() }
    }

    /// Offers a candidate for one errand.
    pub fn lend(&mut self, key: NodeKey, lease: u64, bytes: Vec<u8>) -> BlobRef {
        let blob = self.shelf.put(bytes);
        *self.holders.entry(blob.digest.clone()).or_default() += 1;
        self.errands.insert((key, lease), blob.digest.clone());
        blob
    }

    /// The errand has ended.
    pub fn back(&mut self, key: NodeKey, lease: u64) {
        if let Some(digest) = self.errands.remove(&(key, lease)) {
            self.release(&digest);
        }
    }

    /// Takes back what no living errand needs: nodes that were lost, errands that were given up.
    pub fn sweep(&mut self, lives: impl Fn(NodeKey, u64) -> bool) {
        let gone: Vec<(NodeKey, u64)> = self.errands.keys().filter(|(key, n)| !lives(*key, *n)).copied().collect();
        gone.into_iter().for_each(|(key, lease)| self.back(key, lease));
    }

    fn release(&mut self, digest: &str) {
        let Some(holders) = self.holders.get_mut(digest) else { return };
        *holders -= 1;
        if *holders == 0 {
            self.holders.remove(digest);
            self.shelf.remove(digest);
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.holders.keys().for_each(|digest| self.shelf.remove(digest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Planted: `sweep` does nothing (as it was: only an answer took a candidate back). Seen: the lost node's is still there.
    #[test]
    fn what_nobody_needs_any_more_is_taken_back_and_what_another_needs_stays() {
        let shelf = Arc::new(Shelf::default());
        let mut lent = Lent::new(shelf.clone());
        let lost = lent.lend(1, 10, b"of a node that is lost".to_vec());
        let shared = lent.lend(1, 11, b"twice".to_vec());
        assert_eq!(lent.lend(2, 12, b"twice".to_vec()), shared);
        lent.sweep(|key, _| key == 2);
        assert_eq!(shelf.bytes(&lost.digest), None);
        assert_eq!(shelf.bytes(&shared.digest), Some(5), "node 2 has not fetched it yet");
        lent.back(2, 12);
        assert_eq!(shelf.bytes(&shared.digest), None);
        // A gateway that dies.
        let last = lent.lend(3, 13, b"last".to_vec());
        drop(lent);
        assert_eq!(shelf.bytes(&last.digest), None);
    }
}
