//! The store's one writer: an owned thread behind a bounded channel.
//!
//! Batches are merged into one transaction, committed every `flush_ms` or `flush_ops` operations, or at a barrier.
//! The first error (a full disk, say) ends writing for good: nothing half-written stays, later batches are refused,
//! and the run is told once. A barrier also makes everything before it survive a power cut (fsync).

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, TrySendError, bounded};

use super::rows::Op;
use super::schema;
use super::{Opened, StoreError};
use transaction::Pending;

#[path = "notes.rs"]
mod notes;
#[path = "transaction.rs"]
mod transaction;

/// Settings of one writer.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Folder of `run.sqlite` and `metrics.jsonl`.
    pub run_dir: PathBuf,
    /// Longest time an operation waits before it is committed, milliseconds.
    pub flush_ms: u64,
    /// Operations that force a commit.
    pub flush_ops: usize,
    /// Batches that fit in the channel before the sender waits.
    pub channel_batches: usize,
    /// Longest time a sender waits for a full channel, milliseconds.
    pub send_deadline_ms: u64,
    /// Upper limit of the file in SQLite pages (4 KiB); `None` is the disk's own limit.
    pub max_pages: Option<u32>,
}

impl StoreConfig {
    pub fn new(run_dir: PathBuf) -> StoreConfig {
        StoreConfig {
            run_dir,
            flush_ms: 100,
            flush_ops: 8192,
            channel_batches: 256,
            send_deadline_ms: 60_000,
            max_pages: None,
        }
    }
}

/// How long the end of a run waits for readers that are in the middle of something.
const MERGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Called on the writer's thread when everything sent before the barrier is durable, or never will be.
pub type Ack = Box<dyn FnOnce(Result<(), String>) + Send>;
/// Called once, on the writer's thread, when writing failed for good.
pub type OnFailure = Box<dyn Fn(&StoreError) + Send>;

/// Why writing ended.
#[derive(Clone, Debug)]
struct Failure {
    reason: String,
    disk_full: bool,
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> StoreError {
        StoreError::WriterGone { reason: failure.reason, disk_full: failure.disk_full }
    }
}

enum Message {
    Batch(Vec<Op>),
    Barrier(Ack),
    Stop,
}

/// Owns the thread; dropping it commits what was sent and ends the thread.
pub struct Writer {
    handle: StoreHandle,
    thread: Option<JoinHandle<()>>,
}

/// Sends to the writer; cheap to clone.
#[derive(Clone)]
pub struct StoreHandle {
    sender: Sender<Message>,
    failure: Arc<OnceLock<Failure>>,
    send_deadline: Duration,
}

impl Writer {
    /// Opens the file (making it if it is not there) and starts the thread.
    pub fn start(config: StoreConfig, on_failure: OnFailure) -> Result<Writer, StoreError> {
        let connection = schema::open_writer(&super::path(&config.run_dir), config.max_pages)?;
        let pending = Pending::new()?;
        let (sender, receiver) = bounded(config.channel_batches);
        let failure = Arc::new(OnceLock::new());
        let handle = StoreHandle {
            sender,
            failure: failure.clone(),
            send_deadline: Duration::from_millis(config.send_deadline_ms),
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || Loop { connection, pending, config, receiver, failure, on_failure }.run())
            .map_err(|source| StoreError::Io { path: "store-writer thread".into(), source })?;
        Ok(Writer { handle, thread: Some(thread) })
    }

    pub fn handle(&self) -> StoreHandle {
        self.handle.clone()
    }

    /// Commits what was sent and ends the thread; the first failure of the run, if there was one.
    pub fn stop(mut self) -> Result<(), StoreError> {
        self.join();
        self.handle.check()
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.handle.sender.send_timeout(Message::Stop, self.handle.send_deadline);
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.join();
    }
}

impl StoreHandle {
    /// The reason why writing ended, if it did.
    pub fn check(&self) -> Result<(), StoreError> {
        match self.failure.get() {
            Some(failure) => Err(failure.clone().into()),
            None => Ok(()),
        }
    }

    /// Writes `ops` together. Waits (bounded) only when the channel is full: a slow disk slows the run down here.
    pub fn send(&self, ops: Vec<Op>) -> Result<(), StoreError> {
        if ops.is_empty() {
            return self.check();
        }
        self.post(Message::Batch(ops))
    }

    /// Writes `ops` together if there is room for them now, for what the run can do without; false where there was none.
    pub fn offer(&self, ops: Vec<Op>) -> bool {
        self.failure.get().is_none() && self.sender.try_send(Message::Batch(ops)).is_ok()
    }

    /// Batches that wait for the writer's thread.
    pub fn waiting(&self) -> usize {
        self.sender.len()
    }

    /// Calls `ack` once everything sent so far is durable.
    pub fn barrier(&self, ack: Ack) -> Result<(), StoreError> {
        self.post(Message::Barrier(ack))
    }

    /// Waits until everything sent so far is durable.
    pub fn flush(&self, deadline: Duration) -> Result<(), StoreError> {
        let (done, wait) = bounded(1);
        self.barrier(Box::new(move |result| {
            let _ = done.send(result);
        }))?;
        match wait.recv_timeout(deadline) {
            Ok(Ok(())) => Ok(()),
            // The recorded failure knows whether the disk is full.
            Ok(Err(reason)) => Err(self.check().err().unwrap_or(StoreError::WriterGone { reason, disk_full: false })),
            Err(_) => Err(StoreError::Stuck(deadline.as_millis() as u64)),
        }
    }

    fn post(&self, message: Message) -> Result<(), StoreError> {
        self.check()?;
        match self.sender.try_send(message) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(message)) => match self.sender.send_timeout(message, self.send_deadline) {
                Ok(()) => Ok(()),
                Err(SendTimeoutError::Timeout(_)) => Err(StoreError::Stuck(self.send_deadline.as_millis() as u64)),
                Err(SendTimeoutError::Disconnected(_)) => Err(thread_ended()),
            },
            Err(TrySendError::Disconnected(_)) => Err(thread_ended()),
        }
    }
}

fn thread_ended() -> StoreError {
    StoreError::WriterGone { reason: "its thread ended".into(), disk_full: false }
}

struct Loop {
    connection: Opened,
    pending: Pending,
    config: StoreConfig,
    receiver: Receiver<Message>,
    failure: Arc<OnceLock<Failure>>,
    on_failure: OnFailure,
}

impl Loop {
    fn run(mut self) {
        let period = Duration::from_millis(self.config.flush_ms);
        let mut flush_at: Option<Instant> = None;
        loop {
            let wait = flush_at.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(Instant::now()));
            match self.receiver.recv_timeout(wait) {
                Ok(Message::Batch(ops)) => {
                    if self.failure.get().is_some() {
                        continue;
                    }
                    flush_at.get_or_insert_with(|| Instant::now() + period);
                    self.pending.add(ops);
                    if self.pending.len() >= self.config.flush_ops {
                        self.commit(false);
                        flush_at = None;
                    }
                }
                Ok(Message::Barrier(ack)) => {
                    self.commit(true);
                    flush_at = None;
                    ack(self.failure.get().map_or(Ok(()), |failure| Err(failure.reason.clone())));
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.commit(false);
                    flush_at = None;
                }
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.commit(true);
                    self.merge_log();
                    return;
                }
            }
        }
    }

    fn commit(&mut self, durable: bool) {
        if self.failure.get().is_some() {
            return;
        }
        let result = self.pending.commit(&mut self.connection, durable).and_then(|lines| self.append_metrics(&lines));
        if let Err(error) = result {
            let _ = self.failure.set(Failure { reason: error.to_string(), disk_full: error.disk_full() });
            (self.on_failure)(&error);
        }
    }

    /// A viewer that is there when the run ends would leave the whole log behind: only the last one who closes a store merges it.
    fn merge_log(&self) {
        if self.failure.get().is_some() {
            return;
        }
        let merge = || -> rusqlite::Result<i64> {
            self.connection.busy_timeout(MERGE_TIMEOUT)?;
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        };
        match merge() {
            Ok(0) => {}
            // Nothing is lost: it is read where it is.
            late => tracing::debug!(?late, "the log is left beside the store"),
        }
    }

    fn append_metrics(&self, lines: &str) -> Result<(), StoreError> {
        if lines.is_empty() {
            return Ok(());
        }
        let path = self.config.run_dir.join(super::METRICS_FILE);
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(lines.as_bytes()))
            .map_err(|source| StoreError::Io { path, source })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rollout::completion::{Completion, Finish, PolicySpan};
    use rollout::event::{Ending, Event};
    use rollout::id::{Attempt, GroupId, PolicyVersion, RolloutId, StepId, TaskId};
    use rollout::journal::Record;
    use rollout::reward::Reward;
    use rusqlite::Connection;

    use super::*;
    use crate::store::Reader;
    use crate::store::rows::{EndingRow, PhaseTag, RowPatch};

    const LONG: Duration = Duration::from_secs(20);

    fn issued(id: u64) -> Op {
        let task = Arc::new(TaskId("t".into()));
        let patch =
            RowPatch::Issued { phase: PhaseTag::Train, group: GroupId(id / 4), task, seed: 9, attempt: Attempt(1) };
        Op::Row { rollout: RolloutId(id), patch }
    }

    fn row(id: u64, patch: RowPatch) -> Op {
        Op::Row { rollout: RolloutId(id), patch }
    }

    fn completion() -> Arc<Completion> {
        Arc::new(Completion {
            prompt_tokens: vec![1, 2],
            tokens: vec![5, 6, 7],
            logprobs: vec![-0.25, -1.5, -3.0e-7],
            spans: vec![
                PolicySpan { start: 0, policy: PolicyVersion(3) },
                PolicySpan { start: 2, policy: PolicyVersion(4) },
            ],
            finish: Finish::Length,
            text: crate::bench::standins::ANSWER.into(),
            plan_tokens: Some(2),
        })
    }

    fn tick(seq: u64) -> Op {
        Op::Journal(Record { seq, now_ms: 10 * seq, event: Event::Tick })
    }

    fn writer(dir: &std::path::Path, max_pages: Option<u32>, on_failure: OnFailure) -> Writer {
        let config = StoreConfig { max_pages, ..StoreConfig::new(dir.to_path_buf()) };
        Writer::start(config, on_failure).unwrap()
    }

    #[test]
    fn a_rollout_comes_back_whole_from_one_transaction_or_from_many() {
        for apart in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let writer = writer(dir.path(), None, Box::new(|_| {}));
            let handle = writer.handle();
            let prompt = Op::Prompt { task: TaskId("t".into()), text: "ask".into(), tokens: vec![1, 2] };
            let ending = EndingRow::Train(Ending::Trained(StepId(2)));
            let task = crate::bench::standins::tasks(1, rollout::task::Split::Train).remove(0);
            let ruling = Arc::new(reward::judge(&completion().text, &task.spec));
            for ops in [
                vec![prompt, issued(7)],
                vec![row(7, RowPatch::Sampled { completion: completion(), at_ms: 50 })],
                vec![row(7, RowPatch::Judged { ruling: ruling.clone() })],
                vec![row(7, RowPatch::Scored { reward: Reward { plan: 0.5, code: 1.0 } })],
                vec![row(7, RowPatch::Ended { ending, at_ms: 70 })],
            ] {
                handle.send(ops).unwrap();
                if apart {
                    handle.flush(LONG).unwrap();
                }
            }
            // A reader sees it while the writer is alive.
            handle.flush(LONG).unwrap();
            let found = Reader::open(dir.path()).unwrap().rollout(7).unwrap().unwrap();
            assert_eq!(found.completion.as_ref(), Some(&*completion()), "apart: {apart}");
            assert_eq!(found.prompt.as_deref(), Some("ask"));
            assert_eq!(found.ruling.as_ref(), Some(&*ruling), "the candidate's source too");
            assert_eq!(found.reward(), Some(Reward { plan: 0.5, code: 1.0 }));
            let s = &found.summary;
            assert_eq!((s.policy_oldest, s.policy_newest, s.step), (Some(3), Some(4), Some(2)));
            assert_eq!((s.state.as_str(), s.ending.as_deref()), ("ended", Some("trained")));
            assert_eq!((s.sampled_at, s.ended_at, s.group), (Some(50), Some(70), 1));
            writer.stop().unwrap();
        }
    }

    #[test]
    fn the_journal_comes_back_in_order_over_several_processes() {
        let dir = tempfile::tempdir().unwrap();
        for life in 0..3 {
            let writer = writer(dir.path(), None, Box::new(|_| {}));
            writer.handle().send((0..50).map(|n| tick(life * 50 + n)).collect()).unwrap();
            writer.stop().unwrap();
        }
        let reader = Reader::open(dir.path()).unwrap();
        let seqs: Vec<u64> = reader.journal_from(30).unwrap().iter().map(|r| r.seq).collect();
        assert_eq!(seqs, (30..150).collect::<Vec<_>>());
        assert_eq!(reader.last_clock_ms().unwrap(), 1490);
    }

    #[test]
    fn a_full_disk_stops_writing_once_and_what_was_committed_stays() {
        let dir = tempfile::tempdir().unwrap();
        let failures = Arc::new(AtomicUsize::new(0));
        let counted = failures.clone();
        // 60 pages of 4 KiB: room for the tables and a little more.
        let writer = writer(
            dir.path(),
            Some(60),
            Box::new(move |error| {
                assert!(error.disk_full(), "{error}");
                counted.fetch_add(1, Ordering::Relaxed);
            }),
        );
        let handle = writer.handle();
        handle.send(vec![tick(0), issued(0)]).unwrap();
        handle.flush(LONG).unwrap();
        let mut refused = None;
        for n in 1..2000u64 {
            let text = format!("{n}").repeat(800);
            let completion = Arc::new(Completion { text, ..(*completion()).clone() });
            let batch = vec![tick(n), issued(n), row(n, RowPatch::Sampled { completion, at_ms: 1 })];
            if let Err(error) = handle.send(batch).and_then(|()| handle.flush(LONG)) {
                refused = Some((n, error));
                break;
            }
        }
        let (at, error) = refused.expect("60 pages are not enough");
        assert!(error.to_string().contains("full"), "{error}");
        assert!(handle.send(vec![tick(9999)]).unwrap_err().disk_full(), "later batches are refused at once");
        assert!(writer.stop().is_err());
        assert_eq!(failures.load(Ordering::Relaxed), 1, "told once");
        // Everything before the failed batch is there, nothing of it is, and more can be written when there is room.
        let reader = Reader::open(dir.path()).unwrap();
        let seqs: Vec<u64> = reader.journal_from(0).unwrap().iter().map(|r| r.seq).collect();
        assert_eq!(seqs, (0..at).collect::<Vec<_>>());
        assert!(reader.rollout(at).unwrap().is_none());
        assert!(reader.rollout(at - 1).unwrap().is_some());
        let again = self::writer(dir.path(), None, Box::new(|_| {}));
        again.handle().send(vec![tick(at), issued(at)]).unwrap();
        again.stop().unwrap();
        assert!(Reader::open(dir.path()).unwrap().rollout(at).unwrap().is_some());
    }

    /// Only the last one who closes a store merges its log.
    #[test]
    fn the_log_is_empty_at_the_end_whoever_looks() {
        let dir = tempfile::tempdir().unwrap();
        let writer = writer(dir.path(), None, Box::new(|_| {}));
        writer.handle().send((0..50).map(tick).collect()).unwrap();
        writer.handle().flush(LONG).unwrap();
        let reader = Reader::open(dir.path()).unwrap();
        writer.stop().unwrap();
        let log = dir.path().join("run.sqlite-wal");
        assert_eq!(std::fs::metadata(&log).map_or(0, |m| m.len()), 0);
        assert!(!reader.is_outdated() && reader.journal_from(0).unwrap().len() == 50);
    }

    #[test]
    fn another_format_and_a_missing_run_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Reader::open(dir.path()), Err(StoreError::Missing(_))));
        writer(dir.path(), None, Box::new(|_| {})).stop().unwrap();
        let path = crate::store::path(dir.path());
        Connection::open(&path).unwrap().execute("UPDATE meta SET value = '999' WHERE key = 'format'", []).unwrap();
        assert!(matches!(Reader::open(dir.path()), Err(StoreError::Format { found, .. }) if found == "999"));
        let start = Writer::start(StoreConfig::new(dir.path().to_path_buf()), Box::new(|_| {}));
        assert!(matches!(start, Err(StoreError::Format { .. })));
    }
}
