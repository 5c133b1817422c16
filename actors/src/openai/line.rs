//! What the requests of one sampler share: the server, the version that counts, and the gate that a reload closes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model::sampling::Sampling;
use rollout::id::PolicyVersion;
use tokio::sync::{Semaphore, watch};

use super::answer::Bounds;
use super::setup::Setup;

/// How often a wait looks whether the gate is still closed.
const SLICE: Duration = Duration::from_millis(100);

pub struct Line {
    pub setup: Arc<Setup>,
    pub bounds: Bounds,
    pub sampling: Sampling,
    /// `generator.max_batch`; fair, so that answers are asked for in order.
    pub seats: Semaphore,
    /// The policy version that a chunk which arrives now was sampled under.
    counting: watch::Sender<PolicyVersion>,
    open: watch::Sender<bool>,
    /// The server may be another process than the one that loaded our weights.
    lost: AtomicBool,
    /// When the last chunk of any answer arrived: milliseconds after `since`.
    heard_ms: AtomicU64,
    since: Instant,
    /// The version that was written last for the server to load.
    written: Mutex<Option<PolicyVersion>>,
    /// Why a control request failed, the last time one did.
    failure: Mutex<Option<String>>,
}

/// The server was silent for too long.
pub struct Silent;

impl Line {
    pub fn new(setup: Arc<Setup>, bounds: Bounds, sampling: Sampling, policy: PolicyVersion) -> Line {
        Line {
            seats: Semaphore::new(setup.concurrency),
            setup,
            bounds,
            sampling,
            counting: watch::Sender::new(policy),
            open: watch::Sender::new(true),
            lost: AtomicBool::new(false),
            heard_ms: AtomicU64::new(0),
            since: Instant::now(),
            written: Mutex::new(None),
            failure: Mutex::new(None),
        }
    }

    pub fn counting(&self) -> PolicyVersion {
        *self.counting.borrow()
    }

    /// From now on chunks are of this version.
    pub fn count(&self, policy: PolicyVersion) {
        self.counting.send_replace(policy);
    }

    /// Waits until this version or a newer one counts.
    pub async fn counted(&self, least: PolicyVersion) {
        // As in [`Line::opened`].
        let _ = self.counting.subscribe().wait_for(|counting| *counting >= least).await;
    }

    /// No new request goes out, and silence is not held against the server, until [`Line::open`].
    pub fn close(&self) {
        self.open.send_replace(false);
    }

    /// Unless the server was lost meanwhile.
    pub fn open(&self) {
        self.open.send_modify(|open| *open = !self.lost.load(Ordering::SeqCst));
    }

    pub async fn opened(&self) {
        // Fails when the sender is gone, and this is its owner.
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }

    /// The server was away, or has weights that are not ours: it has to load them again before it is asked for anything.
    pub fn lose(&self) {
        if self.setup.reload.is_some() {
            self.lost.store(true, Ordering::SeqCst);
            self.close();
        }
    }

    /// Whether it was lost since the last call.
    pub fn take_lost(&self) -> bool {
        self.lost.swap(false, Ordering::SeqCst)
    }

    /// Whether this version's folder was written for this sampler, whole.
    pub fn wrote(&self, policy: PolicyVersion) -> bool {
        *lock(&self.written) == Some(policy)
    }

    pub fn note_written(&self, policy: PolicyVersion) {
        *lock(&self.written) = Some(policy);
    }

    pub fn note_failure(&self, why: Option<String>) {
        *lock(&self.failure) = why;
    }

    pub fn last_failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// A chunk arrived; the version it counts for.
    pub fn heard(&self) -> PolicyVersion {
        self.heard_ms.store(self.since.elapsed().as_millis() as u64, Ordering::SeqCst);
        self.counting()
    }

    /// How long no chunk has arrived.
    pub fn quiet_for(&self) -> Duration {
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::SeqCst));
        self.since.elapsed().saturating_sub(heard)
    }

    /// Waits for `work` as long as the server may be silent, a closed gate not counted.
    pub async fn patient<T>(&self, work: impl Future<Output = T>) -> Result<T, Silent> {
        tokio::pin!(work);
        let mut left = self.setup.timeout;
        while !left.is_zero() {
            let slice = SLICE.min(left);
            if let Ok(done) = tokio::time::timeout(slice, &mut work).await {
                return Ok(done);
            }
            if *self.open.borrow() {
                left -= slice;
            }
        }
        Err(Silent)
    }
}

/// What is kept is whole at any time, whoever panicked beside it.
fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
