//! Connections to the side channel: so many at once, and where there are more, those that have proved nothing go first, the oldest of the
//! host that has most of them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

use super::crowd::{host, victim};

/// Connections at once.
const PLACES: usize = 128;
/// For one whose turn is over to end its answer, before the next is asked to.
const ANSWER: Duration = Duration::from_secs(1);

/// Whether a connection has shown the cookie; and whether its turn is over.
#[derive(Clone, Debug, Default)]
pub struct Proved(Arc<Shown>);

#[derive(Debug, Default)]
struct Shown {
    proved: AtomicBool,
    over: Notify,
}

impl Proved {
    pub fn now(&self) {
        self.0.proved.store(true, Ordering::Relaxed);
    }

    pub fn is(&self) -> bool {
        self.0.proved.load(Ordering::Relaxed)
    }

    /// Somebody waits for its place.
    pub async fn over(&self) {
        self.0.over.notified().await;
    }
}

struct Guest {
    task: AbortHandle,
    proved: Proved,
    host: IpAddr,
    since: Instant,
}

async fn fewer(tasks: &mut JoinSet<()>) {
    while tasks.len() >= PLACES {
        tasks.join_next().await;
    }
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
        // Whoever is here longest goes with its present answer, and opens another connection for the rest; where that takes time, the next.
        for guest in &self.here {
            guest.proved.0.over.notify_one();
            if tokio::time::timeout(ANSWER, fewer(&mut self.tasks)).await.is_ok() {
                break;
            }
        }
        // Each has a limit of its own, so this ends.
        fewer(&mut self.tasks).await;
        self.here.retain(|guest| !guest.task.is_finished());
    }

    pub fn admit(&mut self, proved: Proved, from: IpAddr, connection: impl Future<Output = ()> + Send + 'static) {
        let task = self.tasks.spawn(connection);
        self.here.push(Guest { task, proved, host: host(from), since: Instant::now() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Should fail with (not tried): a newcomer waits for the end of a turn (as it was). then: nobody ends, and it waits for ever.
    #[tokio::test]
    async fn somebody_who_waits_ends_the_turn_of_whoever_is_here_longest() {
        let mut guests = Guests::default();
        let ended = Arc::<std::sync::Mutex<Vec<usize>>>::default();
        for n in 0..PLACES {
            let (proved, to) = (Proved::default(), ended.clone());
            proved.now();
            let turn = proved.clone();
            guests.admit(proved, IpAddr::from([10, 0, 0, 1]), async move {
                turn.over().await;
                // The first has a long answer under way.
                if n > 0 {
                    to.lock().unwrap().push(n);
                } else {
                    std::future::pending::<()>().await;
                }
            });
        }
        guests.make_room().await;
        assert_eq!((guests.here.len(), ended.lock().unwrap().clone()), (PLACES - 1, vec![1]));
    }

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
