//! What a run notes beside its results, for those who look at it: which lane did what when, what sources said once a second,
//! what happened to actors and nodes.
//!
//! A run can do without any of it, so it never waits for it: entries are collected in memory (bounded) and offered to the
//! store a few times a second by a thread of its own; where there is no room they are dropped and counted. The present (`now`) is kept
//! in memory besides: it can be asked for when nothing else answers.

mod gpus;
mod now;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::flow::wall_ms;
use crate::store::rows::{HappeningRow, Op, SampleRow, SpanRow};
use crate::store::{StoreError, StoreHandle};

pub use gpus::{GpuSource, Sampler};
use now::Now;

/// How often entries are offered to the store.
const EVERY: Duration = Duration::from_millis(200);
/// Entries that wait at most; more are dropped.
const WAITING_MAX: usize = 8192;
/// Stages kept of one span.
const STAGES_MAX: usize = 64;

/// Where entries go; cheap to clone. The default one forgets everything.
#[derive(Clone, Default)]
pub struct Logbook(Option<Arc<Book>>);

struct Book {
    /// A node has none: what it notes is of the present only.
    store: Option<StoreHandle>,
    now: Mutex<Now>,
    next: AtomicU64,
    dropped: AtomicU64,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// By id: only the newest word on each.
    spans: BTreeMap<u64, SpanRow>,
    others: Vec<Op>,
}

impl Waiting {
    fn is_full(&self) -> bool {
        self.spans.len() + self.others.len() >= WAITING_MAX
    }
}

impl Book {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> std::sync::MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(&self) {
        let Some(store) = &self.store else { return };
        let waiting = std::mem::take(&mut *self.lock());
        let ops: Vec<Op> = waiting.spans.into_values().map(Op::Span).chain(waiting.others).collect();
        let count = ops.len() as u64;
        if count > 0 && !store.offer(ops) {
            self.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }
}

impl Book {
    fn note(&self, op: Op) {
        if self.store.is_none() {
            return;
        }
        let mut waiting = self.lock();
        match waiting.is_full() {
            true => drop(self.dropped.fetch_add(1, Ordering::Relaxed)),
            false => waiting.others.push(op),
        }
    }
}

impl Drop for Book {
    fn drop(&mut self) {
        self.offer();
    }
}

impl Logbook {
    /// One that writes to the store until its last clone is gone.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(store: StoreHandle) -> Result<Logbook, StoreError> {
        // Later processes of a run count on from a later time.
        let next = AtomicU64::new(wall_ms() * 1000);
        let book = Arc::new(Book {
            store: Some(store),
            now: Mutex::default(),
            next,
            dropped: AtomicU64::new(0),
            waiting: Mutex::default(),
        });
        let weak = Arc::downgrade(&book);
        let work = move || {
            loop {
                std::thread::sleep(EVERY);
                let Some(book) = weak.upgrade() else { return };
                book.offer();
            }
        };
        std::thread::Builder::new()
            .name("logbook".into())
            .spawn(work)
            .map_err(|source| StoreError::Io { path: "logbook thread".into(), source })?;
        Ok(Logbook(Some(book)))
    }

    /// One that keeps the present in memory and nothing else.
    pub fn in_memory() -> Logbook {
        let (next, dropped) = (AtomicU64::new(0), AtomicU64::new(0));
        Logbook(Some(Arc::new(Book { store: None, now: Mutex::default(), next, dropped, waiting: Mutex::default() })))
    }

    /// To look at the present with; it does not keep the logbook.
    pub fn glance(&self) -> Glance {
        Glance(self.0.as_ref().map_or_else(Weak::new, Arc::downgrade))
    }

    /// Entries that found no room.
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |book| book.dropped.load(Ordering::Relaxed))
    }

    /// `lane` begins to work, for a rollout where there is one.
    pub fn begin(&self, lane: impl Into<String>, rollout: Option<u64>, attempt: Option<u32>) -> Span {
        let id = self.0.as_ref().map_or(0, |book| book.next.fetch_add(1, Ordering::Relaxed));
        let row = SpanRow { id, lane: lane.into(), rollout, attempt, began_ms: wall_ms(), ..SpanRow::default() };
        let began = Instant::now();
        self.put(began, &row);
        Span { began, row, book: self.clone() }
    }

    pub fn sample(&self, source: impl Into<String>, value: serde_json::Value) {
        let Some(book) = &self.0 else { return };
        let source = source.into();
        book.now().sample(&source, &value);
        book.note(Op::Sample(SampleRow { at_ms: wall_ms(), source, value }));
    }

    /// Something happened to an actor or a node.
    pub fn happened(&self, actor: impl Into<String>, what: &str, detail: impl Into<String>) {
        let Some(book) = &self.0 else { return };
        let (actor, what, detail) = (actor.into(), what.to_string(), detail.into());
        let row = HappeningRow { at_ms: wall_ms(), actor, what, detail };
        book.now().happened(row.clone());
        book.note(Op::Happening(row));
    }

    fn put(&self, began: Instant, row: &SpanRow) {
        let Some(book) = &self.0 else { return };
        book.now().span(began, row);
        if book.store.is_none() {
            return;
        }
        let mut waiting = book.lock();
        if waiting.is_full() && !waiting.spans.contains_key(&row.id) {
            book.dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            waiting.spans.insert(row.id, row.clone());
        }
    }
}

/// A look at a logbook, for as long as there is one.
#[derive(Clone, Default)]
pub struct Glance(Weak<Book>);

impl Glance {
    /// What goes on, what sources said last, what happened to whom; `None` where the logbook is gone.
    pub fn state(&self) -> Option<serde_json::Value> {
        let book = self.0.upgrade()?;
        let state = book.now().state();
        Some(state)
    }
}

/// Work that goes on. Dropped before it ended, it is noted as `lost`.
pub struct Span {
    began: Instant,
    row: SpanRow,
    book: Logbook,
}

impl Span {
    /// The work enters a stage.
    pub fn stage(&mut self, name: &str) {
        if self.row.stages.len() < STAGES_MAX {
            self.row.stages.push((name.to_string(), self.began.elapsed().as_millis() as u64));
            self.book.put(self.began, &self.row);
        }
    }

    /// The work is over: `report`, `step`, or a fault's code.
    pub fn end(mut self, ending: &str) {
        self.close(ending);
    }

    fn close(&mut self, ending: &str) {
        if self.row.ended_ms.is_none() {
            self.row.ended_ms = Some(self.row.began_ms + self.began.elapsed().as_millis() as u64);
            self.row.ending = Some(ending.to_string());
            self.book.put(self.began, &self.row);
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.close("lost");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Reader, StoreConfig, Writer};

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn spans_samples_and_happenings_reach_the_store_and_an_unended_span_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Writer::start(StoreConfig::new(dir.path().to_path_buf()), Box::new(|_| {})).unwrap();
        let book = Logbook::start(writer.handle()).unwrap();
        let mut done = book.begin("executor 0", Some(7), Some(1));
        done.stage("compile");
        done.stage("run");
        let open = book.begin("executor 1", Some(8), Some(2));
        done.end("report");
        book.sample("pool", serde_json::json!({ "queued": 3 }));
        book.happened("executor 1", "died", "killed");
        let seen = |reader: &Reader| reader.newest_spans(10).unwrap();
        // While it goes on.
        let until = Instant::now() + LONG;
        let reader = loop {
            let reader = Reader::open(dir.path()).unwrap();
            // On a machine that stalls a span is written before it ends, and once more then.
            let spans = seen(&reader);
            if spans.len() == 2 && spans[0].ending.is_some() {
                break reader;
            }
            assert!(Instant::now() < until, "the spans never came");
            std::thread::sleep(Duration::from_millis(10));
        };
        let spans = seen(&reader);
        assert_eq!((spans[0].rollout, spans[0].ending.as_deref()), (Some(7), Some("report")));
        let stages: Vec<&str> = spans[0].stages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(stages, ["compile", "run"]);
        assert_eq!((spans[1].ended_ms, &spans[1].ending), (None, &None));
        assert_eq!(reader.spans_of_rollout(8).unwrap(), spans[1..]);
        assert_eq!(reader.spans_after(spans[0].id, 10).unwrap(), spans[1..]);
        drop((open, book));
        writer.stop().unwrap();
        let reader = Reader::open(dir.path()).unwrap();
        assert_eq!(seen(&reader)[1].ending.as_deref(), Some("lost"));
        assert_eq!(reader.samples_after(0, 10).unwrap()[0].row.value["queued"], 3);
        assert_eq!(reader.happenings_after(0, 10).unwrap()[0].row.what, "died");
    }

    #[test]
    fn what_a_killed_process_was_at_is_lost_once_its_run_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let start = || Writer::start(StoreConfig::new(dir.path().to_path_buf()), Box::new(|_| {})).unwrap();
        let span = |id: u64, stages: &[(&str, u64)]| SpanRow {
            id,
            lane: format!("executor {id}"),
            began_ms: 1_000,
            stages: stages.iter().map(|(name, at)| (name.to_string(), *at)).collect(),
            ..SpanRow::default()
        };
        let ended = SpanRow { ended_ms: Some(1_500), ending: Some("report".into()), ..span(3, &[]) };
        let writer = start();
        let open = [span(1, &[]), span(2, &[("compile", 10), ("run", 70)])];
        writer.handle().send(open.into_iter().chain([ended]).map(Op::Span).collect()).unwrap();
        writer.stop().unwrap();
        let seen = || -> Vec<(Option<u64>, Option<String>)> {
            let spans = Reader::open(dir.path()).unwrap().newest_spans(10).unwrap();
            spans.into_iter().map(|s| (s.ended_ms, s.ending)).collect()
        };
        assert_eq!(seen()[..2], [(None, None), (None, None)]);
        start().stop().unwrap();
        let lost = || Some("lost".to_string());
        assert_eq!(seen(), [(Some(1_000), lost()), (Some(1_070), lost()), (Some(1_500), Some("report".into()))]);
    }

    #[test]
    fn the_newest_are_kept_and_what_finds_no_room_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Writer::start(StoreConfig::new(dir.path().to_path_buf()), Box::new(|_| {})).unwrap();
        let handle = writer.handle();
        let count = 12_000;
        let happening = |n: u64| {
            Op::Happening(HappeningRow { at_ms: n, actor: String::new(), what: String::new(), detail: String::new() })
        };
        for n in 0..count {
            handle.send(vec![happening(n)]).unwrap();
        }
        handle.flush(LONG).unwrap();
        let left = Reader::open(dir.path()).unwrap().happenings_after(0, 20_000).unwrap();
        assert!(left.len() < 12_000 && left.len() >= 10_000, "{}", left.len());
        assert_eq!(left.last().unwrap().row.at_ms, count - 1);
        let book = Logbook::start(handle).unwrap();
        for _ in 0..3 * WAITING_MAX {
            book.happened("a", "b", "");
        }
        assert!(book.dropped() > 0);
        assert_eq!(Logbook::default().begin("executor 0", None, None).row.id, 0, "without a store nothing is kept");
    }
}
