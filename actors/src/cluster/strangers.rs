//! Connections that have proved nothing yet: ended after a while, and where they crowd, those of the host that has most.
//!
//! ractor_cluster waits for ever for a proof, and takes in as many as come.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ractor::{ActorId, ActorRef};
use ractor_cluster::NodeSessionMessage;

/// A connection that has not proved the cookie by then is ended.
const LIMIT: Duration = Duration::from_secs(5);
/// So many at once; one more ends the oldest of the host that has most, so that a flood from one host keeps no other out.
const CROWD: usize = 64;

struct Stranger {
    since: Instant,
    host: String,
    session: ActorRef<NodeSessionMessage>,
    /// Told to end; its end is on the way.
    ended: bool,
}

#[derive(Default)]
pub struct Strangers(HashMap<ActorId, Stranger>);

impl Strangers {
    pub fn opened(&mut self, id: ActorId, session: ActorRef<NodeSessionMessage>, from: &str) {
        let host = from.rsplit_once(':').map_or(from, |(host, _)| host).to_string();
        self.0.insert(id, Stranger { since: Instant::now(), host, session, ended: false });
        let open = |s: &&mut Stranger| !s.ended;
        let entries = self.0.iter().filter(|(_, s)| !s.ended).map(|(id, s)| (*id, s.host.as_str(), s.since));
        if let Some(id) = victim(entries, CROWD)
            && let Some(stranger) = self.0.get_mut(&id).filter(open)
        {
            stranger.end("too many connections without a proof of the cookie");
        }
    }

    /// Whether it was one; it has proved the cookie, or is gone.
    pub fn remove(&mut self, id: ActorId) -> bool {
        self.0.remove(&id).is_some()
    }

    /// Ends those that have had their time.
    pub fn end_late(&mut self) {
        let late = |s: &&mut Stranger| !s.ended && s.since.elapsed() >= LIMIT;
        self.0.values_mut().filter(late).for_each(|s| s.end("no proof of the cookie in time"));
    }
}

impl Stranger {
    fn end(&mut self, why: &str) {
        self.ended = true;
        self.session.stop(Some(why.into()));
    }
}

/// Of more than `most`: the oldest of the host that has most.
fn victim<'a, I: Copy>(strangers: impl Iterator<Item = (I, &'a str, Instant)>, most: usize) -> Option<I> {
    let all: Vec<(I, &str, Instant)> = strangers.collect();
    if all.len() <= most {
        return None;
    }
    let mut hosts: HashMap<&str, usize> = HashMap::new();
    all.iter().for_each(|(_, host, _)| *hosts.entry(host).or_default() += 1);
    let (crowded, _) = hosts.into_iter().max_by_key(|(host, n)| (*n, *host))?;
    all.iter().filter(|(_, host, _)| *host == crowded).min_by_key(|(_, _, since)| *since).map(|(id, ..)| *id)
}

#[cfg(test)]
mod tests {
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
