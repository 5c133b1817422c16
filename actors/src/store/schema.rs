//! The tables, and opening the file with the settings both sides rely on.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::StoreError;

/// Rises with every change of the tables; a store of a later format is refused, never guessed at.
pub const FORMAT: u32 = 2;
/// The oldest format that is read: 2 only added tables, which a store of 1 does not have.
const OLDEST: u32 = 1;

/// How long a statement waits for another process's lock. Only a checkpoint or a foreign writer can hold one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Pages of the log (4 KiB) after which it is copied into the database: each copy costs two fsyncs.
const CHECKPOINT_PAGES: u32 = 8192;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS journal (seq_first INTEGER PRIMARY KEY, seq_last INTEGER NOT NULL, events BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS snapshots (next_seq INTEGER PRIMARY KEY, machine BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS prompts (task TEXT PRIMARY KEY, text TEXT NOT NULL, tokens BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rollouts (
  id INTEGER PRIMARY KEY,
  phase TEXT, grp INTEGER, task TEXT, seed INTEGER, state TEXT, attempt INTEGER,
  policy_oldest INTEGER, policy_newest INTEGER, spans TEXT,
  answer TEXT, finish TEXT, n_tokens INTEGER, plan_tokens INTEGER, tokens BLOB, logprobs BLOB,
  ruling TEXT, verdict TEXT, report TEXT,
  reward_plan REAL, reward_code REAL, adv_plan REAL, adv_code REAL,
  ending TEXT, step INTEGER, sampled_at INTEGER, ended_at INTEGER
);
CREATE INDEX IF NOT EXISTS rollouts_open ON rollouts (phase) WHERE ending IS NULL;
CREATE TABLE IF NOT EXISTS steps (
  step INTEGER PRIMARY KEY, policy INTEGER NOT NULL, applied INTEGER NOT NULL,
  report TEXT NOT NULL, batch TEXT NOT NULL, at INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS faults (
  id INTEGER PRIMARY KEY, rollout INTEGER, attempt INTEGER, code TEXT NOT NULL, message TEXT NOT NULL, at INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS spans (
  id INTEGER PRIMARY KEY, lane TEXT NOT NULL, rollout INTEGER, attempt INTEGER, began INTEGER NOT NULL, ended INTEGER,
  stages TEXT NOT NULL, ending TEXT
);
CREATE TABLE IF NOT EXISTS samples (id INTEGER PRIMARY KEY, at INTEGER NOT NULL, source TEXT NOT NULL, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS happenings (
  id INTEGER PRIMARY KEY, at INTEGER NOT NULL, actor TEXT NOT NULL, what TEXT NOT NULL, detail TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS token_scores (
  rollout INTEGER PRIMARY KEY, step INTEGER NOT NULL, logprobs BLOB NOT NULL, entropies BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS metrics (step INTEGER NOT NULL, name TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY (step, name)) WITHOUT ROWID;
";

/// In `meta`: when the run's newest process began, milliseconds since the Unix epoch.
pub const OPENED_AT: &str = "opened_at";

/// What a killed process was at goes on in nobody: it ended, for all that is known, at the last stage that it told.
const LOST: &str = "UPDATE spans SET ending = 'lost', ended = began + coalesce(json_extract(stages, '$[#-1][1]'), 0)
WHERE ended IS NULL";

/// Opens (or makes) the file for its one writer.
pub fn open_writer(path: &Path, max_pages: Option<u32>) -> Result<Connection, StoreError> {
    let open = |source| StoreError::Open { path: path.to_path_buf(), source };
    let connection = Connection::open(path).map_err(open)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(open)?;
    // Readers never block the writer, nor the writer them. A commit survives the death of this process; the fsync
    // that also survives a power cut is made at each barrier (writer.rs).
    connection.pragma_update(None, "journal_mode", "WAL").map_err(open)?;
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(open)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).map_err(open)?;
    if let Some(pages) = max_pages {
        connection.pragma_update(None, "max_page_count", pages).map_err(open)?;
    }
    // All tables and the format, or nothing: a process killed in here leaves an empty file.
    let transaction = connection.unchecked_transaction().map_err(open)?;
    transaction.execute_batch(TABLES).map_err(open)?;
    let format: Option<String> =
        transaction.query_row("SELECT (SELECT value FROM meta WHERE key = 'format')", [], |row| row.get(0))?;
    match format {
        None => {
            transaction.execute("INSERT INTO meta (key, value) VALUES ('format', ?1)", [FORMAT.to_string()])?;
        }
        Some(found) => {
            check_format(path, found)?;
            // The tables that an older store lacked were made above.
            transaction.execute("UPDATE meta SET value = ?1 WHERE key = 'format'", [FORMAT.to_string()])?;
        }
    }
    transaction.execute(LOST, []).map_err(open)?;
    let opened = "INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)";
    let at = crate::flow::wall_ms().to_string();
    transaction.execute(opened, [OPENED_AT, at.as_str()]).map_err(open)?;
    transaction.commit().map_err(open)?;
    Ok(connection)
}

/// Opens the file for reading, while a run writes it or after.
pub fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    if !path.is_file() {
        return Err(StoreError::Missing(path.parent().unwrap_or(path).to_path_buf()));
    }
    let open = |source| StoreError::Open { path: path.to_path_buf(), source };
    let count = |connection: &Connection| -> rusqlite::Result<i64> {
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))
    };
    // A connection is used by one thread at a time: it needs no locks of SQLite's.
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(open)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(open)?;
    let tables = match count(&connection) {
        // Where no file can be made (a copy on a read-only disk) SQLite has no place for what readers share.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) && log_is_empty(path) => {
            connection = open_immutable(path).map_err(open)?;
            count(&connection).map_err(open)?
        }
        found => found.map_err(open)?,
    };
    if tables == 0 {
        return Err(StoreError::Unbegun(path.parent().unwrap_or(path).to_path_buf()));
    }
    let found: String =
        connection.query_row("SELECT value FROM meta WHERE key = 'format'", [], |row| row.get(0)).map_err(open)?;
    check_format(path, found)?;
    Ok(connection)
}

/// True when everything is in the file itself.
fn log_is_empty(path: &Path) -> bool {
    let mut log = path.as_os_str().to_os_string();
    log.push("-wal");
    std::fs::metadata(log).map_or(true, |m| m.len() == 0)
}

/// A file that nobody writes: read without locks and without files beside it.
fn open_immutable(path: &Path) -> rusqlite::Result<Connection> {
    let path = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(format!("file:{path}?immutable=1"), flags)
}

fn check_format(path: &Path, found: String) -> Result<(), StoreError> {
    if found.parse().is_ok_and(|found: u32| (OLDEST..=FORMAT).contains(&found)) {
        return Ok(());
    }
    Err(StoreError::Format { path: path.to_path_buf(), found, expected: FORMAT })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_nobody_writes_is_read_whatever_its_folder_is_called() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a?b#c%20d.sqlite");
        drop(open_writer(&path, None).unwrap());
        assert!(log_is_empty(&path));
        let before = std::fs::read_dir(dir.path()).unwrap().count();
        let connection = open_immutable(&path).unwrap();
        let found: String =
            connection.query_row("SELECT value FROM meta WHERE key = 'format'", [], |row| row.get(0)).unwrap();
        assert_eq!(found, FORMAT.to_string());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), before, "nothing is made beside it");
    }
}
