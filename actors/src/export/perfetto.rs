//! The run's timeline as a trace that Perfetto opens (the JSON trace format): lanes with their stages, rollouts from sampled to
//! ended, updates, published policies, queues and GPUs as counters, what happened to actors and nodes.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Value, json};

use super::ExportError;
use crate::inspect::Run;
use crate::inspect::filter::Filter;
use crate::inspect::query::summary;
use crate::store::SpanRow;

/// Rows of one read.
const CHUNK: usize = 5_000;
/// The trace's processes.
const LANES: u32 = 1;
const ROLLOUTS: u32 = 2;
const RUN: u32 = 3;
const COUNTERS: u32 = 4;

/// Writes one event a line, separated as JSON wants it. Times are microseconds since the run began.
struct Trace<W: Write> {
    out: W,
    began_ms: u64,
    events: usize,
}

impl<W: Write> Trace<W> {
    fn event(&mut self, event: &Value) -> std::io::Result<()> {
        self.out.write_all(if self.events == 0 { b"\n" } else { b",\n" })?;
        self.events += 1;
        serde_json::to_writer(&mut self.out, event)?;
        Ok(())
    }

    fn us(&self, at_ms: u64) -> i64 {
        1000 * (at_ms as i64 - self.began_ms as i64)
    }

    fn slice(&mut self, name: &str, tid: u32, from: u64, to: u64, args: Value) -> std::io::Result<()> {
        let (ts, dur) = (self.us(from), 1000 * to.saturating_sub(from));
        self.event(&json!({
            "ph": "X", "pid": LANES, "tid": tid, "name": name, "cat": "lane", "ts": ts, "dur": dur, "args": args,
        }))
    }

    fn instant(&mut self, name: String, at_ms: u64, args: Value) -> std::io::Result<()> {
        let ts = self.us(at_ms);
        self.event(&json!({ "ph": "i", "s": "p", "pid": RUN, "tid": 1, "name": name, "ts": ts, "args": args }))
    }
}

/// Writes the trace; the number of its events. `filter` says which rollouts are in it (none: all).
///
/// # Errors
/// The store cannot be read, or `out` not be written.
pub fn write(run: &Run, filter: Option<&Filter>, out: impl Write) -> Result<usize, ExportError> {
    let reader = run.reader()?;
    let began_ms = reader.meta("started_at")?.and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut trace = Trace { out, began_ms, events: 0 };
    trace.out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[")?;
    for (pid, name) in [(LANES, "lanes"), (ROLLOUTS, "rollouts"), (RUN, "run"), (COUNTERS, "counters")] {
        trace.event(&json!({ "ph": "M", "pid": pid, "name": "process_name", "args": { "name": name } }))?;
    }
    let mut lanes: BTreeMap<String, u32> = BTreeMap::new();
    let mut after = 0;
    loop {
        let spans = reader.spans_after(after, CHUNK)?;
        let Some(last) = spans.last() else { break };
        after = last.id;
        for span in &spans {
            let next = lanes.len() as u32 + 1;
            let tid = *lanes.entry(span.lane.clone()).or_insert(next);
            if tid == next {
                let name = json!({ "name": span.lane });
                trace.event(&json!({ "ph": "M", "pid": LANES, "tid": tid, "name": "thread_name", "args": name }))?;
            }
            write_span(&mut trace, span, tid)?;
        }
    }
    let ids = run.matching(filter)?;
    let table = run.table();
    for id in ids {
        let Some(s) = table.row(id).and_then(|row| summary(&table, row)) else { continue };
        let (Some(from), Some(to)) = (s.sampled_at, s.ended_at) else { continue };
        let args = json!({
            "task": s.task, "phase": s.phase, "verdict": s.verdict, "ending": s.ending, "step": s.step,
            "reward_plan": s.reward_plan, "reward_code": s.reward_code, "tokens": s.n_tokens,
        });
        let name = format!("rollout {id}");
        for (ph, at) in [("b", from), ("e", to)] {
            let ts = trace.us(at);
            trace.event(&json!({
                "ph": ph, "pid": ROLLOUTS, "tid": 1, "cat": "rollout", "id": id, "name": name, "ts": ts, "args": args,
            }))?;
        }
    }
    for row in reader.steps()? {
        let name = format!("policy {} published", row.policy);
        trace.instant(name, row.at_ms, json!({ "step": row.step.0, "applied": row.applied }))?;
    }
    after = 0;
    loop {
        let happenings = reader.happenings_after(after, CHUNK)?;
        let Some(last) = happenings.last() else { break };
        after = last.id;
        for h in happenings.into_iter().map(|h| h.row) {
            trace.instant(format!("{} {}", h.actor, h.what), h.at_ms, json!({ "about": h.detail }))?;
        }
    }
    after = 0;
    loop {
        let samples = reader.samples_after(after, CHUNK)?;
        let Some(last) = samples.last() else { break };
        after = last.id;
        for row in samples.into_iter().map(|s| s.row) {
            let ts = trace.us(row.at_ms);
            for (name, value) in row.value.as_object().into_iter().flatten().filter(|(_, v)| v.is_number()) {
                let name = format!("{}: {name}", row.source);
                let args = json!({ "value": value });
                trace.event(&json!({ "ph": "C", "pid": COUNTERS, "name": name, "ts": ts, "args": args }))?;
            }
        }
    }
    reader.unmoved()?;
    trace.out.write_all(b"\n]}\n")?;
    trace.out.flush()?;
    Ok(trace.events)
}

/// The span, and its stages inside it. One that goes on lasts to its last known moment.
fn write_span<W: Write>(trace: &mut Trace<W>, span: &SpanRow, tid: u32) -> std::io::Result<()> {
    let last = span.stages.last().map_or(0, |(_, at)| *at);
    let to = span.ended_ms.unwrap_or(span.began_ms + last);
    let other = if span.lane == "learner" { "update" } else { "no rollout" };
    let name = span.rollout.map_or_else(|| other.to_string(), |id| format!("rollout {id}"));
    let args = json!({ "rollout": span.rollout, "attempt": span.attempt, "ending": span.ending });
    trace.slice(&name, tid, span.began_ms, to, args)?;
    for (n, (stage, at)) in span.stages.iter().enumerate() {
        let end = span.stages.get(n + 1).map_or(to, |(_, next)| span.began_ms + next);
        trace.slice(stage, tid, span.began_ms + at, end, json!({}))?;
    }
    Ok(())
}
