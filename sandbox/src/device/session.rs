//! An evaluation's own part of the device's referee.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use rollout::outcome::Fault;

use super::Device;
use crate::fault::{REFEREE_LOST, fault};

/// An evaluation's own part of the referee; closed when dropped.
pub(crate) struct Session {
    device: Arc<Device>,
    pub id: u64,
    /// The how manieth referee knows it.
    referee: AtomicU64,
}

impl Session {
    pub(super) fn new(device: &Arc<Device>) -> Session {
        let id = device.next_session.fetch_add(1, Ordering::Relaxed);
        Session { device: device.clone(), id, referee: AtomicU64::new(0) }
    }

    pub(crate) fn is_known_to(&self, referee: u64) {
        self.referee.store(referee, Ordering::Relaxed);
    }

    /// Fails where the referee that knows it is gone. Who asks before it waits, or leases the device, does not have others wait for
    /// something that cannot come to anything.
    pub(crate) fn known(&self) -> Result<(), Fault> {
        if self.referee.load(Ordering::Relaxed) == self.device.referees.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(fault(REFEREE_LOST, "its evaluation began under an earlier referee, which is gone"))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.device.closed.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
    }
}
