//! What a run notes beside its results: spans, samples, happenings, of which the newest are kept, so that a long run's file does not
//! grow with them; and token scores, which stay as long as the answers that they belong to.

use std::collections::BTreeMap;

use rollout::id::{RolloutId, StepId};
use rusqlite::{Transaction, params};

use super::transaction::pack_error;
use crate::store::StoreError;
use crate::store::pack::Packer;
use crate::store::rows::{HappeningRow, SampleRow, SpanRow, TokenScores};

/// Rows kept of each kind. About 10 MB of spans, 30 MB of samples.
const KEPT: [(&str, usize); 3] = [("spans", 100_000), ("samples", 100_000), ("happenings", 10_000)];
/// Rows written between two looks at what is too old.
const PRUNE_EVERY: usize = 1024;

#[derive(Default)]
pub(super) struct Notes {
    /// By id: a short span that began and ended in one transaction is one row.
    spans: BTreeMap<u64, SpanRow>,
    pub(super) samples: Vec<SampleRow>,
    pub(super) happenings: Vec<HappeningRow>,
    pub(super) scores: Vec<(RolloutId, StepId, TokenScores)>,
    written: usize,
}

impl Notes {
    pub(super) fn span(&mut self, row: SpanRow) {
        self.spans.insert(row.id, row);
    }

    pub(super) fn write(&mut self, tx: &Transaction<'_>, packer: &mut Packer) -> Result<(), StoreError> {
        self.written += self.spans.len() + self.samples.len() + self.happenings.len();
        for (id, row) in std::mem::take(&mut self.spans) {
            tx.prepare_cached(
                "INSERT OR REPLACE INTO spans (id, lane, rollout, attempt, began, ended, stages, ending)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                id as i64,
                row.lane,
                row.rollout.map(|id| id as i64),
                row.attempt,
                row.began_ms as i64,
                row.ended_ms.map(|at| at as i64),
                serde_json::to_string(&row.stages)?,
                row.ending
            ])?;
        }
        for row in self.samples.drain(..) {
            tx.prepare_cached("INSERT INTO samples (at, source, value) VALUES (?1, ?2, ?3)")?.execute(params![
                row.at_ms as i64,
                row.source,
                row.value.to_string()
            ])?;
        }
        for row in self.happenings.drain(..) {
            tx.prepare_cached("INSERT INTO happenings (at, actor, what, detail) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![row.at_ms as i64, row.actor, row.what, row.detail])?;
        }
        for (rollout, step, scores) in self.scores.drain(..) {
            tx.prepare_cached(
                "INSERT OR REPLACE INTO token_scores (rollout, step, logprobs, entropies) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![
                rollout.0 as i64,
                step.0 as i64,
                packer.f32s(&scores.logprobs).map_err(pack_error)?,
                packer.f32s(&scores.entropies).map_err(pack_error)?
            ])?;
            if let Some(fates) = scores.fates.filter(|fates| !fates.is_empty()) {
                tx.prepare_cached("INSERT OR REPLACE INTO token_fates (rollout, step, fates) VALUES (?1, ?2, ?3)")?
                    .execute(params![rollout.0 as i64, step.0 as i64, packer.bytes(&fates).map_err(pack_error)?])?;
            }
        }
        if self.written >= PRUNE_EVERY {
            self.written = 0;
            for (table, kept) in KEPT {
                // What goes on is not old, however long it takes.
                let over = if table == "spans" { " AND ended IS NOT NULL" } else { "" };
                let sql = format!(
                    "DELETE FROM {table} WHERE id <= (SELECT id FROM {table} ORDER BY id DESC LIMIT 1 OFFSET {kept}){over}"
                );
                tx.prepare_cached(&sql)?.execute([])?;
            }
        }
        Ok(())
    }
}
