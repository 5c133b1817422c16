//! Connections that have proved nothing yet: ended after a while, and where they crowd, those of the host that has most.
//!
//! ractor_cluster waits for ever for a proof, and takes in as many as come.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ractor::{ActorId, ActorRef};
use ractor_cluster::NodeSessionMessage;

use super::crowd::{host, victim};

/// A connection that has not proved the cookie by then is ended.
const LIMIT: Duration = Duration::from_secs(5);
/// So many at once; one more ends the oldest of the host that has most, so that a flood from one host keeps no other out.
const CROWD: usize = 64;

struct Stranger {
    since: Instant,
    /// Nothing where it has no address.
    host: Option<IpAddr>,
    session: ActorRef<NodeSessionMessage>,
    /// Told to end; its end is on the way.
    ended: bool,
}

#[derive(Default)]
pub struct Strangers(HashMap<ActorId, Stranger>);

impl Strangers {
    pub fn opened(&mut self, id: ActorId, session: ActorRef<NodeSessionMessage>, from: &str) {
        let host = from.parse().ok().map(|from: SocketAddr| host(from.ip()));
        self.0.insert(id, Stranger { since: Instant::now(), host, session, ended: false });
        let open = |s: &&mut Stranger| !s.ended;
        let entries = self.0.iter().filter(|(_, s)| !s.ended).map(|(id, s)| (*id, s.host, s.since));
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
