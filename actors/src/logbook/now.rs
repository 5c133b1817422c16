//! What a logbook knows of the present, in memory: for whoever asks while a stage, or the store, stands still.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use serde_json::{Value, json};

use crate::store::rows::{HappeningRow, SpanRow};

/// The last things that happened.
const HAPPENINGS: usize = 64;
/// Actors and nodes that are remembered; of more, those that nothing happened to for longest are forgotten.
const ACTORS: usize = 1024;

#[derive(Default)]
pub(super) struct Now {
    /// Work that goes on, by id.
    open: BTreeMap<u64, (Instant, SpanRow)>,
    /// The newest word of each source.
    samples: BTreeMap<String, (Instant, Value)>,
    actors: BTreeMap<String, Fate>,
    happenings: VecDeque<(Instant, HappeningRow)>,
}

/// What became of an actor or a node.
struct Fate {
    at: Instant,
    last: String,
    detail: String,
    counts: BTreeMap<String, u64>,
}

impl Now {
    pub(super) fn span(&mut self, began: Instant, row: &SpanRow) {
        match row.ended_ms {
            None => drop(self.open.insert(row.id, (began, row.clone()))),
            Some(_) => drop(self.open.remove(&row.id)),
        }
    }

    pub(super) fn sample(&mut self, source: &str, value: &Value) {
        self.samples.insert(source.to_string(), (Instant::now(), value.clone()));
    }

    pub(super) fn happened(&mut self, row: HappeningRow) {
        let at = Instant::now();
        if self.actors.len() >= ACTORS && !self.actors.contains_key(&row.actor) {
            let quiet = self.actors.iter().min_by_key(|(_, fate)| fate.at).map(|(name, _)| name.clone());
            quiet.and_then(|name| self.actors.remove(&name));
        }
        let fate = self.actors.entry(row.actor.clone()).or_insert_with(|| Fate {
            at,
            last: String::new(),
            detail: String::new(),
            counts: BTreeMap::new(),
        });
        (fate.at, fate.last, fate.detail) = (at, row.what.clone(), row.detail.clone());
        *fate.counts.entry(row.what.clone()).or_default() += 1;
        if self.happenings.len() >= HAPPENINGS {
            self.happenings.pop_front();
        }
        self.happenings.push_back((at, row));
    }

    /// Work by its age, the oldest first; samples with theirs; actors with what happened to them.
    pub(super) fn state(&self) -> Value {
        let ms = |at: &Instant| at.elapsed().as_millis() as u64;
        let mut open: Vec<&(Instant, SpanRow)> = self.open.values().collect();
        open.sort_by_key(|(began, _)| *began);
        let work = |(began, row): &(Instant, SpanRow)| {
            let (for_ms, stage) = (ms(began), row.stages.last());
            json!({
                "lane": row.lane, "rollout": row.rollout, "attempt": row.attempt, "for_ms": for_ms,
                "stage": stage.map(|(name, _)| name), "in_stage_ms": stage.map(|(_, at)| for_ms.saturating_sub(*at)),
            })
        };
        let fate = |fate: &Fate| json!({ "last": fate.last, "detail": fate.detail, "since_ms": ms(&fate.at), "so_often": fate.counts });
        let told = |(at, row): &(Instant, HappeningRow)| json!({ "ago_ms": ms(at), "actor": row.actor, "what": row.what, "detail": row.detail });
        let sample = |(at, value): &(Instant, Value)| json!({ "age_ms": ms(at), "value": value });
        json!({
            "under_way": open.into_iter().map(work).collect::<Vec<_>>(),
            "samples": self.samples.iter().map(|(name, s)| (name.clone(), sample(s))).collect::<BTreeMap<_, _>>(),
            "actors": self.actors.iter().map(|(name, f)| (name.clone(), fate(f))).collect::<BTreeMap<_, _>>(),
            "happened": self.happenings.iter().map(told).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happening(actor: String, what: &str) -> HappeningRow {
        HappeningRow { at_ms: 0, actor, what: what.into(), detail: String::new() }
    }

    /// Planted: an ended span stays. Seen: two are under way.
    #[test]
    fn what_goes_on_is_there_and_what_has_ended_is_not() {
        let (mut now, began) = (Now::default(), Instant::now());
        let mut row = SpanRow { id: 1, lane: "executor 0".into(), rollout: Some(7), ..SpanRow::default() };
        now.span(began, &row);
        row.stages.push(("compile".into(), 0));
        now.span(began, &row);
        let mut other = SpanRow { id: 2, lane: "executor 1".into(), ..SpanRow::default() };
        now.span(began, &other);
        other.ended_ms = Some(1);
        now.span(began, &other);
        now.sample("pool", &json!({ "queued": 3 }));
        let state = now.state();
        let work = state["under_way"].as_array().unwrap();
        assert_eq!((work.len(), &work[0]["rollout"], &work[0]["stage"]), (1, &json!(7), &json!("compile")));
        assert_eq!(state["samples"]["pool"]["value"]["queued"], 3);
    }

    #[test]
    fn deaths_are_counted_and_nothing_grows_without_an_end() {
        let mut now = Now::default();
        for what in ["died", "restarted", "died", "restarted"] {
            now.happened(happening("judge".into(), what));
        }
        let state = now.state();
        assert_eq!(state["actors"]["judge"]["so_often"], json!({ "died": 2, "restarted": 2 }));
        assert_eq!(state["actors"]["judge"]["last"], "restarted");
        for n in 0..2 * ACTORS {
            now.happened(happening(format!("node {n}"), "gone"));
        }
        assert_eq!((now.actors.len(), now.happenings.len()), (ACTORS, HAPPENINGS));
        assert!(!now.actors.contains_key("judge"), "the quietest goes first");
    }
}
