//! The screens of `troupe watch`.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table, Wrap};

use super::app::{App, View};
use super::pages;
use crate::cli::printable;
use crate::inspect::alarms::Level;
use crate::inspect::overview::{Curves, Overview, Status};
use crate::store::reader::RolloutSummary;

/// Columns from which on long lines are one line.
pub const WIDE: u16 = 130;

pub fn draw(frame: &mut Frame<'_>, app: &mut App) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
    frame.render_widget(title(app), head);
    match app.view {
        View::Overview => overview(frame, body, app.overview.as_ref()),
        View::Rollouts => rollouts(frame, body, app),
        View::Tasks => pages::tasks(frame, body, app),
        View::Executors => pages::executors(frame, body, app),
        View::Actors => pages::actors(frame, body, app),
        View::Rollout(_) => rollout(frame, body, app),
    }
    frame.render_widget(bottom(app), foot);
}

fn title(app: &App) -> Line<'static> {
    let tab = |name: &'static str, here: bool| {
        let span = Span::raw(format!(" {name} "));
        if here { span.add_modifier(Modifier::REVERSED) } else { span }
    };
    let tabs = [
        ("1 overview", View::Overview),
        ("2 rollouts", View::Rollouts),
        ("3 tasks", View::Tasks),
        ("4 executors", View::Executors),
        ("5 actors", View::Actors),
    ];
    let mut spans: Vec<Span<'_>> = tabs.into_iter().map(|(name, view)| tab(name, app.view == view)).collect();
    if let View::Rollout(id) = app.view {
        spans.push(tab("rollout", true));
        spans.push(Span::raw(format!(" {id}")));
    }
    // The overview lists them.
    if let Some(o) = app.overview.as_ref().filter(|o| app.view != View::Overview && !o.alarms.is_empty()) {
        let colour = if o.alarms[0].level == Level::Grave { Color::Red } else { Color::Yellow };
        let more = if o.alarms.len() > 1 { format!(" and {} more", o.alarms.len() - 1) } else { String::new() };
        spans.push(Span::raw(format!("  {}{more}", printable(&o.alarms[0].title))).fg(colour));
    }
    Line::from(spans)
}

fn bottom(app: &App) -> Line<'static> {
    if let Some(text) = &app.writing {
        return Line::from(vec![Span::raw("filter: ").bold(), Span::raw(printable(text)), Span::raw("_")]);
    }
    if let Some(error) = &app.error {
        let text: Vec<&str> = error.lines().map(str::trim).collect();
        return Line::from(printable(&text.join("; "))).red();
    }
    Line::from(match app.view {
        View::Overview => "1-5 Tab pages  / filter  q leave",
        View::Tasks => "j k move  Enter its rollouts  1-5 Tab pages  q leave",
        View::Executors | View::Actors => "j k scroll  1-5 Tab pages  q leave",
        View::Rollouts => "j k move  Enter open  / filter  n p pages  Esc back  q leave",
        View::Rollout(_) => "j k scroll  Space page  Esc back  q leave",
    })
    .dim()
}

fn overview(frame: &mut Frame<'_>, area: Rect, overview: Option<&Overview>) {
    let Some(o) = overview else { return frame.render_widget("reading ..", area) };
    let alarms = o.alarms.len().max(1) as u16;
    let counts =
        o.verdicts.len().max(o.hacks.classes.len()).max(o.ledger.values().map(|l| l.len() + 1).sum()).max(1) as u16;
    let [top, warn, tables, plots] = Layout::vertical([
        // Its two long lines are wrapped where they find no room.
        Constraint::Length(if area.width < WIDE { 5 } else { 3 }),
        Constraint::Length(alarms),
        Constraint::Length(counts + 2),
        Constraint::Fill(1),
    ])
    .areas(area);
    let (state, colour) = match &o.status {
        Status::Running(text) => (text, Color::Green),
        Status::Quiet(text) => (text, Color::Yellow),
        Status::Finished(text) => (text, Color::Reset),
    };
    let last = |name: &str| o.last.get(name).copied();
    let shown = |x: Option<f64>| x.map_or("-".to_string(), |x| format!("{x:.3}"));
    let steps = o.steps.x.last().copied().unwrap_or(0.0);
    frame.render_widget(
        Paragraph::new(vec![
            Line::from(vec![
                Span::raw(printable(&o.run_dir)).bold(),
                Span::raw("  "),
                Span::raw(state.clone()).fg(colour),
            ]),
            Line::from(format!(
                "step {steps} of {}  correct {}  plan {}  fast_1 {}  staleness {}  mismatch KL {}  in flight {}",
                o.steps_planned.map_or("-".to_string(), |n| n.to_string()),
                shown(last("batch.reward_code")),
                shown(last("batch.reward_plan")),
                shown(last("batch.scored_fast_1")),
                shown(last("batch.staleness_mean")),
                last("learner.mismatch_kl").map_or("-".to_string(), |x| format!("{x:.1e}")),
                o.pulse.open,
            )),
            Line::from(o.queues.as_ref().map(queues).unwrap_or_default()),
        ])
        .wrap(Wrap { trim: true }),
        top,
    );
    let alarms: Vec<Line<'_>> = match o.alarms.as_slice() {
        [] => vec![Line::from("no alarm").green()],
        all => all
            .iter()
            .map(|a| {
                let colour = if a.level == Level::Grave { Color::Red } else { Color::Yellow };
                Line::from(vec![Span::raw(format!("{}: ", a.title)).bold(), Span::raw(printable(&a.detail))]).fg(colour)
            })
            .collect(),
    };
    frame.render_widget(Paragraph::new(alarms), warn);
    // As much for each as its longest names take, so that all counts are seen at 80 columns too.
    let [left, middle, hacked, right] = Layout::horizontal([26, 23, 21, 10].map(Constraint::Fill)).areas(tables);
    let mut ledger = Vec::new();
    for (phase, endings) in &o.ledger {
        ledger.push(Line::from(phase.clone()).bold());
        ledger.extend(endings.iter().map(|(ending, n)| counted(&format!(" {ending}"), *n, left)));
    }
    frame.render_widget(Paragraph::new(ledger).block(Block::bordered().title("ledger")), left);
    let verdicts: Vec<Line<'_>> = o.verdicts.iter().map(|(v, n)| counted(v, *n, middle)).collect();
    frame.render_widget(Paragraph::new(verdicts).block(Block::bordered().title("training verdicts")), middle);
    let hacks: Vec<Line<'_>> = match o.hacks.classes.is_empty() {
        true => vec![Line::from("none").green()],
        false => o.hacks.classes.iter().map(|(class, n)| counted(class, *n, hacked)).collect(),
    };
    let rate = o.hacks.rate().map_or(String::new(), |rate| format!(" {:.1} %", 100.0 * rate));
    frame.render_widget(Paragraph::new(hacks).block(Block::bordered().title(format!("hacks{rate}"))), hacked);
    let faults: Vec<Line<'_>> = match o.faults.is_empty() {
        true => vec![Line::from("none").green()],
        false => o.faults.iter().map(|(c, n)| counted(c, *n, right)).collect(),
    };
    frame.render_widget(Paragraph::new(faults).block(Block::bordered().title("faults")), right);
    let rows: [Rect; 2] = Layout::vertical([Constraint::Fill(1); 2]).areas(plots);
    let curves = [
        ("correct (batch)", &o.steps, "batch.reward_code"),
        ("entropy of code tokens", &o.steps, "learner.entropy_code"),
        ("mismatch KL", &o.steps, "learner.mismatch_kl"),
        ("rollouts per second", &o.throughput, "rollouts_per_s"),
    ];
    for (n, (name, curves, key)) in curves.into_iter().enumerate() {
        let cells: [Rect; 2] = Layout::horizontal([Constraint::Fill(1); 2]).areas(rows[n / 2]);
        spark(
            frame,
            cells[n % 2],
            name,
            curves,
            (key, last(key).or(o.rollouts_per_s.filter(|_| key == "rollouts_per_s"))),
        );
    }
}

/// A name and its count, in a box: the count is whole, and the name is cut where both find no room. Not wider than can be read.
fn counted(name: &str, n: u64, area: Rect) -> Line<'static> {
    let width = usize::from(area.width.saturating_sub(2)).min(30);
    let n = n.to_string();
    let room = width.saturating_sub(n.len() + 1);
    let name: String = name.chars().take(room).collect();
    Line::from(format!("{name:<room$} {n}"))
}

/// How many messages wait for whom.
fn queues(said: &serde_json::Value) -> String {
    let number = |name: &str| said[name].as_u64().map_or("-".to_string(), |n| n.to_string());
    let names = ["orchestrator", "generators", "judge", "pool", "learner"];
    let boxes: Vec<String> =
        names.iter().map(|name| format!("{name} {}", number(&format!("mailbox_{name}")))).collect();
    format!(
        "mailboxes: {}  store {}  credits {} of {}",
        boxes.join(" "),
        number("store_batches"),
        number("credits_in_use"),
        number("credits")
    )
}

/// The curve `key`, with its newest number in the title: the last point of a long curve is a mean.
fn spark(frame: &mut Frame<'_>, area: Rect, name: &str, curves: &Curves, (key, newest): (&str, Option<f64>)) {
    const FULL: f64 = 1000.0;
    let all: Vec<f64> = curves.y.get(key).map_or_else(Vec::new, |all| all.iter().flatten().copied().collect());
    let shown = &all[all.len().saturating_sub(usize::from(area.width.saturating_sub(2)))..];
    let max = shown.iter().copied().fold(0.0, f64::max);
    let title = match newest.as_ref().or(shown.last()) {
        Some(last) => format!("{name}: {last:.4} (top of the plot {max:.4})"),
        None => format!("{name}: nothing yet"),
    };
    let bars: Vec<u64> = shown.iter().map(|x| if max > 0.0 { (x / max * FULL).max(0.0) as u64 } else { 0 }).collect();
    let plot = Sparkline::default().data(bars).max(FULL as u64).style(Style::new().fg(Color::Cyan));
    frame.render_widget(plot.block(Block::bordered().title(title)), area);
}

fn rollouts(frame: &mut Frame<'_>, area: Rect, app: &mut App) {
    let Some(page) = &app.page else { return frame.render_widget("reading ..", area) };
    let found = match (page.matching, page.searched) {
        (Some(n), _) => format!("{n} of {}", page.all),
        (None, Some((seen, of))) => format!("in the first {seen} of {of}"),
        (None, None) => String::new(),
    };
    let title = format!("{found}, from {}  {}", app.query.offset + 1, printable(&app.query.filter));
    let names = ["id", "phase", "task", "state", "verdict", "plan", "code", "tokens", "policy", "step"];
    let widths = [14, 11, 40, 14, 14, 6, 6, 7, 7, 6].map(Constraint::Length);
    let table = Table::new(page.rollouts.iter().map(row), widths)
        .header(Row::new(names).style(Style::new().bold()))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::bordered().title(title));
    frame.render_stateful_widget(table, area, &mut app.table);
}

fn row(r: &RolloutSummary) -> Row<'static> {
    let real = |x: Option<f64>| x.map_or("-".to_string(), |x| format!("{x:.2}"));
    let number = |n: Option<u64>| n.map_or("-".to_string(), |n| n.to_string());
    let verdict = r.verdict.clone().unwrap_or_else(|| "-".into());
    let colour = match verdict.as_str() {
        "passed" => Color::Green,
        "-" => Color::Reset,
        _ => Color::Red,
    };
    Row::new([
        Cell::from(r.id.to_string()),
        Cell::from(r.phase.as_str()),
        Cell::from(printable(&r.task.0)),
        Cell::from(r.ending.clone().unwrap_or_else(|| r.state.clone())),
        Cell::from(verdict).fg(colour),
        Cell::from(real(r.reward_plan)),
        Cell::from(real(r.reward_code)),
        Cell::from(number(r.n_tokens)),
        Cell::from(number(r.policy_oldest)),
        Cell::from(number(r.step)),
    ])
}

fn rollout(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let lines: Vec<Line<'_>> = app
        .lines
        .iter()
        .map(|l| if l.starts_with("-- ") { Line::from(l.as_str()).bold().cyan() } else { Line::from(l.as_str()) })
        .collect();
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).scroll((app.scroll, 0)), area);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use rollout::id::{PolicyVersion, StepId};

    use super::*;
    use crate::inspect::Run;
    use crate::store::{Op, StepRow, StoreConfig, Writer};
    use crate::watch::source::Source;

    fn screen(app: &mut App) -> String {
        let mut terminal = Terminal::new(TestBackend::new(100, 12)).unwrap();
        terminal.draw(|frame| draw(frame, app)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn what_a_model_wrote_cannot_reach_the_terminal() {
        let hostile = "a\u{1b}[2Jb\u{202e}c\u{9b}31md\u{7}";
        let mut app = App { view: View::Rollout(7), lines: vec![printable(hostile)], ..App::default() };
        let shown = screen(&mut app);
        assert!(shown.contains("rollout") && shown.contains("[2Jb"), "{shown}");
        assert!(!shown.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{shown:?}");
        app.error = Some(hostile.into());
        app.writing = Some(hostile.into());
        let shown = screen(&mut app);
        assert!(!shown.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{shown:?}");
    }

    /// The last point of the curves is a mean of three steps here.
    #[test]
    fn the_head_line_says_what_the_last_step_was_and_not_a_mean() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Writer::start(StoreConfig::new(dir.path().to_path_buf()), Box::new(|_| {})).unwrap();
        let step = |n: u64| {
            Op::Step(Box::new(StepRow {
                step: StepId(n),
                policy: PolicyVersion(n),
                applied: true,
                report: serde_json::json!({}),
                batch: serde_json::json!({ "reward_code": n as f64 / 1000.0 }),
                at_ms: n,
            }))
        };
        writer.handle().send((1..=603).map(step).collect()).unwrap();
        writer.stop().unwrap();
        let run = Run::open(dir.path()).unwrap();
        run.catch_up().unwrap();
        let mut app = App::default();
        app.refresh(&Source::Dir(Arc::new(run)));
        assert!(app.overview.as_ref().unwrap().steps.x.len() < 603);
        let shown = screen(&mut app);
        assert!(shown.contains("step 603 of -  correct 0.603"), "{shown}");
    }

    #[test]
    fn all_counts_are_seen_at_eighty_columns() {
        let dir = tempfile::tempdir().unwrap();
        Writer::start(StoreConfig::new(dir.path().to_path_buf()), Box::new(|_| {})).unwrap().stop().unwrap();
        let run = Run::open(dir.path()).unwrap();
        run.catch_up().unwrap();
        let mut overview = run.overview().unwrap();
        let count = |name: &str, n: u64| (name.to_string(), n);
        let train = ["trained", "zero_variance", "group_too_small", "stale"].into_iter().zip(1_111_111..);
        overview.ledger = [("train".to_string(), train.map(|(name, n)| count(name, n)).collect())].into();
        overview.verdicts = [count("compile_error", 2_222_222), count("out_of_memory", 2_222_223)].into();
        overview.hacks.answers = 9;
        overview.hacks.classes = [count("conditional", 3_333_333), count("delegation", 3_333_334)].into();
        overview.faults = [count("F101", 444)].into();
        // Alarms are asked for on every page.
        let source = Source::Dir(Arc::new(run));
        let mut other = App { view: View::Rollouts, ..App::default() };
        other.refresh(&source);
        assert!(other.overview.is_some() && other.is_told(crate::watch::app::ALARMS));
        (other.overview, other.told) = (None, None);
        other.refresh_alarms(&source);
        assert!(other.overview.is_some());
        let mut app = App { overview: Some(overview), ..App::default() };
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(frame, &mut app)).unwrap();
        let shown = terminal.backend().to_string();
        for part in [
            "trained         1111111",
            "zero_variance   1111112",
            "group_too_small 1111113",
            "compile_error 2222222",
            "conditional 3333333",
            "delegation  3333334",
            "F101 444",
            "mismatch KL -  in flight",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }

    #[test]
    fn before_anything_is_read_every_view_is_drawn() {
        for view in [View::Overview, View::Rollouts, View::Tasks, View::Executors, View::Actors, View::Rollout(1)] {
            let shown = screen(&mut App { view, ..App::default() });
            assert!(shown.contains("1 overview") && shown.contains("q leave"), "{shown}");
        }
    }
}
