//! Candidates under which a process of ours, or their own, was killed and nobody knows by whom: counted by digest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use rollout::id::Digest;

/// Beyond it all counts start again: a candidate is then blamed later, never wrongly.
const MAX_SUSPECTS: usize = 1024;

/// One count for all executors that share it, because the second attempt may come to another one than the first.
#[derive(Clone, Debug, Default)]
pub struct Suspects(Arc<Mutex<HashMap<String, u32>>>);

impl Suspects {
    /// Counts one more death under this candidate; returns how many there are now.
    pub(crate) fn count(&self, candidate: &Digest) -> u32 {
        let mut deaths = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if deaths.len() >= MAX_SUSPECTS && !deaths.contains_key(&candidate.0) {
            deaths.clear();
        }
        let n = deaths.entry(candidate.0.clone()).or_insert(0);
        *n += 1;
        *n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_their_counts_and_memory_is_bounded() {
        let (one, other) = (Suspects::default(), Suspects::default());
        let digest = |n: usize| Digest(n.to_string());
        assert_eq!((one.count(&digest(0)), one.clone().count(&digest(0)), other.count(&digest(0))), (1, 2, 1));
        for n in 1..MAX_SUSPECTS {
            assert_eq!(one.count(&digest(n)), 1);
        }
        assert_eq!(one.count(&digest(0)), 3, "one that is known does not push others out");
        assert_eq!(one.count(&digest(MAX_SUSPECTS)), 1);
        assert_eq!(one.0.lock().unwrap().len(), 1);
    }
}
