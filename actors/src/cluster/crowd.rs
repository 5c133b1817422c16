//! Who has to go where too many have proved nothing yet: a flood from one host must not keep others out.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

/// Of more than `most`: the oldest of the host that has most.
pub fn victim<I: Copy, H: Copy + Eq + Hash + Ord>(
    all: impl Iterator<Item = (I, H, Instant)>,
    most: usize,
) -> Option<I> {
    let all: Vec<(I, H, Instant)> = all.collect();
    if all.len() <= most {
        return None;
    }
    let mut hosts: HashMap<H, usize> = HashMap::new();
    all.iter().for_each(|(_, host, _)| *hosts.entry(*host).or_default() += 1);
    let (crowded, _) = hosts.into_iter().max_by_key(|(host, n)| (*n, *host))?;
    all.iter().filter(|(_, host, _)| *host == crowded).min_by_key(|(_, _, since)| *since).map(|(id, ..)| *id)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Planted: the oldest of all is ended. Seen: the node's handshake, which is older than the flood's last, goes.
    #[test]
    fn a_flood_from_one_host_ends_its_own() {
        let began = Instant::now();
        let at = |n: u64| began + Duration::from_millis(n);
        let mut all = vec![(0, "10.0.0.7", at(0))];
        all.extend((1..5).map(|n| (n, "10.0.0.66", at(n))));
        assert_eq!(victim(all.iter().copied(), 5), None, "there is room");
        assert_eq!(victim(all.iter().copied(), 4), Some(1));
    }
}
