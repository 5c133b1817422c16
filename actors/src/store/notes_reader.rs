//! Reading what a run notes beside its results. A store of format 1 has none of it: everything is empty then.

use rusqlite::OptionalExtension;
use serde::Serialize;

use super::pack::{unpack_bytes, unpack_f32s};
use super::rows::{HappeningRow, SampleRow, SpanRow, TokenScores};
use super::schema::FATES_FROM;
use super::{Reader, StoreError};

/// A row and its number, so that the next look begins behind it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Numbered<T> {
    pub id: u64,
    #[serde(flatten)]
    pub row: T,
}

impl Reader {
    fn has_notes(&self) -> Result<bool, StoreError> {
        self.has_table("spans")
    }

    fn has_table(&self, name: &str) -> Result<bool, StoreError> {
        let sql = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1";
        Ok(self.connection().prepare_cached(sql)?.query_row([name], |row| row.get::<_, i64>(0))? > 0)
    }

    /// Spans past `id` in order, `limit` at most.
    pub fn spans_after(&self, id: u64, limit: usize) -> Result<Vec<SpanRow>, StoreError> {
        self.spans_where("id > ?1 ORDER BY id LIMIT ?2", &[&(id as i64), &(limit as i64)])
    }

    /// The newest spans and all that go on, oldest of them first.
    pub fn newest_spans(&self, limit: usize) -> Result<Vec<SpanRow>, StoreError> {
        let newest = "id IN (SELECT id FROM spans ORDER BY id DESC LIMIT ?1) OR ended IS NULL ORDER BY id";
        self.spans_where(newest, &[&(limit as i64)])
    }

    /// These spans, where they are still kept.
    pub fn spans_of(&self, ids: &[u64]) -> Result<Vec<SpanRow>, StoreError> {
        self.spans_where("id IN (SELECT value FROM json_each(?1)) ORDER BY id", &[&serde_json::to_string(ids)?])
    }

    /// Spans of one rollout, oldest first, among those that are kept.
    pub fn spans_of_rollout(&self, rollout: u64) -> Result<Vec<SpanRow>, StoreError> {
        self.spans_where("rollout = ?1 ORDER BY id", &[&(rollout as i64)])
    }

    fn spans_where(&self, condition: &str, values: &[&dyn rusqlite::ToSql]) -> Result<Vec<SpanRow>, StoreError> {
        if !self.has_notes()? {
            return Ok(Vec::new());
        }
        let sql =
            format!("SELECT id, lane, rollout, attempt, began, ended, stages, ending FROM spans WHERE {condition}");
        let mut statement = self.connection().prepare_cached(&sql)?;
        let mut rows = statement.query(values)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let number = |column: usize| row.get::<_, Option<i64>>(column).map(|v| v.map(|v| v as u64));
            found.push(SpanRow {
                id: row.get::<_, i64>(0)? as u64,
                lane: row.get(1)?,
                rollout: number(2)?,
                attempt: row.get(3)?,
                began_ms: row.get::<_, i64>(4)? as u64,
                ended_ms: number(5)?,
                stages: serde_json::from_str(&row.get::<_, String>(6)?)?,
                ending: row.get(7)?,
            });
        }
        Ok(found)
    }

    /// Samples past `id` in order, `limit` at most.
    pub fn samples_after(&self, id: u64, limit: usize) -> Result<Vec<Numbered<SampleRow>>, StoreError> {
        if !self.has_notes()? {
            return Ok(Vec::new());
        }
        let sql = "SELECT id, at, source, value FROM samples WHERE id > ?1 ORDER BY id LIMIT ?2";
        let mut statement = self.connection().prepare_cached(sql)?;
        let mut rows = statement.query([id as i64, limit as i64])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let value = row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?;
            let sample = SampleRow {
                at_ms: row.get::<_, i64>(1)? as u64,
                source: row.get(2)?,
                value: serde_json::from_str(value)?,
            };
            found.push(Numbered { id: row.get::<_, i64>(0)? as u64, row: sample });
        }
        Ok(found)
    }

    /// What a source said last.
    pub fn newest_sample(&self, source: &str) -> Result<Option<serde_json::Value>, StoreError> {
        if !self.has_notes()? {
            return Ok(None);
        }
        let sql = "SELECT value FROM samples WHERE source = ?1 ORDER BY id DESC LIMIT 1";
        let mut statement = self.connection().prepare_cached(sql)?;
        let text: Option<String> = statement.query_row([source], |row| row.get(0)).optional()?;
        Ok(text.map(|text| serde_json::from_str(&text)).transpose()?)
    }

    /// The number of the sample after which `limit` more follow; 0 where there are fewer.
    pub fn samples_from(&self, limit: usize) -> Result<u64, StoreError> {
        if !self.has_notes()? {
            return Ok(0);
        }
        let sql = "SELECT id FROM samples ORDER BY id DESC LIMIT 1 OFFSET ?1";
        let id = self.connection().query_row(sql, [limit as i64], |row| row.get::<_, i64>(0)).optional()?;
        Ok(id.unwrap_or(0) as u64)
    }

    /// Happenings past `id` in order, `limit` at most.
    pub fn happenings_after(&self, id: u64, limit: usize) -> Result<Vec<Numbered<HappeningRow>>, StoreError> {
        if !self.has_notes()? {
            return Ok(Vec::new());
        }
        let sql = "SELECT id, at, actor, what, detail FROM happenings WHERE id > ?1 ORDER BY id LIMIT ?2";
        let mut statement = self.connection().prepare_cached(sql)?;
        let rows = statement.query_map([id as i64, limit as i64], |row| {
            Ok(Numbered {
                id: row.get::<_, i64>(0)? as u64,
                row: HappeningRow {
                    at_ms: row.get::<_, i64>(1)? as u64,
                    actor: row.get(2)?,
                    what: row.get(3)?,
                    detail: row.get(4)?,
                },
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What the learner found for a rollout's tokens; `None` where it was not trained on, or by an older program.
    pub fn token_scores(&self, rollout: u64) -> Result<Option<TokenScores>, StoreError> {
        if !self.has_notes()? {
            return Ok(None);
        }
        let sql = "SELECT logprobs, entropies, step FROM token_scores WHERE rollout = ?1";
        let found: Option<(Vec<u8>, Vec<u8>, i64)> = self
            .connection()
            .prepare_cached(sql)?
            .query_row([rollout as i64], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((logprobs, entropies, step)) = found else { return Ok(None) };
        // Of a store before format 3 it is not known, nor of the steps that it had when its run went on with a later one.
        let since: i64 = self.meta(FATES_FROM)?.and_then(|step| step.parse().ok()).unwrap_or(0);
        let fates = match step > since && self.has_table("token_fates")? {
            false => None,
            true => {
                let sql = "SELECT fates FROM token_fates WHERE rollout = ?1";
                let mut statement = self.connection().prepare_cached(sql)?;
                let packed: Option<Vec<u8>> = statement.query_row([rollout as i64], |row| row.get(0)).optional()?;
                Some(packed.map_or(Ok(Vec::new()), |packed| unpack_bytes(&packed))?)
            }
        };
        Ok(Some(TokenScores { logprobs: unpack_f32s(&logprobs)?, entropies: unpack_f32s(&entropies)?, fates }))
    }

    /// Whether a step changed the policy: one that the guard skipped did not.
    pub fn step_applied(&self, step: u64) -> Result<Option<bool>, StoreError> {
        let sql = "SELECT applied FROM steps WHERE step = ?1";
        Ok(self.connection().prepare_cached(sql)?.query_row([step as i64], |row| row.get(0)).optional()?)
    }
}

#[cfg(test)]
mod tests {
    use rollout::id::{RolloutId, StepId};

    use super::*;
    use crate::store::{Op, StoreConfig, Writer};

    /// By its format alone they would all be kept.
    #[test]
    fn of_steps_before_format_3_it_is_not_known_what_the_learner_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let write = |all: &[(u64, u64, Option<Vec<u8>>)]| {
            let writer = Writer::start(StoreConfig::new(dir.path().to_path_buf()), Box::new(|_| {})).unwrap();
            let op = |(rollout, step, fates): &(u64, u64, Option<Vec<u8>>)| Op::TokenScores {
                rollout: RolloutId(*rollout),
                step: StepId(*step),
                scores: TokenScores { logprobs: vec![-1.0], entropies: vec![0.5], fates: fates.clone() },
            };
            writer.handle().send(all.iter().map(op).collect()).unwrap();
            writer.stop().unwrap();
        };
        let fates = |rollout| Reader::open(dir.path()).unwrap().token_scores(rollout).unwrap().unwrap().fates;
        write(&[(1, 3, None)]);
        let older = "DROP TABLE token_fates; UPDATE meta SET value = '2' WHERE key = 'format'";
        rusqlite::Connection::open(crate::store::path(dir.path())).unwrap().execute_batch(older).unwrap();
        assert_eq!(fates(1), None);
        write(&[(2, 4, Some(vec![])), (3, 4, Some(vec![2]))]);
        assert_eq!([1, 2, 3].map(fates), [None, Some(vec![]), Some(vec![2])]);
    }
}
