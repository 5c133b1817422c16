//! The run's memory: one SQLite file (WAL) per run directory, written by one thread, readable by anyone meanwhile.
//!
//! `docs/store.md` documents the schema. Writing goes through [`writer::StoreHandle`] only: operations of one batch
//! reach the file together or not at all, in the order they were sent.

pub mod notes_reader;
mod opened;
pub mod pack;
pub mod reader;
pub mod rows;
pub mod schema;
pub mod writer;

use std::path::{Path, PathBuf};

pub use opened::Opened;
pub use reader::Reader;
pub use rows::{FaultRow, HappeningRow, Op, PhaseTag, RowPatch, SampleRow, SpanRow, StepRow, TokenScores};
pub use writer::{StoreConfig, StoreHandle, Writer};

/// The store's file name in a run directory.
pub const FILE: &str = "run.sqlite";
/// One JSON object per optimizer step, beside the store.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// Where the store of a run directory is.
pub fn path(run_dir: &Path) -> PathBuf {
    run_dir.join(FILE)
}

/// True when the run directory holds a run: a store with a configuration. One without is what a process left that was
/// killed before its first commit; the next `troupe run` takes it over.
pub fn holds_run(run_dir: &Path) -> Result<bool, StoreError> {
    match Reader::open(run_dir) {
        Ok(reader) => Ok(reader.meta("config")?.is_some()),
        Err(StoreError::Missing(_) | StoreError::Unbegun(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Why the store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("no run in {0}: {FILE} is missing (a run directory is made by `troupe run`)")]
    Missing(PathBuf),
    #[error("{0} already holds a run: continue it with `troupe resume`, or name another directory with --run-dir")]
    Exists(PathBuf),
    /// The process that made it was killed before the configuration was in it: nothing was begun.
    #[error("the run in {0} was killed before it began: start it again with `troupe run --run-dir {0}`")]
    Unbegun(PathBuf),
    #[error("{path} has store format {found}, this program reads formats up to {expected}")]
    Format { path: PathBuf, found: String, expected: u32 },
    #[error("cannot open the store {path}: {source}")]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("the store failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("cannot write {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the store holds a damaged record: {0}")]
    Codec(#[from] crate::codec::CodecError),
    #[error("the store holds damaged text: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the store cannot be written: {reason}")]
    WriterGone { reason: String, disk_full: bool },
    #[error("the store's writer did not answer within {0} ms")]
    Stuck(u64),
    #[error("the store lacks {0}")]
    Incomplete(String),
    /// Read without locks, because nobody had it open: what was read may be half of the old and half of the new.
    #[error("the run in {0} went on while it was read")]
    WentOn(PathBuf),
}

impl StoreError {
    /// True when the disk is full (or its quota is used up): shown with its own hint.
    pub fn disk_full(&self) -> bool {
        match self {
            StoreError::Sqlite(e) | StoreError::Open { source: e, .. } => {
                e.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            StoreError::Io { source, .. } => crate::errors::disk_full(source),
            StoreError::WriterGone { disk_full, .. } => *disk_full,
            _ => false,
        }
    }
}
