//! Follows a store: what was added and what changed since the last look, in short reads.
//!
//! A rollout's row is inserted once and then changes until it has an ending. So new rows are those past the last id of
//! their phase, and changed rows are among those that had no ending. Every statement reads few rows: while one reads, SQLite
//! cannot begin its log anew, and a viewer that the run leaves little processor time reads slowly.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use super::table::{Table, select_list};
use crate::eval::FIRST_ID;
use crate::store::{Opened, StoreError, path, schema};

/// Rows of one statement.
const CHUNK: usize = 512;

/// Of the database, in memory.
const CACHE_PAGES: u32 = 128;

/// What a look found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Rollouts that are new or changed.
    pub rollouts: u64,
    /// Something was written, rollouts or not.
    pub any: bool,
    /// There was more than one look may read, and how many rollouts at most.
    pub more: bool,
    pub behind: u64,
}

/// One phase's ids, and how far they were read.
#[derive(Clone, Copy)]
struct Range {
    next: u64,
    end: u64,
}

/// Reads one store again and again.
pub struct Follower {
    connection: Opened,
    path: PathBuf,
    ranges: [Range; 3],
    open: BTreeSet<u64>,
    /// SQLite's number that changes with every commit of another connection.
    data_version: Option<i64>,
    source: String,
    behind: bool,
}

impl Follower {
    pub fn open(run_dir: &Path) -> Result<Follower, StoreError> {
        let path = path(run_dir);
        let connection = connect(&path)?;
        let source = format!("SELECT {} FROM rollouts", select_list());
        let [(_, before), (_, after)] = FIRST_ID;
        // As they happen: before, training, after.
        let range = |next: u64, end: u64| Range { next, end };
        let ranges = [range(before, after), range(0, before), range(after, i64::MAX as u64)];
        Ok(Follower { connection, path, ranges, open: BTreeSet::new(), data_version: None, source, behind: true })
    }

    /// Rollouts without an ending that are known.
    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Looks once; takes about `limit` new rows at most.
    pub fn look(&mut self, table: &RwLock<Table>, limit: usize) -> Result<Change, StoreError> {
        if self.connection.is_outdated() {
            self.connection = connect(&self.path)?;
            self.data_version = None;
        }
        // Without locks one may read half of what was and half of what is: where a run went on meanwhile it is read once more.
        let before = self.connection.is_alone().then(|| (self.ranges, self.open.clone()));
        let looked = self.read(table, limit);
        match before {
            Some((ranges, open)) if self.connection.is_outdated() => {
                (self.ranges, self.open, self.behind) = (ranges, open, true);
                Ok(Change { more: true, ..Change::default() })
            }
            _ => looked,
        }
    }

    fn read(&mut self, table: &RwLock<Table>, limit: usize) -> Result<Change, StoreError> {
        let version: i64 = self.connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
        if self.data_version == Some(version) && !self.behind {
            return Ok(Change::default());
        }
        let mut change = Change { any: self.data_version != Some(version), ..Change::default() };
        if change.any {
            change.rollouts += self.changed(table)?;
        }
        change.rollouts += self.added(table, limit, &mut change)?;
        self.behind = change.more;
        self.data_version = Some(version);
        Ok(change)
    }

    /// Of the rows that had no ending, those that may be other ones now. What tells it is at the front of a row: an answer, which
    /// fills pages of its own, is not read past for it.
    fn moved(&self, table: &RwLock<Table>) -> Result<Vec<u64>, StoreError> {
        let open: Vec<u64> = self.open.iter().copied().collect();
        let mut moved = Vec::new();
        for ids in open.chunks(CHUNK) {
            let list = serde_json::to_string(ids)?;
            let sql = "SELECT id, state, attempt FROM rollouts WHERE id IN (SELECT value FROM json_each(?1))";
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query([list])?;
            let table = table.read().unwrap_or_else(PoisonError::into_inner);
            while let Some(row) = rows.next()? {
                let id = row.get::<_, i64>(0)? as u64;
                let state = row.get_ref(1)?.as_str_or_null().map_err(rusqlite::Error::from)?;
                let attempt = row.get::<_, Option<f64>>(2)?;
                let same = table.row(id).is_some_and(|at| {
                    // A scored one gets its advantage in the same state.
                    let waits = state == Some("scored") && table.number("adv_code")[at].is_nan();
                    !waits
                        && table.word("state", at) == state
                        && Some(table.number("attempt")[at]).filter(|n| !n.is_nan()) == attempt
                });
                if !same {
                    moved.push(id);
                }
            }
        }
        Ok(moved)
    }

    /// Rows that had no ending.
    fn changed(&mut self, table: &RwLock<Table>) -> Result<u64, StoreError> {
        let moved = self.moved(table)?;
        let mut changed = 0;
        for ids in moved.chunks(CHUNK) {
            let list = serde_json::to_string(ids)?;
            let sql = format!("{} WHERE id IN (SELECT value FROM json_each(?1))", self.source);
            let mut statement = self.connection.prepare_cached(&sql)?;
            let mut rows = statement.query([list])?;
            let mut table = table.write().unwrap_or_else(PoisonError::into_inner);
            while let Some(row) = rows.next()? {
                changed += u64::from(take(row, &mut table, &mut self.open)?.1);
            }
        }
        Ok(changed)
    }

    fn added(&mut self, table: &RwLock<Table>, limit: usize, change: &mut Change) -> Result<u64, StoreError> {
        let sql = format!("{} WHERE id >= ?1 AND id < ?2 AND phase IS NOT NULL ORDER BY id LIMIT {CHUNK}", self.source);
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut added = 0;
        for range in &mut self.ranges {
            loop {
                let mut rows = statement.query([range.next as i64, range.end as i64])?;
                let mut table = table.write().unwrap_or_else(PoisonError::into_inner);
                let mut count = 0;
                while let Some(row) = rows.next()? {
                    range.next = take(row, &mut table, &mut self.open)?.0 + 1;
                    count += 1;
                }
                added += count;
                if count < CHUNK {
                    break;
                }
                if added >= limit {
                    // The rest of this phase comes before what happened after it.
                    let last = "SELECT max(id) FROM rollouts WHERE id < ?1";
                    let last: Option<i64> =
                        self.connection.prepare_cached(last)?.query_row([range.end as i64], |row| row.get(0))?;
                    change.more = true;
                    change.behind = last.map_or(0, |last| (last as u64 + 1).saturating_sub(range.next));
                    return Ok(added as u64);
                }
            }
        }
        Ok(added as u64)
    }
}

fn connect(path: &Path) -> Result<Opened, StoreError> {
    let connection = schema::open_reader(path)?;
    // Nearly every page is read once.
    connection.pragma_update(None, "cache_size", CACHE_PAGES)?;
    Ok(connection)
}

/// The row's id, and whether it was new or changed.
fn take(row: &rusqlite::Row<'_>, table: &mut Table, open: &mut BTreeSet<u64>) -> Result<(u64, bool), StoreError> {
    let id = row.get::<_, i64>(0)? as u64;
    let changed = table.take(row)?;
    let ended = table.row(id).and_then(|at| table.word("ending", at)).is_some();
    if ended {
        open.remove(&id);
    } else {
        open.insert(id);
    }
    Ok((id, changed))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rollout::id::{Attempt, GroupId, RolloutId, TaskId};

    use super::*;
    use crate::store::{Op, PhaseTag, RowPatch, StoreConfig, Writer};

    /// Looking for `-shm` alone does not see it.
    #[test]
    fn a_run_that_went_on_and_ended_between_two_looks_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let write = |id| {
            let writer = Writer::start(StoreConfig::new(dir.path().to_path_buf()), Box::new(|_| {})).unwrap();
            let task = Arc::new(TaskId("t".into()));
            let patch =
                RowPatch::Issued { phase: PhaseTag::Train, group: GroupId(0), task, seed: 1, attempt: Attempt(1) };
            writer.handle().send(vec![Op::Row { rollout: RolloutId(id), patch }]).unwrap();
            writer.stop().unwrap();
        };
        write(1);
        let table = RwLock::default();
        let mut follower = Follower::open(dir.path()).unwrap();
        while follower.look(&table, CHUNK).unwrap().more {}
        assert_eq!(table.read().unwrap().ids(), [1]);
        write(2);
        while follower.look(&table, CHUNK).unwrap().more {}
        assert_eq!(table.read().unwrap().ids(), [1, 2]);
    }
}
