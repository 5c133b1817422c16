//! What a run notes beside its results, as the pages show it: lanes, GPUs, queues, nodes, happenings. The newest of it is kept
//! in memory, once for all viewers of this process, and continued from where the last look ended.

use std::collections::{BTreeMap, VecDeque};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Run;
use super::leases::Lease;
use super::overview::Curves;
use crate::store::notes_reader::Numbered;
use crate::store::{HappeningRow, Reader, SampleRow, SpanRow, StoreError};

/// Kept in memory of each kind.
const SPANS: usize = 20_000;
const SAMPLES: usize = 20_000;
const HAPPENINGS: usize = 1_000;
/// Rows of one look.
const CHUNK: usize = 20_000;
/// Looks are at least this far apart, whoever asks.
const FRESH: Duration = Duration::from_millis(400);
/// Spans and points that one answer shows.
const SHOWN: usize = 4_000;
const POINTS: usize = 300;

/// The newest notes of a run.
#[derive(Default)]
pub struct Notes {
    looked: Option<Instant>,
    spans: BTreeMap<u64, SpanRow>,
    samples: VecDeque<Numbered<SampleRow>>,
    happenings: VecDeque<Numbered<HappeningRow>>,
}

impl Notes {
    fn look(&mut self, reader: &Reader) -> Result<(), StoreError> {
        if self.looked.is_none() {
            self.spans.extend(reader.newest_spans(SPANS)?.into_iter().map(|span| (span.id, span)));
        } else {
            let open: Vec<u64> = self.spans.values().filter(|s| s.ended_ms.is_none()).map(|s| s.id).collect();
            let last = self.spans.keys().next_back().copied().unwrap_or(0);
            let changed = if open.is_empty() { Vec::new() } else { reader.spans_of(&open)? };
            let new = reader.spans_after(last, CHUNK)?;
            self.spans.extend(changed.into_iter().chain(new).map(|span| (span.id, span)));
        }
        close_left_open(&mut self.spans);
        forget(&mut self.spans, SPANS);
        let last = match self.samples.back() {
            Some(sample) => sample.id,
            None => reader.samples_from(SAMPLES)?,
        };
        self.samples.extend(reader.samples_after(last, CHUNK)?);
        let extra = self.samples.len().saturating_sub(SAMPLES);
        self.samples.drain(..extra);
        let last = self.happenings.back().map_or(0, |h| h.id);
        self.happenings.extend(reader.happenings_after(last, CHUNK)?);
        let extra = self.happenings.len().saturating_sub(HAPPENINGS);
        self.happenings.drain(..extra);
        self.looked = Some(Instant::now());
        Ok(())
    }
}

/// Keeps `most`; what goes on is kept in any case, however many newer ones there are.
fn forget(spans: &mut BTreeMap<u64, SpanRow>, most: usize) {
    let over = spans.len().saturating_sub(most);
    let old: Vec<u64> = spans.values().filter(|span| span.ended_ms.is_some()).take(over).map(|span| span.id).collect();
    old.iter().for_each(|id| drop(spans.remove(id)));
}

/// A lane does one thing at a time: what had no end when its next work began was lost with a process that was killed, or
/// its end found no room.
fn close_left_open(spans: &mut BTreeMap<u64, SpanRow>) {
    let mut next: BTreeMap<String, u64> = BTreeMap::new();
    for span in spans.values_mut().rev() {
        if span.ended_ms.is_none()
            && let Some(began) = next.get(&span.lane)
        {
            span.ended_ms = Some(span.began_ms.max(*began));
            span.ending = Some("lost".into());
        }
        match next.get_mut(&span.lane) {
            Some(began) => *began = span.began_ms,
            None => drop(next.insert(span.lane.clone(), span.began_ms)),
        }
    }
}

/// A lane and what it did in the window.
#[derive(Debug, Serialize, Deserialize)]
pub struct Lane {
    pub name: String,
    /// The GPU that it works on, where it is one of this host's executors.
    pub gpu: Option<String>,
    pub spans: Vec<SpanRow>,
    /// Share of the time since `known_from` in which it worked.
    pub busy: f64,
}

/// What a source said last, and its numbers over time.
#[derive(Debug, Serialize, Deserialize)]
pub struct Source {
    pub at: u64,
    pub last: Value,
    pub curves: Curves,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Timeline {
    /// Milliseconds since the Unix epoch. `to` is now while the run goes on, else when the last was noted.
    pub from: u64,
    pub to: u64,
    /// Since when it is known what the lanes did: later than `from` where older spans are not kept, or there were none.
    pub known_from: u64,
    /// False: the run was made by a program that noted nothing.
    pub noted: bool,
    pub lanes: Vec<Lane>,
    /// What is held now, whenever it began, in the order of lanes; of a run that says nothing any more, what it held last.
    pub leases: Vec<Lease>,
    /// The run goes on.
    pub live: bool,
    /// Older spans of the window that are not shown.
    pub left_out: usize,
    /// `run`, `pool`, `gpu N`.
    pub sources: BTreeMap<String, Source>,
    /// Newest first.
    pub happenings: Vec<HappeningRow>,
}

/// Where a rollout is or was evaluated.
#[derive(Debug, Serialize)]
pub struct Place {
    #[serde(flatten)]
    pub span: SpanRow,
    pub gpu: Option<String>,
}

impl Run {
    /// The newest notes, not older than `FRESH`.
    fn with_notes<T>(&self, then: impl FnOnce(&Notes) -> T) -> Result<T, StoreError> {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.looked.is_none_or(|at| at.elapsed() >= FRESH) {
            notes.look(&self.reader()?)?;
        }
        Ok(then(&notes))
    }

    /// Everything noted in the last `window_s` seconds.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn timeline(&self, window_s: u64) -> Result<Timeline, StoreError> {
        let now = crate::flow::wall_ms();
        self.with_notes(|notes| {
            let last = notes.samples.back().map_or(0, |s| s.row.at_ms);
            let last = last.max(notes.spans.values().next_back().map_or(0, |s| s.ended_ms.unwrap_or(s.began_ms)));
            // A run that goes on says something every second.
            let live = now.saturating_sub(last) < 5_000;
            let to = if live || last == 0 { now } else { last };
            let from = to.saturating_sub(window_s.max(1) * 1000);
            let gpus = gpus(notes);
            let inside: Vec<&SpanRow> =
                notes.spans.values().rev().filter(|s| s.ended_ms.unwrap_or(to) >= from && s.began_ms <= to).collect();
            // Where older ones were forgotten, those that go on say nothing of what was beside them.
            let forgot = notes.spans.len() >= SPANS;
            let told = notes.spans.values().filter(|s| !forgot || s.ended_ms.is_some());
            let oldest = told.map(|s| s.began_ms).min().unwrap_or(from);
            let known_from = oldest.clamp(from, to);
            let known = to.saturating_sub(known_from).max(1) as f64;
            let mut lanes: BTreeMap<(u8, String), Lane> = BTreeMap::new();
            for (newer, span) in inside.iter().enumerate().rev() {
                let lane = lanes.entry(order(&span.lane)).or_insert_with(|| Lane {
                    name: span.lane.clone(),
                    gpu: gpu_of(&span.lane, &gpus),
                    spans: Vec::new(),
                    busy: 0.0,
                });
                let (began, ended) = (span.began_ms.max(known_from), span.ended_ms.unwrap_or(to).min(to));
                lane.busy += ended.saturating_sub(began) as f64 / known;
                if newer < SHOWN {
                    lane.spans.push((*span).clone());
                }
            }
            let lease = |span: &SpanRow| Lease::of(span, gpu_of(&span.lane, &gpus), self.config());
            let mut leases: Vec<Lease> = notes.spans.values().filter_map(lease).collect();
            leases.sort_by_key(|lease| order(&lease.lane));
            Timeline {
                leases,
                live,
                from,
                to,
                known_from,
                noted: !notes.samples.is_empty() || !notes.spans.is_empty(),
                left_out: inside.len().saturating_sub(SHOWN),
                lanes: lanes.into_values().collect(),
                sources: sources(notes, from),
                happenings: notes.happenings.iter().rev().take(200).map(|h| h.row.clone()).collect(),
            }
        })
    }

    /// Who evaluated a rollout, or does so now; oldest first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn places(&self, rollout: u64) -> Result<Vec<Place>, StoreError> {
        self.with_notes(|notes| {
            let gpus = gpus(notes);
            let of = notes.spans.values().filter(|span| span.rollout == Some(rollout));
            of.map(|span| Place { span: span.clone(), gpu: gpu_of(&span.lane, &gpus) }).collect()
        })
    }
}

/// By position: the source's name and the device's. Executor `n` of this host works at position `n % of`.
fn gpus(notes: &Notes) -> Vec<String> {
    let mut found: BTreeMap<u64, (u64, String)> = BTreeMap::new();
    for sample in notes.samples.iter().rev().filter(|s| s.row.source.starts_with("gpu ")).take(64) {
        let (value, name) = (&sample.row.value, &sample.row.source);
        let label = match value["name"].as_str() {
            Some(device) => format!("{name} ({device})"),
            None => name.clone(),
        };
        let place = (value["of"].as_u64().unwrap_or(1), label);
        found.entry(value["position"].as_u64().unwrap_or(0)).or_insert(place);
    }
    let of = found.values().next().map_or(0, |(of, _)| *of);
    (0..of).map(|n| found.get(&n).map_or_else(|| format!("gpu at {n}"), |(_, label)| label.clone())).collect()
}

fn gpu_of(lane: &str, gpus: &[String]) -> Option<String> {
    let number: usize = lane.strip_prefix("executor ")?.parse().ok()?;
    gpus.get(number.checked_rem(gpus.len())?).cloned()
}

/// The learner first, then our own executors by number, then those of nodes.
fn order(lane: &str) -> (u8, String) {
    let padded = |text: &str| match text.rsplit_once(' ') {
        Some((name, number)) => format!("{name} {number:0>10}"),
        None => text.to_string(),
    };
    match lane {
        "learner" => (0, String::new()),
        lane if lane.starts_with("executor ") => (1, padded(lane)),
        lane => (2, padded(lane)),
    }
}

/// Every number that each source said since `from`, over time.
fn sources(notes: &Notes, from: u64) -> BTreeMap<String, Source> {
    let mut of: BTreeMap<&str, Vec<&SampleRow>> = BTreeMap::new();
    for sample in notes.samples.iter().filter(|s| s.row.at_ms >= from) {
        of.entry(&sample.row.source).or_default().push(&sample.row);
    }
    of.into_iter()
        .filter_map(|(name, samples)| {
            let last = samples.last()?;
            let step = samples.len().div_ceil(POINTS).max(1);
            let chosen: Vec<&SampleRow> = samples.iter().rev().step_by(step).rev().copied().collect();
            let mut curves = Curves { x: chosen.iter().map(|s| s.at_ms as f64 / 1000.0).collect(), y: BTreeMap::new() };
            for key in last.value.as_object().into_iter().flatten().filter(|(_, v)| v.is_number()).map(|(k, _)| k) {
                curves.y.insert(key.clone(), chosen.iter().map(|s| s.value[key].as_f64()).collect());
            }
            Some((name.to_string(), Source { at: last.at_ms, last: last.value.clone(), curves }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_without_an_end_ends_where_its_lanes_next_begins() {
        let span = |id: u64, lane: &str, began_ms: u64, ended_ms: Option<u64>| {
            let ending = ended_ms.map(|_| "report".to_string());
            (id, SpanRow { id, lane: lane.into(), began_ms, ended_ms, ending, ..SpanRow::default() })
        };
        let mut spans = BTreeMap::from([
            span(1, "executor 0", 100, None),
            span(2, "executor 1", 150, None),
            span(3, "executor 0", 200, Some(250)),
            span(4, "executor 0", 300, None),
        ]);
        close_left_open(&mut spans);
        let seen: Vec<(Option<u64>, Option<&str>)> =
            spans.values().map(|s| (s.ended_ms, s.ending.as_deref())).collect();
        // The second goes on, and so does the fourth.
        assert_eq!(seen, [(Some(200), Some("lost")), (None, None), (Some(250), Some("report")), (None, None)]);
    }

    #[test]
    fn what_goes_on_is_not_forgotten_for_newer_ones_that_ended() {
        let span = |id: u64, ended_ms| (id, SpanRow { id, ended_ms, ..SpanRow::default() });
        let mut spans =
            BTreeMap::from([span(1, None), span(2, Some(5)), span(3, Some(6)), span(4, None), span(5, Some(7))]);
        forget(&mut spans, 3);
        assert_eq!(spans.keys().copied().collect::<Vec<_>>(), [1, 4, 5]);
        forget(&mut spans, 1);
        assert_eq!(spans.keys().copied().collect::<Vec<_>>(), [1, 4]);
    }

    #[test]
    fn lanes_are_in_order_and_an_executor_is_on_the_gpu_at_its_place() {
        let mut lanes = ["box/executor 65536", "executor 10", "learner", "executor 9"];
        lanes.sort_by_key(|lane| order(lane));
        assert_eq!(lanes, ["learner", "executor 9", "executor 10", "box/executor 65536"]);
        let gpus = ["gpu 0".to_string(), "gpu 1".to_string()];
        assert_eq!(gpu_of("executor 3", &gpus).as_deref(), Some("gpu 1"));
        assert_eq!(gpu_of("box/executor 65536", &gpus), None, "another host's");
        assert_eq!(gpu_of("executor 3", &[]), None);
    }
}
