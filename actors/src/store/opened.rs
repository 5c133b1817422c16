//! An open store: what lay there when it was opened, so that whoever stays notices that it is another one now, and what keeps the
//! connections of this process from taking each other's locks.
//!
//! POSIX locks are a process's: closing any descriptor of a file gives up all its locks on it. SQLite knows, and waits with closing; its
//! way without locks (`unix-none`) does not. So a connection of that kind is closed when no other of this process has the file open.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;

/// Device and inode.
type FileId = (u64, u64);

/// The connections of this process to one file: how many rely on locks, and those without that are to be closed after them.
#[derive(Default)]
struct Held {
    locking: usize,
    waiting: Vec<Connection>,
}

static HELD: Mutex<BTreeMap<FileId, Held>> = Mutex::new(BTreeMap::new());

/// A file as it lies there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    file: FileId,
    size: u64,
    modified: (i64, i64),
}

fn mark(path: &Path) -> Option<Mark> {
    let about = std::fs::metadata(path).ok()?;
    let modified = (about.mtime(), about.mtime_nsec());
    Some(Mark { file: (about.dev(), about.ino()), size: about.size(), modified })
}

/// The database, its log and what readers share. The last two change without meaning anything: they are there or not, or others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    store: Option<Mark>,
    log: Option<FileId>,
    shared: Option<FileId>,
}

impl Marks {
    pub(super) fn of(path: &Path) -> Marks {
        let file = |ending| mark(&beside(path, ending)).map(|mark| mark.file);
        Marks { store: mark(path), log: file("-wal"), shared: file("-shm") }
    }

    /// Of a store that others may write meanwhile.
    fn same_files(&self, now: &Marks) -> bool {
        self.shared == now.shared && self.store.map(|mark| mark.file) == now.store.map(|mark| mark.file)
    }
}

pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(ending);
    name.into()
}

/// How a connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Beside others.
    Shared,
    /// As nobody else has it open; in a way that knows of this process's locks, or that does not.
    Alone { lockless: bool },
}

/// A connection to a store.
pub struct Opened {
    connection: Connection,
    kind: Kind,
    file: Option<FileId>,
    path: PathBuf,
    marks: Marks,
}

impl Opened {
    /// `path` has no links in it; `marks` were taken before `connection` was made, which has read nothing so far.
    pub(super) fn new(connection: Connection, kind: Kind, path: PathBuf, marks: Marks) -> Opened {
        let file = mark(&path).map(|mark| mark.file);
        if let Some(file) = file.filter(|_| kind != (Kind::Alone { lockless: true })) {
            HELD.lock().unwrap_or_else(PoisonError::into_inner).entry(file).or_default().locking += 1;
        }
        Opened { connection, kind, file, path, marks }
    }

    /// True when nobody else had the store open.
    pub fn is_alone(&self) -> bool {
        self.kind != Kind::Shared
    }

    /// For readers that stay: true when what they read is no longer what lies there, because a run went on in a store that nobody had
    /// open, or its files are others.
    pub fn is_outdated(&self) -> bool {
        let now = Marks::of(&self.path);
        if self.is_alone() { now != self.marks } else { !self.marks.same_files(&now) }
    }
}

impl Deref for Opened {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Opened {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let Some(file) = self.file else { return };
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        if self.kind != (Kind::Alone { lockless: true }) {
            // It reads no more, so nothing is lost when those that waited for it are closed just before it.
            if let Some(of) = held.get_mut(&file) {
                of.locking = of.locking.saturating_sub(1);
                if of.locking == 0 {
                    held.remove(&file);
                }
            }
            return;
        }
        // It is closed here, while nobody can begin to rely on locks, or later.
        let Ok(none) = Connection::open_in_memory() else { return };
        let connection = std::mem::replace(&mut self.connection, none);
        match held.get_mut(&file) {
            Some(of) => of.waiting.push(connection),
            None => drop(connection),
        }
    }
}
