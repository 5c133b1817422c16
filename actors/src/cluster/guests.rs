//! Connections to the side channel: so many at once, and where there are more, those that have proved nothing go first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::{AbortHandle, JoinSet};

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

/// All connections; they end with it.
#[derive(Default)]
pub struct Guests {
    tasks: JoinSet<()>,
    /// Oldest first.
    here: Vec<(AbortHandle, Proved)>,
}

impl Guests {
    /// Waits until one more fits: at once where one that has proved nothing can go, else until somebody has ended.
    pub async fn make_room(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        self.here.retain(|(task, _)| !task.is_finished());
        if self.here.len() < PLACES {
            return;
        }
        if let Some(n) = self.here.iter().position(|(_, proved)| !proved.is()) {
            self.here.remove(n).0.abort();
            return;
        }
        // Each has a limit of its own, so this ends.
        self.tasks.join_next().await;
        self.here.retain(|(task, _)| !task.is_finished());
    }

    pub fn admit(&mut self, proved: Proved, connection: impl Future<Output = ()> + Send + 'static) {
        let task = self.tasks.spawn(connection);
        self.here.push((task, proved));
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
        guests.admit(node, std::future::pending());
        for _ in 0..3 * PLACES {
            guests.make_room().await;
            guests.admit(Proved::default(), std::future::pending());
        }
        assert_eq!(guests.here.len(), PLACES);
        assert!(guests.here[0].1.is() && !guests.here[0].0.is_finished());
        assert!(guests.here[1..].iter().all(|(_, proved)| !proved.is()));
    }
}
