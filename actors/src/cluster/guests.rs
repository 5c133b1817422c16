//! Connections to the side channel: so many at once, and where there are more, those that have proved nothing go first, the oldest of the
//! host that has most of them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::task::{AbortHandle, JoinSet};

use super::crowd::victim;

/// Connections at once.
const PLACES: usize = 128;

/// Whether a connection has shown the cookie.
#[derive(Clone, Debug, Default)]
pub struct Proved(Arc<AtomicBool>);

impl Proved {
    pub fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct Guest {
    task: AbortHandle,
    proved: Proved,
    host: IpAddr,
    since: Instant,
}

/// All connections; they end with it.
#[derive(Default)]
pub struct Guests {
    tasks: JoinSet<()>,
    here: Vec<Guest>,
}

impl Guests {
    /// Waits until one more fits: at once where one that has proved nothing can go, else until somebody has ended.
    pub async fn make_room(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        self.here.retain(|guest| !guest.task.is_finished());
        if self.here.len() < PLACES {
            return;
        }
        let strangers = self.here.iter().enumerate().filter(|(_, guest)| !guest.proved.is());
        if let Some(n) = victim(strangers.map(|(n, guest)| (n, guest.host, guest.since)), 0) {
            self.here.remove(n).task.abort();
            return;
        }
        // Each has a limit of its own, so this ends.
        self.tasks.join_next().await;
        self.here.retain(|guest| !guest.task.is_finished());
    }

    pub fn admit(&mut self, proved: Proved, host: IpAddr, connection: impl Future<Output = ()> + Send + 'static) {
        let task = self.tasks.spawn(connection);
        self.here.push(Guest { task, proved, host, since: Instant::now() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Planted: the oldest goes, whoever it is. Seen: the node's transfer is cut.
    #[tokio::test]
    async fn who_has_proved_the_cookie_is_not_crowded_out() {
        let mut guests = Guests::default();
        let node = Proved::default();
        node.now();
        let host = |n: u8| IpAddr::from([127, 0, 0, n]);
        guests.admit(node, host(1), std::future::pending());
        // This one has not shown its proof yet: a flood from elsewhere leaves it the time.
        guests.admit(Proved::default(), host(1), std::future::pending());
        for _ in 0..3 * PLACES {
            guests.make_room().await;
            guests.admit(Proved::default(), host(2), std::future::pending());
        }
        assert_eq!(guests.here.len(), PLACES);
        assert!(guests.here[0].proved.is() && !guests.here[0].task.is_finished());
        assert!(guests.here[1].host == host(1) && !guests.here[1].task.is_finished());
        assert!(guests.here[1..].iter().all(|guest| !guest.proved.is()));
    }
}
