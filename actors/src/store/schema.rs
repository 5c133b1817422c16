//! The tables, and opening the file with the settings both sides rely on.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::StoreError;
use super::opened::{Kind, Marks, Opened, beside};

/// Rises with every change of the tables; a store of a later format is refused, never guessed at.
pub const FORMAT: u32 = 3;
/// The oldest format that is read: 2 and 3 only added tables, which a store of 1 does not have.
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
CREATE TABLE IF NOT EXISTS token_fates (rollout INTEGER PRIMARY KEY, step INTEGER NOT NULL, fates BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS metrics (step INTEGER NOT NULL, name TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY (step, name)) WITHOUT ROWID;
";

/// In `meta`: when the run's newest process began, milliseconds since the Unix epoch.
pub const OPENED_AT: &str = "opened_at";

/// In `meta` of a store that was begun before format 3: the last step of which it is not known what the correction left out.
pub const FATES_FROM: &str = "fates_from";
const WITHOUT_FATES: &str = "INSERT OR REPLACE INTO meta (key, value) SELECT ?1, coalesce(max(step), 0)
FROM (SELECT max(step) AS step FROM steps UNION ALL SELECT max(step) FROM token_scores)";

/// What a killed process was at goes on in nobody: it ended, for all that is known, at the last stage that it told.
const LOST: &str = "UPDATE spans SET ending = 'lost', ended = began + coalesce(json_extract(stages, '$[#-1][1]'), 0)
WHERE ended IS NULL";

/// Opens (or makes) the file for its one writer.
pub fn open_writer(path: &Path, max_pages: Option<u32>) -> Result<Opened, StoreError> {
    let open = |source| StoreError::Open { path: path.to_path_buf(), source };
    let connection = Connection::open(path).map_err(open)?;
    let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let marks = Marks::of(&real);
    let connection = Opened::new(connection, Kind::Shared, real, marks);
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
            let older: bool = found.parse().is_ok_and(|found: u32| found < 3);
            check_format(path, found)?;
            if older {
                transaction.execute(WITHOUT_FATES, [FATES_FROM]).map_err(open)?;
            }
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

/// How a store is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Beside its writer, which makes a file that all share (`-shm`): only with it there can be one.
    Shared,
    /// Nobody has it open, and all of it is in the file itself.
    Whole,
    /// Nobody has it open, and what a crash left in the log (`-wal`) is read with an index of our own, in memory.
    Log,
}

impl Way {
    /// Of a store as it lies there. Two of the ways make no file and take no lock, so whoever looks at a run that ended or crashed, or
    /// at a copy, leaves nothing behind: not for its owner to stumble over, nor where nothing can be written.
    fn to(path: &Path) -> Way {
        if beside(path, "-shm").exists() { Way::Shared } else { Way::alone(path) }
    }

    fn alone(path: &Path) -> Way {
        if log_is_empty(path) { Way::Whole } else { Way::Log }
    }

    /// Opens the store and reads how many tables it has.
    fn open(self, path: &Path) -> rusqlite::Result<(Opened, i64)> {
        // Whatever changes from here on makes it another one.
        let marks = Marks::of(path);
        // A connection is used by one thread at a time: it needs no locks of SQLite's.
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let by_uri = |how| Connection::open_with_flags(uri(path, how), flags | OpenFlags::SQLITE_OPEN_URI);
        let (connection, kind) = match self {
            Way::Shared => (Connection::open_with_flags(path, flags)?, Kind::Shared),
            Way::Whole => (by_uri("immutable=1")?, Kind::Alone { lockless: false }),
            // Without locks there is nothing to share, and SQLite keeps the index in memory.
            Way::Log => (by_uri("mode=ro&vfs=unix-none")?, Kind::Alone { lockless: true }),
        };
        let opened = Opened::new(connection, kind, path.to_path_buf(), marks);
        if self == Way::Log {
            // The log stays as it is when this connection is the last.
            opened.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            opened.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        }
        opened.busy_timeout(BUSY_TIMEOUT)?;
        let tables = opened.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
        Ok((opened, tables))
    }
}

/// Opens the file for reading, while a run writes it or after.
pub fn open_reader(path: &Path) -> Result<Opened, StoreError> {
    if !path.is_file() {
        return Err(StoreError::Missing(path.parent().unwrap_or(path).to_path_buf()));
    }
    let open = |source| StoreError::Open { path: path.to_path_buf(), source };
    // SQLite's other files are beside the one that a link points to.
    let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let way = Way::to(&real);
    let (opened, tables) = match way.open(&real) {
        // What readers share is there and may not be used: another user's, or on a disk that cannot be written.
        Err(error)
            if way == Way::Shared
                && matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly)) =>
        {
            Way::alone(&real).open(&real).map_err(open)?
        }
        found => found.map_err(open)?,
    };
    if tables == 0 {
        return Err(StoreError::Unbegun(path.parent().unwrap_or(path).to_path_buf()));
    }
    let found: String =
        opened.query_row("SELECT value FROM meta WHERE key = 'format'", [], |row| row.get(0)).map_err(open)?;
    check_format(path, found)?;
    Ok(opened)
}

/// True when everything is in the file itself.
fn log_is_empty(path: &Path) -> bool {
    std::fs::metadata(beside(path, "-wal")).map_or(true, |m| m.len() == 0)
}

fn uri(path: &Path, how: &str) -> String {
    let path = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    format!("file:{path}?{how}")
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
        let connection = open_reader(&path).unwrap();
        assert!(connection.is_alone() && !connection.is_outdated());
        let found: String =
            connection.query_row("SELECT value FROM meta WHERE key = 'format'", [], |row| row.get(0)).unwrap();
        assert_eq!(found, FORMAT.to_string());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), before, "nothing is made beside it");
        // A run goes on there: whoever stays has to look again.
        let writer = open_writer(&path, None).unwrap();
        assert!(connection.is_outdated() && !open_reader(&path).unwrap().is_alone());
        drop(writer);
        let connection = open_reader(&path).unwrap();
        assert!(connection.is_alone() && !connection.is_outdated());
        drop(open_writer(&path, None).unwrap());
        assert!(connection.is_outdated(), "it began and ended between two looks");
    }

    /// It is there, and not taken up at every look for that.
    #[test]
    fn where_what_readers_share_is_of_no_use_the_store_is_read_without_it_and_opened_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.sqlite");
        drop(open_writer(&path, None).unwrap());
        // SQLite follows no link there.
        std::fs::write(dir.path().join("other"), "").unwrap();
        std::os::unix::fs::symlink(dir.path().join("other"), beside(&path, "-shm")).unwrap();
        let connection = open_reader(&path).unwrap();
        assert!(connection.is_alone() && !connection.is_outdated());
    }

    #[test]
    fn a_run_is_read_beside_its_writer_through_a_link_too() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("run.sqlite"), dir.path().join("link.sqlite"));
        let writer = open_writer(&path, None).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        writer.execute("INSERT INTO meta (key, value) VALUES ('only', 'in the log')", []).unwrap();
        let connection = open_reader(&link).unwrap();
        let sql = "SELECT value FROM meta WHERE key = 'only'";
        let found: String = connection.query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!((found.as_str(), connection.is_alone()), ("in the log", false));
    }

    /// Locks are a process's. A connection without locks must not be closed at once.
    #[test]
    fn a_reader_without_locks_does_not_take_those_of_another_reader() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.sqlite");
        let writer = open_writer(&path, None).unwrap();
        writer.execute("INSERT INTO meta (key, value) VALUES ('a', 'b')", []).unwrap();
        let (lockless, _) = Way::Log.open(&path.canonicalize().unwrap()).unwrap();
        let reader = open_reader(&path).unwrap();
        drop(lockless);
        let read =
            |reader: &Opened| -> i64 { reader.query_row("SELECT count(*) FROM meta", [], |row| row.get(0)).unwrap() };
        assert_eq!(read(&reader), read(&writer));
        // Of this process's locks the kernel knows; this process's number is the fifth word of a line.
        let ours = format!(" {} ", std::process::id());
        let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
        let locks = || {
            let all = std::fs::read_to_string("/proc/locks").unwrap_or_default();
            all.lines().filter(|l| l.contains(&ours) && l.contains(&format!(":{inode} "))).count()
        };
        if std::fs::read_to_string("/proc/locks").is_ok_and(|all| all.contains(&ours)) {
            assert!(locks() > 0, "the locks on the store are still held");
        }
        drop(writer);
        assert!(beside(&path, "-shm").exists() && !reader.is_outdated());
        drop(reader);
        // Who comes next finds a store like any other.
        assert!(!open_reader(&path).unwrap().is_outdated());
    }

    #[test]
    fn of_steps_before_format_3_it_is_remembered_that_their_fates_are_not_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.sqlite");
        let writer = open_writer(&path, None).unwrap();
        let meta = |connection: &Opened, key: &str| -> Option<String> {
            let sql = "SELECT (SELECT value FROM meta WHERE key = ?1)";
            connection.query_row(sql, [key], |row| row.get(0)).unwrap()
        };
        assert_eq!(meta(&writer, FATES_FROM), None);
        let before = "DROP TABLE token_fates; UPDATE meta SET value = '2' WHERE key = 'format';
            INSERT INTO token_scores (rollout, step, logprobs, entropies) VALUES (1, 7, x'00', x'00');";
        writer.execute_batch(before).unwrap();
        drop(writer);
        for _ in 0..2 {
            let writer = open_writer(&path, None).unwrap();
            assert_eq!(
                (meta(&writer, FATES_FROM).as_deref(), meta(&writer, "format").as_deref()),
                (Some("7"), Some("3"))
            );
            writer.execute("UPDATE token_scores SET step = 9", []).unwrap();
        }
    }

    /// What a crash leaves without `-shm`, as in a copy that left it out. Planted and seen to fail: the log merged on closing.
    #[test]
    fn the_log_of_a_crash_is_read_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.sqlite");
        let writer = open_writer(&path, None).unwrap();
        writer.execute("INSERT INTO meta (key, value) VALUES ('only', 'in the log')", []).unwrap();
        let copy = dir.path().join("copy.sqlite");
        for ending in ["", "-wal"] {
            std::fs::copy(beside(&path, ending), beside(&copy, ending)).unwrap();
        }
        drop(writer);
        let bytes = || ["", "-wal"].map(|ending| std::fs::read(beside(&copy, ending)).unwrap());
        let (before, files) = (bytes(), std::fs::read_dir(dir.path()).unwrap().count());
        assert!(!log_is_empty(&copy));
        for _ in 0..2 {
            let connection = open_reader(&copy).unwrap();
            let sql = "SELECT value FROM meta WHERE key = 'only'";
            let found: String = connection.query_row(sql, [], |row| row.get(0)).unwrap();
            assert_eq!((found.as_str(), connection.is_alone()), ("in the log", true));
            drop(connection);
            assert_eq!((bytes(), std::fs::read_dir(dir.path()).unwrap().count()), (before.clone(), files));
        }
    }
}
