//! A page of rollouts: filtered, sorted, counted. Quick filters are answered from memory; those that look into answers
//! ask the index of answers, then the store for the rest, until the page is full or the time is up.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use rollout::id::TaskId;
use rusqlite::types::Value;
use serde::{Deserialize, Serialize};

use super::filter::{Filter, Known, column_of, field_names};
use super::table::{Column, Table};
use super::{InspectError, Run};
use crate::errors::{UserError, nearest};
use crate::store::reader::RolloutSummary;
use crate::store::{PhaseTag, StoreError, path, schema};

/// Longest search through texts for a page, and where the rest was asked for too; rollouts of one statement of it.
const SEARCH: Duration = Duration::from_millis(250);
const SEARCH_DEEP: Duration = Duration::from_secs(10);
const CHUNK: usize = 256;
/// Of `SEARCH`, for the index.
const INDEX: Duration = Duration::from_millis(150);
/// A full page does not end a search that has this many rollouts left to ask the store for, so that all are counted.
const FEW: usize = 8192;
/// Most rows of a page.
pub const LIMIT_MAX: usize = 1000;

/// What is asked for. An empty filter is all; `sort` is a field, with `-` before it from high to low; empty is newest first.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub filter: String,
    pub sort: String,
    pub offset: usize,
    pub limit: usize,
    /// Search longer than a page may take.
    pub deep: bool,
}

/// What was found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Page {
    pub rollouts: Vec<RolloutSummary>,
    /// Rollouts for which the filter holds; `None` where a search ended before it had seen all.
    pub matching: Option<u64>,
    pub all: u64,
    /// Of a search that ended early, because the page was full or the time was up: how many rollouts it looked at, in the
    /// order of the page, of how many.
    pub searched: Option<(u64, u64)>,
    /// Of a search through answers: how many are in the index of them, which a viewer builds while it is searched.
    #[serde(default)]
    pub indexed: Option<u64>,
    pub took_ms: f64,
}

/// The order of a page.
enum Order {
    Newest,
    By { column: &'static str, down: bool },
}

impl Order {
    fn parse(text: &str) -> Result<Order, UserError> {
        let (down, name) = match text.strip_prefix('-') {
            Some(name) => (true, name),
            None => (false, text),
        };
        match name {
            "" => Ok(Order::Newest),
            "sampled_at" => Ok(Order::By { column: "sampled_at", down }),
            "ended_at" => Ok(Order::By { column: "ended_at", down }),
            name => match column_of(name) {
                Some(column) => Ok(Order::By { column, down }),
                None => {
                    let error = UserError::new("there is no such field to sort by")
                        .at("sort")
                        .found(format!("`{name}`"))
                        .expected("a field of the filter language that is one short value, sampled_at or ended_at");
                    Err(match nearest(name, field_names().into_iter().filter(|name| column_of(name).is_some())) {
                        Some(near) => error.hint(format!("did you mean `{near}`?")),
                        None => error.hint("for example sort=-reward.plan"),
                    })
                }
            },
        }
    }

    /// Puts the first `wanted` of `rows` in order; what follows them stays unordered.
    fn sort(&self, table: &Table, rows: &mut [u32], wanted: usize) {
        match self {
            Order::Newest => rows.reverse(),
            Order::By { column: "id", down } => {
                partly(rows, wanted, |a, b| directed(table.id(a).cmp(&table.id(b)), *down))
            }
            Order::By { column, down } => match table.column(column) {
                Some(Column::Number(all)) => partly(rows, wanted, |a, b| number_order(all[a], all[b], *down)),
                Some(Column::Word(words)) => {
                    let mut order: Vec<(usize, Option<&str>)> = words.dictionary().enumerate().collect();
                    order.sort_by(|a, b| a.1.cmp(&b.1));
                    let mut rank = vec![0.0; order.len()];
                    for (place, (code, text)) in order.into_iter().enumerate() {
                        rank[code] = if text.is_some() { place as f64 } else { f64::NAN };
                    }
                    let of = |row: usize| rank[words.codes()[row] as usize];
                    partly(rows, wanted, |a, b| number_order(of(a), of(b), *down));
                }
                None => {}
            },
        }
    }
}

fn directed(order: Ordering, down: bool) -> Ordering {
    if down { order.reverse() } else { order }
}

/// What is not known comes last, whichever the direction.
fn number_order(a: f64, b: f64, down: bool) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (false, false) => directed(a.total_cmp(&b), down),
        (a, b) => a.cmp(&b),
    }
}

fn partly(rows: &mut [u32], wanted: usize, order: impl Fn(usize, usize) -> Ordering) {
    // Equal ones: newest first.
    let by = |a: &u32, b: &u32| order(*a as usize, *b as usize).then(b.cmp(a));
    if wanted < rows.len() {
        rows.select_nth_unstable_by(wanted, by);
        rows[..wanted].sort_unstable_by(by);
    } else {
        rows.sort_unstable_by(by);
    }
}

impl Run {
    /// A page of rollouts.
    ///
    /// # Errors
    /// A filter or an order that cannot be understood; the store.
    pub fn page(&self, query: &Query) -> Result<Page, InspectError> {
        let started = Instant::now();
        let order = Order::parse(query.sort.trim())?;
        let filter = match query.filter.trim() {
            "" => None,
            text => Some(Filter::parse(text)?),
        };
        let (offset, limit) = (query.offset, query.limit.min(LIMIT_MAX));
        let wanted = offset.saturating_add(limit);
        let mut page =
            Page { rollouts: Vec::new(), matching: None, all: 0, searched: None, indexed: None, took_ms: 0.0 };
        let search = {
            let table = self.table();
            page.all = table.len() as u64;
            if filter.is_none() && matches!(order, Order::Newest) {
                // What every open page asks for again and again.
                page.matching = Some(page.all);
                let shown = (0..table.len()).rev().skip(offset).take(limit);
                page.rollouts = shown.filter_map(|row| summary(&table, row)).collect();
                page.took_ms = started.elapsed().as_secs_f64() * 1000.0;
                return Ok(page);
            }
            let slow = filter.as_ref().filter(|f| !f.is_quick());
            if slow.is_some_and(Filter::needs_answers) {
                page.indexed = self.want_texts();
            }
            let texts = |text: &str| self.texts_known(text, table.len(), started + INDEX);
            let known = filter.as_ref().map(|f| f.known(&table, self.levels(), &texts));
            let mut rows: Vec<u32> = match &known {
                Some(known) => (0..table.len() as u32).filter(|row| known.can[*row as usize]).collect(),
                None => (0..table.len() as u32).collect(),
            };
            let sure = |known: &Known| rows.iter().all(|row| known.must[*row as usize]);
            match slow.filter(|_| !known.as_ref().is_some_and(sure)) {
                None => {
                    page.matching = Some(rows.len() as u64);
                    order.sort(&table, &mut rows, wanted);
                    let shown = rows.iter().skip(offset).take(limit);
                    page.rollouts = shown.filter_map(|row| summary(&table, *row as usize)).collect();
                    None
                }
                Some(filter) => {
                    let all = rows.len();
                    order.sort(&table, &mut rows, all);
                    let must = known.map_or_else(Vec::new, |k| k.must);
                    let sure = |row: &u32| must.get(*row as usize).copied().unwrap_or(false);
                    let places: Vec<(u64, bool)> = rows.iter().map(|r| (table.id(*r as usize), sure(r))).collect();
                    Some((filter, places))
                }
            }
        };
        // Without the lock: the store may take its time.
        if let Some((filter, places)) = search {
            let until = started + if query.deep { SEARCH_DEEP } else { SEARCH };
            let enough = if query.deep { usize::MAX } else { wanted };
            let found = self.search(filter, &places, Some(until), enough)?;
            let seen = found.seen as u64;
            let complete = found.seen == places.len();
            page.matching = complete.then_some(found.ids.len() as u64);
            page.searched = (!complete).then_some((seen, places.len() as u64));
            let table = self.table();
            let shown = found.ids.iter().skip(offset).take(limit);
            page.rollouts = shown.filter_map(|id| summary(&table, table.row(*id)?)).collect();
        }
        page.took_ms = started.elapsed().as_secs_f64() * 1000.0;
        Ok(page)
    }

    /// Ids of all rollouts for which a filter holds (of all rollouts, without one), in the order of ids. As long as it takes.
    pub fn matching(&self, filter: Option<&Filter>) -> Result<Vec<u64>, StoreError> {
        let places: Vec<(u64, bool)> = {
            let table = self.table();
            let known = filter.map(|f| f.known(&table, self.levels(), &|_| None));
            let rows = (0..table.len()).filter(|row| known.as_ref().is_none_or(|k| k.can[*row]));
            rows.map(|row| (table.id(row), known.as_ref().is_none_or(|k| k.must[row]))).collect()
        };
        let mut ids: Vec<u64> = match filter.filter(|f| !f.is_quick()) {
            Some(filter) => self.search(filter, &places, None, usize::MAX)?.ids,
            None => places.into_iter().map(|(id, _)| id).collect(),
        };
        ids.sort_unstable();
        Ok(ids)
    }

    /// Those of `places` (id, whether it is known to match) that match, in their order, until the deadline or `enough`.
    fn search(
        &self,
        filter: &Filter,
        places: &[(u64, bool)],
        until: Option<Instant>,
        enough: usize,
    ) -> Result<Found, StoreError> {
        // Where a run went on in a store that nobody had open, once more beside it.
        for _ in 0..2 {
            let connection = schema::open_reader(&path(self.dir()))?;
            let found = self.search_with(&connection, filter, places, until, enough);
            if !connection.is_outdated() {
                return found;
            }
        }
        Err(StoreError::WentOn(self.dir().to_path_buf()))
    }

    fn search_with(
        &self,
        connection: &rusqlite::Connection,
        filter: &Filter,
        places: &[(u64, bool)],
        until: Option<Instant>,
        enough: usize,
    ) -> Result<Found, StoreError> {
        let (condition, values) = filter.sql(self.levels());
        let sql = format!(
            "SELECT id FROM rollouts WHERE id IN (SELECT value FROM json_each(?)) AND phase IS NOT NULL AND {condition}"
        );
        let mut statement = connection.prepare(&sql)?;
        let mut found = Found::default();
        let mut left = places.iter().filter(|(_, sure)| !sure).count();
        for chunk in places.chunks(CHUNK) {
            let unsure: Vec<u64> = chunk.iter().filter(|(_, sure)| !sure).map(|(id, _)| *id).collect();
            if unsure.is_empty() {
                found.ids.extend(chunk.iter().map(|(id, _)| *id));
                found.seen += chunk.len();
                continue;
            }
            let full = found.ids.len() >= enough && left > FEW;
            if full || until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
            left -= unsure.len();
            let list = Value::Text(serde_json::to_string(&unsure)?);
            let bound = std::iter::once(&list).chain(&values);
            let matching: std::collections::HashSet<u64> = statement
                .query_map(rusqlite::params_from_iter(bound), |row| row.get::<_, i64>(0))?
                .map(|id| id.map(|id| id as u64))
                .collect::<Result<_, _>>()?;
            found.ids.extend(chunk.iter().filter(|(id, sure)| *sure || matching.contains(id)).map(|(id, _)| *id));
            found.seen += chunk.len();
        }
        Ok(found)
    }
}

#[derive(Default)]
struct Found {
    ids: Vec<u64>,
    seen: usize,
}

/// A row of the table as the store's summary; `None` for a phase of a newer program.
pub fn summary(table: &Table, row: usize) -> Option<RolloutSummary> {
    let real = |name: &str| Some(table.number(name)[row]).filter(|x| !x.is_nan());
    let number = |name: &str| real(name).map(|x| x as u64);
    let word = |name: &str| table.word(name, row).map(str::to_string);
    Some(RolloutSummary {
        id: table.id(row),
        phase: PhaseTag::parse(table.word("phase", row)?)?,
        group: number("grp").unwrap_or(0),
        task: TaskId(word("task").unwrap_or_default()),
        state: word("state").unwrap_or_default(),
        attempt: number("attempt").unwrap_or(0) as u32,
        policy_oldest: number("policy_oldest"),
        policy_newest: number("policy_newest"),
        finish: word("finish"),
        n_tokens: number("n_tokens"),
        plan_tokens: number("plan_tokens").map(|n| n as u32),
        verdict: word("verdict"),
        reward_plan: real("reward_plan"),
        reward_code: real("reward_code"),
        adv_plan: real("adv_plan"),
        adv_code: real("adv_code"),
        ending: word("ending"),
        step: number("step"),
        sampled_at: number("sampled_at"),
        ended_at: number("ended_at"),
    })
}
