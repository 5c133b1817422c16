//! Tasks, executors and actors in the terminal: the web pages in short.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Table};
use serde_json::Value;

use super::app::{App, Work};
use crate::cli::printable;
use crate::inspect::leases::{Hold, Lease};
use crate::inspect::notes::Timeline;
use crate::store::HappeningRow;

/// From none to all.
const BARS: [char; 9] =
    [' ', '\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}', '\u{2588}'];
/// Happenings and faults that are listed.
const LISTED: usize = 30;
const UNNOTED: &str = "this run noted none of it: it was made by a program before store format 2";

pub fn tasks(frame: &mut Frame<'_>, area: Rect, app: &mut App) {
    let Some(all) = &app.tasks else { return frame.render_widget("reading ..", area) };
    let percent = |(of, good): (u64, u64)| match of {
        0 => "-".to_string(),
        of => format!("{:.0} %", 100.0 * good as f64 / of as f64),
    };
    let spark = |parts: &[Option<f64>]| -> String {
        let bar = |share: &Option<f64>| share.map_or('\u{b7}', |share| BARS[((share * 8.0).round() as usize).min(8)]);
        parts.iter().map(bar).collect()
    };
    let rows = all.iter().map(|t| {
        Row::new([
            printable(&t.task),
            t.level.map_or("-".into(), |n| n.to_string()),
            t.split.map_or("-".into(), |s| format!("{s:?}").to_lowercase()),
            t.answers.to_string(),
            percent((t.answers, t.passed)),
            spark(&t.over_time),
            percent(t.before),
            percent(t.after),
            t.open.to_string(),
        ])
    });
    let names = ["task", "level", "split", "answers", "solved", "over training", "before", "after", "in flight"];
    let widths = [40, 5, 8, 8, 7, 13, 7, 7, 9].map(Constraint::Length);
    let title = format!("{} tasks", all.len());
    let table = Table::new(rows, widths)
        .header(Row::new(names).style(Style::new().bold()))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::bordered().title(title));
    frame.render_stateful_widget(table, area, &mut app.table);
}

fn head(text: &str) -> Line<'static> {
    Line::from(text.to_string()).bold().cyan()
}

fn show(frame: &mut Frame<'_>, area: Rect, lines: Vec<Line<'static>>, scroll: &mut u16) {
    // The last line stays in sight.
    *scroll = (*scroll).min(lines.len().saturating_sub(1) as u16);
    frame.render_widget(Paragraph::new(lines).scroll((*scroll, 0)), area);
}

pub fn executors(frame: &mut Frame<'_>, area: Rect, app: &mut App) {
    let Some(work) = &app.work else { return frame.render_widget("reading ..", area) };
    let lines = executor_lines(work, area.width >= super::draw::WIDE);
    show(frame, area, lines, &mut app.scroll);
}

/// Where there is no room for it, a lease's stage and GPU are on a line of their own.
fn executor_lines(Work { crew, timeline }: &Work, wide: bool) -> Vec<Line<'static>> {
    let mut out = Vec::new();
    if !timeline.noted {
        out.push(Line::from(UNNOTED));
    }
    out.push(head(if timeline.live {
        "lanes and leases"
    } else {
        "lanes, and what was held when the run said its last word"
    }));
    let (slot, last) = if wide { (28, "  stage, for              GPU") } else { (20, "") };
    out.push(Line::from(format!(
        "{:<slot$} {:>5}  {:<12} {:>14} {:>8} {:>8}{last}",
        "slot", "busy", "holds", "rollout", "for", "taken in"
    )));
    let mut shown: Vec<&str> = Vec::new();
    for lane in &timeline.lanes {
        let lease = timeline.leases.iter().find(|lease| lease.lane == lane.name);
        shown.push(&lane.name);
        out.extend(lane_lines((timeline, wide), &lane.name, Some(lane.busy), lane.gpu.as_deref(), lease));
    }
    // What began before the window.
    for lease in timeline.leases.iter().filter(|lease| !shown.contains(&lease.lane.as_str())) {
        out.extend(lane_lines((timeline, wide), &lease.lane, None, lease.gpu.as_deref(), Some(lease)));
    }
    for (name, source) in timeline.sources.iter().filter(|(name, _)| name.starts_with("gpu ")) {
        let v = &source.last;
        let n = |key: &str| v[key].as_f64().map_or("-".to_string(), |x| format!("{x:.0}"));
        out.push(head(&format!("{name}: {}", printable(v["name"].as_str().unwrap_or("")))));
        let gib = v["memory_used_bytes"].as_f64().map_or("-".into(), |x| format!("{:.1}", x / f64::from(1 << 30)));
        out.push(match v["error"].as_str() {
            Some(error) => Line::from(printable(error)).red(),
            None => Line::from(format!(
                "{} MHz  {} W  {} C  {} % in use  {gib} GiB  on it {}  waiting to be checked {}, timed {}",
                n("sm_mhz"),
                n("power_w"),
                n("temperature_c"),
                n("utilisation_percent"),
                n("inside"),
                n("waiting_to_check"),
                n("waiting_to_time")
            )),
        });
    }
    if let Some(pool) = timeline.sources.get("pool") {
        let n = |key: &str| pool.last[key].as_u64().map_or("-".to_string(), |n| n.to_string());
        out.push(head("pool"));
        out.push(Line::from(format!(
            "executors {}  busy {}  candidates waiting {}  the oldest for {} ms",
            n("executors"),
            n("busy"),
            n("queued"),
            n("oldest_ms")
        )));
        out.extend(nodes(&pool.last));
    }
    out.push(head(&format!(
        "where the time goes: the newest {} executed ({} of them reused), ms",
        crew.reports, crew.reused
    )));
    for (phase, s) in &crew.phases {
        let name = printable(phase);
        out.push(Line::from(format!("{name:<28} median {:>9.1}  p95 {:>9.1}  max {:>9.1}", s.median, s.p95, s.max)));
    }
    out.extend(faults(crew));
    out
}

fn lane_lines(
    (timeline, wide): (&Timeline, bool),
    name: &str,
    busy: Option<f64>,
    gpu: Option<&str>,
    lease: Option<&Lease>,
) -> Vec<Line<'static>> {
    let slot = if wide { 28 } else { 20 };
    let ago = |ms: u64| format!("{:.1} s", timeline.to.saturating_sub(ms) as f64 / 1000.0);
    let busy = busy.map_or("-".into(), |busy| format!("{:.0} %", 100.0 * busy));
    let gpu = gpu.map_or(String::new(), printable);
    let name = shortened(&printable(name), slot);
    let Some(l) = lease else {
        let last = if wide { format!("  {:<22}  {gpu}", "-") } else { String::new() };
        let line = format!("{name:<slot$} {busy:>5}  {:<12} {:>14} {:>8} {:>8}{last}", "-", "-", "-", "-");
        return vec![Line::from(line).dim()];
    };
    let (holds, colour) = match l.hold {
        Hold::Alone => ("GPU, alone", Color::Yellow),
        Hold::Shared => ("GPU, shared", Color::Green),
        Hold::Waits => ("waits", Color::Reset),
        Hold::None => ("slot", Color::Reset),
        Hold::Learner => ("its place", Color::Reset),
        Hold::Unknown => ("not known", Color::Reset),
    };
    let stage =
        l.stage.as_deref().map_or("-".into(), |stage| format!("{}, {}", printable(stage), ago(l.stage_since_ms)));
    let left = l.deadline_ms.map_or("-".into(), |at| format!("{:.0} s", (at as f64 - timeline.to as f64) / 1000.0));
    let rollout = l.rollout.map_or("-".into(), |id| id.to_string());
    let mut spans = vec![
        Span::raw(format!("{name:<slot$} {busy:>5}  ")),
        Span::raw(format!("{holds:<12}")).fg(colour),
        Span::raw(format!(" {rollout:>14} {:>8} {left:>8}", ago(l.since_ms))),
    ];
    if wide {
        spans.push(Span::raw(format!("  {stage:<22}  {gpu}")));
        return vec![Line::from(spans)];
    }
    vec![Line::from(spans), Line::from(format!("    {stage}  {gpu}")).dim()]
}

/// Its end is what tells executors of one node apart.
fn shortened(name: &str, most: usize) -> String {
    match name.chars().count().saturating_sub(most) {
        0 => name.to_string(),
        over => std::iter::once('\u{2026}').chain(name.chars().skip(over + 1)).collect(),
    }
}

fn nodes(pool: &Value) -> Vec<Line<'static>> {
    let node = |n: &Value| {
        let number = |key: &str| n[key].as_u64().unwrap_or(0);
        let text = |key: &str| printable(n[key].as_str().unwrap_or("-"));
        Line::from(format!(
            "node {}: {}, {} executors, {} busy, {} answered",
            text("name"),
            text("state"),
            number("executors"),
            number("busy"),
            number("answered")
        ))
    };
    pool["nodes"].as_array().map_or_else(Vec::new, |all| all.iter().map(node).collect())
}

pub fn actors(frame: &mut Frame<'_>, area: Rect, app: &mut App) {
    let Some(work) = &app.work else { return frame.render_widget("reading ..", area) };
    let lines = actor_lines(work);
    show(frame, area, lines, &mut app.scroll);
}

/// Who starts whom again, the fault that says it was lost, and its number of rollouts and of messages in what the run says.
const TREE: [(&str, &str, Option<&str>, Option<&str>); 7] = [
    ("orchestrator", "F109", None, Some("mailbox_orchestrator")),
    ("  generators", "F101", Some("generators"), Some("mailbox_generators")),
    ("  judge", "F102", Some("judge"), Some("mailbox_judge")),
    ("  pool", "", None, Some("mailbox_pool")),
    ("    executors", "F103", Some("executors"), None),
    ("    LLM judge", "F118", None, None),
    ("  learner", "F104", Some("learner"), Some("mailbox_learner")),
];

fn actor_lines(Work { crew, timeline }: &Work) -> Vec<Line<'static>> {
    let mut out = Vec::new();
    if !timeline.noted {
        out.push(Line::from(UNNOTED));
    }
    let run = timeline.sources.get("run").map(|source| &source.last);
    let said = |key: Option<&str>| {
        let number = key.and_then(|key| run?[key].as_u64());
        number.map_or("-".to_string(), |n| n.to_string())
    };
    out.push(head("supervision"));
    out.push(Line::from(format!("{:<18} {:>9} {:>9} {:>6} {:>9}", "actor", "rollouts", "mailbox", "lost", "restarts")));
    for (name, code, has, mailbox) in TREE {
        let actor = name.trim();
        let restarted = |h: &&HappeningRow| {
            h.what == "restarted" && (h.actor == actor || (actor == "executors" && h.actor.starts_with("executor ")))
        };
        let restarts = timeline.happenings.iter().filter(restarted).count();
        let lost = crew.fault_counts.get(code).copied().unwrap_or(0);
        let line = Line::from(format!("{name:<18} {:>9} {:>9} {lost:>6} {restarts:>9}", said(has), said(mailbox)));
        out.push(if lost > 0 { line.yellow() } else { line });
    }
    out.push(head("rollouts in flight"));
    let stages: Vec<String> = crew.stages.iter().map(|(stage, n)| format!("{stage} {n}")).collect();
    out.push(Line::from(if stages.is_empty() { "none".into() } else { stages.join("  ") }));
    let credits = crew.credits.map_or("-".into(), |n| n.to_string());
    out.push(Line::from(format!("credits in use {} of {credits}", crew.in_flight)));
    out.push(head("what happened to actors and nodes, newest first"));
    out.extend(timeline.happenings.iter().take(LISTED).map(|h| {
        let text = format!(
            "{} ago  {}: {} {}",
            age(timeline.to, h.at_ms),
            printable(&h.actor),
            printable(&h.what),
            printable(&h.detail)
        );
        if h.what == "died" { Line::from(text).red() } else { Line::from(text) }
    }));
    out.extend(faults(crew));
    out
}

fn age(now: u64, at: u64) -> String {
    format!("{:>7.0} s", now.saturating_sub(at) as f64 / 1000.0)
}

fn faults(crew: &crate::inspect::crew::Crew) -> Vec<Line<'static>> {
    let mut out = vec![head("faults of ours, newest first")];
    if crew.faults.is_empty() {
        out.push(Line::from("none").green());
    }
    out.extend(crew.faults.iter().take(LISTED).map(|f| {
        let rollout = f.rollout.map_or(String::new(), |id| format!(" rollout {id}"));
        Line::from(format!("{}{rollout}: {}", printable(&f.code), printable(&f.message)))
    }));
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent};

    use super::*;
    use crate::inspect::Run;
    use crate::store::{Op, SampleRow, SpanRow, StoreConfig, Writer};
    use crate::watch::app::{After, View};
    use crate::watch::source::Source;

    fn screen(app: &mut App) -> String {
        screen_of(150, app)
    }

    fn screen_of(width: u16, app: &mut App) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, 40)).unwrap();
        terminal.draw(|frame| super::super::draw::draw(frame, app)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn tasks_executors_and_actors_are_shown_from_a_store_and_hostile_names_move_no_cursor() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Writer::start(StoreConfig::new(dir.path().to_path_buf()), Box::new(|_| {})).unwrap();
        let now = crate::flow::wall_ms();
        let hostile = "\u{1b}[2Jnode\u{202e}";
        let span = |id: u64, lane: &str, ended_ms| {
            Op::Span(SpanRow {
                id,
                lane: lane.into(),
                rollout: Some(41 + id),
                attempt: Some(1),
                began_ms: now - 10_000,
                ended_ms,
                stages: vec![("wait to time".into(), 0), ("time".into(), 4_000)],
                ending: ended_ms.map(|_| "report".to_string()),
            })
        };
        let sample = |source: &str, value| Op::Sample(SampleRow { at_ms: now, source: source.into(), value });
        let tasks = crate::bench::standins::tasks(2, rollout::task::Split::Train);
        let specs: Vec<_> = tasks.iter().map(|t| (*t.spec).clone()).collect();
        writer
            .handle()
            .send(vec![
                Op::Meta { key: "tasks", value: serde_json::to_string(&specs).unwrap() },
                span(1, "executor 0", None),
                span(2, &format!("{hostile}/executor 65536"), Some(now)),
                sample("run", serde_json::json!({ "executors": 3, "mailbox_pool": 17 })),
                sample(
                    "pool",
                    serde_json::json!({ "executors": 2, "busy": 1, "queued": 5, "oldest_ms": 70,
                    "nodes": [{ "name": hostile, "state": "working", "executors": 1, "busy": 0, "answered": 9 }] }),
                ),
                sample(
                    "gpu 0",
                    serde_json::json!({ "name": hostile, "sm_mhz": 1980, "power_w": 312.0, "temperature_c": 61,
                    "utilisation_percent": 97, "memory_used_bytes": 1u64 << 31, "inside": 1, "position": 0, "of": 1 }),
                ),
                Op::Happening(crate::store::HappeningRow {
                    at_ms: now,
                    actor: "executor 0".into(),
                    what: "restarted".into(),
                    detail: hostile.into(),
                }),
            ])
            .unwrap();
        writer.stop().unwrap();
        let run = Run::open(dir.path()).unwrap();
        run.catch_up().unwrap();
        let source = Source::Dir(Arc::new(run));
        let mut app = App::default();
        let mut press = |code: KeyCode| {
            assert_eq!(app.key(KeyEvent::from(code)), After::Ask);
            app.refresh(&source);
            assert_eq!(app.error, None);
            let shown = screen(&mut app);
            assert!(!shown.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{shown:?}");
            shown
        };
        let shown = press(KeyCode::Char('3'));
        assert!(shown.contains("2 tasks") && shown.contains("standin_000"), "{shown}");
        let shown = press(KeyCode::Tab);
        for part in [
            "executor 0",
            "GPU, alone",
            "42",
            "time, ",
            "1980 MHz  312 W  61 C  97 %",
            "2.0 GiB",
            "candidates waiting 5",
            "9 answered",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        // The same on a narrow screen, with a configuration for the deadline.
        let mut work = Work { crew: source.crew().unwrap(), timeline: source.timeline(120).unwrap() };
        let until = work.timeline.to + 580_000;
        work.timeline.leases[0].deadline_ms = Some(until);
        let narrow = screen_of(80, &mut App { view: View::Executors, work: Some(work), ..App::default() });
        for part in ["executor 0", "GPU, alone", "    time, ", "gpu 0 (", "taken in", "580 s"] {
            assert!(narrow.contains(part), "{part}: {narrow}");
        }
        let shown = press(KeyCode::Char('5'));
        for part in ["supervision", "    executors", "17", "restarted", "credits in use 0"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        press(KeyCode::Char('3'));
        app.key(KeyEvent::from(KeyCode::Char('j')));
        assert_eq!(app.key(KeyEvent::from(KeyCode::Enter)), After::Ask);
        assert_eq!((app.view, app.query.filter.as_str()), (View::Rollouts, "task = 'standin_000'"));
    }
}
