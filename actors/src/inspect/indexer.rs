//! Who builds the index of answers: a thread of a viewer that begins with the first search for a text, goes on while texts
//! are searched for, and reads at the pace of a viewer.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::pace::{Pace, thread_cpu};
use super::table::Table;
use super::texts::Index;
use super::yield_to_the_run;
use crate::store::{StoreError, path, schema};

/// It ends when nobody has searched for so long; what it made stays.
const IDLE: Duration = Duration::from_secs(60);
/// Between two looks for answers that are not in it.
const EVERY: Duration = Duration::from_millis(500);
/// Rows of one look, and of one statement.
const LOOK: usize = 16_384;
const CHUNK: usize = 64;
/// What the index may take of memory; answers beyond it are searched in the store.
const BYTES_MAX: usize = 768 << 20;
/// Share of a processor where there are some to spare.
const SPARE: f64 = 0.5;

#[derive(Default)]
pub struct Texts {
    pub index: RwLock<Index>,
    wanted: Mutex<Wanted>,
}

#[derive(Default)]
struct Wanted {
    at: Option<Instant>,
    working: bool,
}

impl Texts {
    /// Somebody searches: the index is built from now on, or further.
    pub fn want(self: &Arc<Self>, table: &Arc<RwLock<Table>>, dir: &Path) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.at = Some(Instant::now());
        if wanted.working {
            return;
        }
        let (texts, table, dir) = (self.clone(), table.clone(), dir.to_path_buf());
        let work = move || {
            yield_to_the_run();
            if let Err(error) = texts.build(&table, dir) {
                tracing::warn!(%error, "answers are searched without an index");
            }
        };
        // Without a thread there is no index, and searches look into the store.
        wanted.working = std::thread::Builder::new().name("texts".into()).spawn(work).is_ok();
    }

    /// Until nobody searches any more.
    fn build(&self, table: &RwLock<Table>, dir: PathBuf) -> Result<(), StoreError> {
        let result = self.build_while_wanted(table, &dir);
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).working = false;
        result
    }

    fn is_wanted(&self) -> bool {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.at.is_some_and(|at| at.elapsed() < IDLE)
    }

    fn build_while_wanted(&self, table: &RwLock<Table>, dir: &Path) -> Result<(), StoreError> {
        let connection = schema::open_reader(&path(dir))?;
        let mut statement = connection
            .prepare("SELECT id, coalesce(answer, '') FROM rollouts WHERE id IN (SELECT value FROM json_each(?1))")?;
        let mut pace = Pace::with_spare(SPARE);
        while self.is_wanted() {
            let rows = self.missing(table);
            for rows in rows.chunks(CHUNK) {
                let (began, cpu) = (Instant::now(), thread_cpu());
                let ids: Vec<u64> = rows.iter().map(|(_, id)| *id).collect();
                let mut answers = Vec::new();
                let mut found = statement.query([serde_json::to_string(&ids)?])?;
                while let Some(row) = found.next()? {
                    let text = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
                    answers.push((row.get::<_, i64>(0)? as u64, text.to_string()));
                }
                drop(found);
                // A run goes on where nobody was: whoever wants the index has it built with another connection.
                if connection.is_outdated() {
                    return Ok(());
                }
                {
                    let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
                    for (row, id) in rows {
                        if let Some((_, text)) = answers.iter().find(|(found, _)| found == id) {
                            index.add(*row, text);
                        }
                    }
                }
                let work =
                    thread_cpu().zip(cpu).map_or_else(|| began.elapsed(), |(now, then)| now.saturating_sub(then));
                std::thread::sleep(pace.rest_after(work));
                if !self.is_wanted() {
                    return Ok(());
                }
            }
            if rows.len() < LOOK {
                std::thread::sleep(EVERY);
                if connection.is_outdated() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Rollouts that have ended and are not in the index, the newest first: row and id.
    fn missing(&self, table: &RwLock<Table>) -> Vec<(usize, u64)> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        if index.bytes() > BYTES_MAX {
            return Vec::new();
        }
        let table = table.read().unwrap_or_else(PoisonError::into_inner);
        let Some(endings) = table.words("ending") else { return Vec::new() };
        let open = |row: &usize| endings.codes()[*row] == 0 || index.has(*row);
        (0..table.len()).rev().filter(|row| !open(row)).take(LOOK).map(|row| (row, table.id(row))).collect()
    }
}
