//! The one reader behind the web page, the terminal view and the exports: a run directory, read only, while the run
//! goes on, after it ended or crashed, or copied somewhere else.
//!
//! A viewer never writes to the run directory and never asks the run for anything; it reads the store in short
//! statements, which SQLite's log lets it do beside the writer.

pub mod alarms;
pub mod anatomy;
pub mod crew;
pub mod diff;
pub mod filter;
pub mod follow;
pub mod hacks;
mod indexer;
pub mod leases;
pub mod notes;
pub mod overview;
pub mod pace;
pub mod query;
pub mod table;
pub mod tasks;
mod texts;
pub mod totals;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use rollout::task::TaskSpec;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::config::Config;
use crate::errors::UserError;
use crate::store::{Reader, StoreError};
use follow::Follower;
use pace::{Pace, thread_cpu};
use table::Table;

/// How often a run is looked at, at most; and at least while a look reads everything that is new and takes no more than `SHORT`
/// of a processor: a page shows within a second what happened, however little of the machine is free. Longer looks are paced.
const EVERY: Duration = Duration::from_millis(200);
const LATEST: Duration = Duration::from_millis(225);
const SHORT: Duration = Duration::from_micros(1_500);
/// While everything new is read, but in long looks.
const LATEST_LONG: Duration = Duration::from_millis(300);
/// Whatever a look took.
const LONGEST_REST: Duration = Duration::from_secs(5);
/// New rollouts that one look reads, and while nobody waits for what is new.
const LOOK: usize = 2_000;
const FIRST_LOOK: usize = 10_000;
/// The lowest of priorities.
const NICE: i32 = 19;

/// Gives this thread's processor time away to whoever needs it, a run above all. Threads that it starts later do the same; where
/// it is not allowed nothing changes.
pub fn yield_to_the_run() {
    thread_local! {
        static DONE: Cell<bool> = const { Cell::new(false) };
    }
    if DONE.replace(true) {
        return;
    }
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "the priority stays");
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error("{0}")]
    User(#[from] UserError),
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// What changes while a run is followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulse {
    /// Rises with everything that is new.
    pub version: u64,
    pub rollouts: u64,
    /// Rollouts without an ending.
    pub open: u64,
    /// False until everything that was there has been read once.
    pub loaded: bool,
    /// Rollouts that are not read yet, where there is more than one look may read.
    #[serde(default)]
    pub behind: u64,
    /// When something changed last, milliseconds since the Unix epoch; `None` when nothing has since the viewer began.
    pub changed_at: Option<u64>,
    /// Why the store can no longer be read.
    pub trouble: Option<String>,
}

/// One run directory.
pub struct Run {
    dir: PathBuf,
    table: Arc<RwLock<Table>>,
    texts: Arc<indexer::Texts>,
    followed: AtomicBool,
    tasks: Vec<TaskSpec>,
    levels: Vec<(String, u8)>,
    config: Option<Config>,
    pulse: watch::Sender<Pulse>,
    tokenizer: OnceLock<Option<model::Tokenizer>>,
    notes: Mutex<notes::Notes>,
    compared: Mutex<tasks::AllCompared>,
    metrics: Mutex<overview::Metrics>,
    /// The last step in `metrics`; 0 before the first.
    newest_step: AtomicU64,
}

impl Run {
    /// Opens a run directory; rollouts are read by [`Run::catch_up`] or [`Run::follow`].
    ///
    /// # Errors
    /// No store, one that was never begun, another format, damaged tasks.
    pub fn open(dir: &Path) -> Result<Run, StoreError> {
        let reader = Reader::open(dir)?;
        // The bench's and some tests' stores have no tasks and no configuration; everything else of them can be seen.
        let tasks: Vec<TaskSpec> = match reader.meta("tasks")? {
            Some(text) => serde_json::from_str(&text)?,
            None => Vec::new(),
        };
        let config = reader.meta("config")?.and_then(|text| Config::as_stored(&text, dir).ok());
        Ok(Run {
            dir: dir.to_path_buf(),
            table: Arc::default(),
            texts: Arc::default(),
            followed: AtomicBool::new(false),
            levels: tasks.iter().map(|t| (t.id.0.clone(), t.level)).collect(),
            tasks,
            config,
            pulse: watch::Sender::default(),
            tokenizer: OnceLock::new(),
            notes: Mutex::default(),
            compared: Mutex::default(),
            metrics: Mutex::default(),
            newest_step: AtomicU64::new(0),
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn tasks(&self) -> &[TaskSpec] {
        &self.tasks
    }

    pub fn levels(&self) -> &[(String, u8)] {
        &self.levels
    }

    /// The run's own configuration; `None` where another version wrote it.
    pub fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    /// The short columns of all rollouts read so far.
    pub fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reader of its own for one question.
    pub fn reader(&self) -> Result<Reader, StoreError> {
        Reader::open(&self.dir)
    }

    /// The tokenizer of the policy, when the run directory has one.
    pub fn tokenizer(&self) -> Option<&model::Tokenizer> {
        let load = || {
            let inside = ["warm-start", crate::run::POLICY_DIR].map(|name| self.dir.join(name));
            let own = self.config.as_ref().and_then(|c| c.model.folder()).map(Path::to_path_buf);
            inside.into_iter().chain(own).find_map(|folder| model::Tokenizer::from_dir(&folder).ok())
        };
        self.tokenizer.get_or_init(load).as_ref()
    }

    /// Tells of every change.
    pub fn watch(&self) -> watch::Receiver<Pulse> {
        self.pulse.subscribe()
    }

    pub fn pulse(&self) -> Pulse {
        self.pulse.borrow().clone()
    }

    /// As if something were new.
    #[cfg(test)]
    pub fn touch(&self) {
        self.pulse.send_modify(|pulse| pulse.version += 1);
    }

    /// Reads everything that is there now.
    pub fn catch_up(&self) -> Result<(), StoreError> {
        let mut follower = Follower::open(&self.dir)?;
        while self.look(&mut follower)? {}
        Ok(())
    }

    /// Follows the run on a thread of its own until `stop`; a store that fails is tried again.
    pub fn follow(self: &Arc<Self>, stop: Arc<AtomicBool>) -> std::io::Result<std::thread::JoinHandle<()>> {
        let run = self.clone();
        self.followed.store(true, Ordering::Relaxed);
        std::thread::Builder::new().name("follow".into()).spawn(move || {
            yield_to_the_run();
            let (mut follower, mut pace) = (None, Pace::new());
            while !stop.load(Ordering::Relaxed) {
                let (began, cpu) = (Instant::now(), thread_cpu());
                let more = match &mut follower {
                    Some(follower) => run.look(follower),
                    None => Follower::open(&run.dir).and_then(|new| run.look(follower.insert(new))),
                };
                let work =
                    thread_cpu().zip(cpu).map_or_else(|| began.elapsed(), |(now, then)| now.saturating_sub(then));
                let latest = if work <= SHORT { LATEST } else { LATEST_LONG };
                let (least, most) = match more {
                    // What was there at the start is read at once: it is little beside what the run took for it.
                    Ok(true) if !run.pulse.borrow().loaded => continue,
                    Ok(true) => (Duration::ZERO, LONGEST_REST),
                    Ok(false) => (EVERY, latest),
                    Err(error) => {
                        follower = None;
                        run.pulse.send_if_modified(|p| {
                            let trouble = Some(error.to_string());
                            let new = p.trouble != trouble;
                            p.trouble = trouble;
                            p.version += u64::from(new);
                            new
                        });
                        (EVERY, LATEST_LONG)
                    }
                };
                std::thread::sleep(pace.rest_after(work).clamp(least, most));
            }
        })
    }

    /// Has the index of answers built further, in a viewer that stays; how many answers are in it.
    fn want_texts(&self) -> Option<u64> {
        if !self.followed.load(Ordering::Relaxed) {
            return None;
        }
        self.texts.want(&self.table, &self.dir);
        Some(self.texts.index.read().unwrap_or_else(PoisonError::into_inner).len() as u64)
    }

    /// What the index says of `answer ~ text`.
    fn texts_known(&self, text: &str, rows: usize, until: Instant) -> Option<filter::Known> {
        self.texts.index.read().unwrap_or_else(PoisonError::into_inner).known(text, rows, until)
    }

    /// Looks once; true when there is more to read at once.
    fn look(&self, follower: &mut Follower) -> Result<bool, StoreError> {
        let loaded = self.pulse.borrow().loaded;
        let change = follower.look(&self.table, if loaded { LOOK } else { FIRST_LOOK })?;
        let rollouts = self.table().len() as u64;
        self.pulse.send_if_modified(|p| {
            let first = !p.loaded && !change.more;
            let new = change.any || change.rollouts > 0 || first || p.trouble.is_some() || p.behind != change.behind;
            if new {
                // What was there at the start is no news.
                let changed_at = if p.loaded && change.any { Some(crate::flow::wall_ms()) } else { p.changed_at };
                *p = Pulse {
                    version: p.version + 1,
                    rollouts,
                    open: follower.open_count() as u64,
                    loaded: p.loaded || !change.more,
                    behind: change.behind,
                    changed_at,
                    trouble: None,
                };
            }
            new
        });
        Ok(change.more)
    }
}
