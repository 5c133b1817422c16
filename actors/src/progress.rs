//! A run in the terminal: bars on a terminal, one plain line a step elsewhere. Everything goes to stderr; a run never
//! waits for it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::observe::{Live, Observer, Progress, RunPhase};
use crate::store::rows::StepRow;

/// Where nobody redraws a line, work in progress is told this seldom.
const PLAIN_EVERY: Duration = Duration::from_secs(15);

/// Watches a run from the terminal.
pub struct Terminal {
    view: Mutex<View>,
}

enum View {
    Bars(Bars),
    Plain(Plain),
}

impl Terminal {
    /// Bars when stderr is a terminal, lines otherwise.
    pub fn new() -> Terminal {
        use std::io::IsTerminal as _;
        let view = if std::io::stderr().is_terminal() {
            View::Bars(Bars::new())
        } else {
            View::Plain(Plain { out: Box::new(std::io::stderr()), last: None })
        };
        Terminal { view: Mutex::new(view) }
    }

    /// Lines into `out`.
    pub fn plain(out: impl std::io::Write + Send + 'static) -> Terminal {
        Terminal { view: Mutex::new(View::Plain(Plain { out: Box::new(out), last: None })) }
    }

    /// Takes the bars away, so that what follows is printed below the last line.
    pub fn finish(&self) {
        if let View::Bars(bars) = &mut *self.lock() {
            bars.clear();
        }
    }

    fn lock(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Terminal::new()
    }
}

impl Observer for Terminal {
    fn on(&self, progress: Progress) {
        match &mut *self.lock() {
            View::Bars(bars) => bars.on(progress),
            View::Plain(plain) => plain.on(progress),
        }
    }
}

fn phase_name(phase: RunPhase) -> &'static str {
    match phase {
        RunPhase::SetUp => "set-up",
        RunPhase::WarmStart => "warm start",
        RunPhase::EvalBefore => "evaluation before RL",
        RunPhase::Rl => "RL",
        RunPhase::EvalAfter => "evaluation after RL",
        RunPhase::Summary => "summary",
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

/// One optimizer step in one line. Fields that the learner did not report are left out.
pub fn step_line(row: &StepRow) -> String {
    let number = |from: &Value, name: &str| from.get(name).and_then(Value::as_f64);
    let mut parts = vec![format!("step {:>4}", row.step), format!("policy {}", row.policy)];
    let batch = [
        ("reward_code", "correct", 3),
        ("reward_plan", "plan", 3),
        ("staleness_mean", "staleness", 2),
        ("answer_tokens", "tokens", 0),
    ];
    let report = [
        ("loss", "loss", 4),
        ("grad_norm", "grad", 3),
        ("clip_fraction", "clipped", 3),
        ("mismatch_kl", "mismatch", 5),
        ("ess", "ess", 3),
    ];
    for (from, fields) in [(&row.batch, &batch[..]), (&row.report, &report[..])] {
        for (key, label, digits) in fields {
            if let Some(x) = number(from, key) {
                parts.push(format!("{label} {}", rounded(x, *digits)));
            }
        }
    }
    if !row.applied {
        parts.push("SKIPPED".to_string());
    }
    parts.join("  ")
}

/// Without the sign of a rounded-away negative.
fn rounded(x: f64, digits: usize) -> String {
    let text = format!("{x:.digits$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.bytes().all(|b| matches!(b, b'0' | b'.')) => rest.to_string(),
        _ => text,
    }
}

/// The stages in one line.
fn live_line(live: &Live) -> String {
    let mut text = format!(
        "sampling {}  judging {}  executing {}  waiting {}  credits {}/{}  trained {}  dropped {}",
        live.sampling,
        live.judging,
        live.executing,
        live.waiting,
        live.credits_in_use,
        live.credits,
        live.trained,
        live.dropped
    );
    let (load, wanted) = (live.executors.load, live.executors.wanted);
    if wanted > load.executors {
        text.push_str(&format!("  executors {} ({wanted} would keep up)", load.executors));
    } else if load.saturated && load.queued > 0 {
        text.push_str(&format!("  executors {} (timing is at its limit: more GPUs would help)", load.executors));
    }
    if live.faults > 0 {
        text.push_str(&format!("  faults {}", live.faults));
    }
    text
}

/// Speed and quality in one line.
fn rate_line(live: &Live) -> String {
    let mut parts = vec![format!("{:.0} tokens/s", live.tokens_per_s), format!("{:.1} answers/s", live.scored_per_s)];
    if let Some(x) = live.recent_correct {
        parts.push(format!("correct {:.1} %", 100.0 * x));
    }
    if let Some(x) = live.zero_variance_rate {
        parts.push(format!("groups without gradient {:.0} %", 100.0 * x));
    }
    let all: u64 = live.staleness.iter().sum();
    if all > 0 {
        let mean = live.staleness.iter().enumerate().map(|(lag, n)| lag as f64 * *n as f64).sum::<f64>() / all as f64;
        parts.push(format!("staleness {mean:.2} (at most {})", live.staleness.len() - 1));
    }
    parts.push(format!("policy {}", live.policy));
    if live.training {
        parts.push("learner at work".to_string());
    }
    parts.join("  ")
}

struct Bars {
    all: MultiProgress,
    /// Steps, answers or examples of the present phase.
    main: ProgressBar,
    stages: ProgressBar,
    rates: ProgressBar,
}

impl Bars {
    fn new() -> Bars {
        let all = MultiProgress::new();
        let main = all.add(ProgressBar::new(0));
        let stages = all.add(ProgressBar::new(0));
        let rates = all.add(ProgressBar::new(0));
        // These templates are constants; a mistake in one would show the default style.
        let plain = ProgressStyle::with_template("   {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        stages.set_style(plain.clone());
        rates.set_style(plain);
        main.enable_steady_tick(Duration::from_millis(250));
        let bars = Bars { all, main, stages, rates };
        bars.spinner("set-up");
        bars
    }

    fn spinner(&self, message: &str) {
        let style = ProgressStyle::with_template("{spinner} {msg}  {elapsed}");
        self.main.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        self.main.set_message(message.to_string());
    }

    fn bar(&self, message: String, done: u64, total: u64) {
        let style = ProgressStyle::with_template("{spinner} {msg}  [{wide_bar}] {pos}/{len}  {elapsed}, {eta} left");
        self.main.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        self.main.set_length(total);
        self.main.set_position(done);
        self.main.set_message(message);
    }

    fn say(&self, text: String) {
        // An error means that the terminal is gone; the run goes on without it.
        let _ = self.all.println(text);
    }

    fn on(&mut self, progress: Progress) {
        match progress {
            Progress::Phase(phase) => {
                self.main.reset();
                self.spinner(phase_name(phase));
                self.stages.set_message("");
                self.rates.set_message("");
            }
            Progress::Note(text) => {
                self.say(text);
            }
            Progress::WarmStart { step, steps, loss } => self.bar(format!("warm start, loss {loss:.3}"), step, steps),
            Progress::Eval { phase, done, total, correct } => {
                let message = format!("{}, correct {:.1} %", phase_name(phase), percent(correct, done));
                self.bar(message, done, total);
            }
            Progress::Live(live) => {
                self.stages.set_message(live_line(&live));
                self.rates.set_message(rate_line(&live));
                if live.steps_total > 0 {
                    self.bar("RL steps".to_string(), live.steps_done, live.steps_total);
                }
            }
            Progress::Step(row) => self.say(step_line(&row)),
            Progress::Fault { code, message } => self.say(format!("fault {code}: {message} (ours; never scored)")),
            Progress::Stopping { after } => {
                self.say(format!("stopping after step {after}; press Ctrl-C again to stop at once"));
            }
        }
    }

    fn clear(&mut self) {
        for bar in [&self.main, &self.stages, &self.rates] {
            bar.finish_and_clear();
        }
    }
}

struct Plain {
    out: Box<dyn std::io::Write + Send>,
    /// When the last line about work in progress was written.
    last: Option<Instant>,
}

impl Plain {
    fn say(&mut self, text: &str) {
        // An error means that nobody reads it; the run goes on.
        let _ = writeln!(self.out, "{text}");
        let _ = self.out.flush();
    }

    /// True once every `PLAIN_EVERY`, and for what ends a phase.
    fn is_time(&mut self, end: bool) -> bool {
        let due = end || self.last.is_none_or(|at| at.elapsed() >= PLAIN_EVERY);
        if due {
            self.last = Some(Instant::now());
        }
        due
    }

    fn on(&mut self, progress: Progress) {
        match progress {
            Progress::Phase(phase) => {
                self.last = None;
                self.say(&format!("== {}", phase_name(phase)));
            }
            Progress::Note(text) => self.say(&text),
            Progress::WarmStart { step, steps, loss } => {
                if self.is_time(step == steps) {
                    self.say(&format!("warm start {step}/{steps}  loss {loss:.3}"));
                }
            }
            Progress::Eval { phase, done, total, correct } => {
                if self.is_time(done == total) {
                    let share = percent(correct, done);
                    self.say(&format!("{} {done}/{total}  correct {share:.1} %", phase_name(phase)));
                }
            }
            Progress::Live(live) => {
                if live.steps_total > 0 && self.is_time(false) {
                    self.say(&format!("{}  {}", live_line(&live), rate_line(&live)));
                }
            }
            Progress::Step(row) => {
                self.last = Some(Instant::now());
                self.say(&step_line(&row));
            }
            Progress::Fault { code, message } => self.say(&format!("fault {code}: {message} (ours; never scored)")),
            Progress::Stopping { after } => {
                self.say(&format!("stopping after step {after}; press Ctrl-C again to stop at once"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rollout::id::{PolicyVersion, StepId};
    use serde_json::json;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines(told: Vec<Progress>) -> Vec<String> {
        let written = Written::default();
        let terminal = Terminal::plain(written.clone());
        told.into_iter().for_each(|p| terminal.on(p));
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_string).collect()
    }

    fn row(applied: bool) -> StepRow {
        StepRow {
            step: StepId(7),
            policy: PolicyVersion(7),
            applied,
            report: json!({"loss": -0.01234, "grad_norm": 0.5}),
            batch: json!({"reward_code": 0.25, "staleness_mean": 0.5}),
            at_ms: 0,
        }
    }

    #[test]
    fn a_step_is_one_line_with_what_was_reported_and_nothing_made_up() {
        assert_eq!(
            step_line(&row(true)),
            "step    7  policy 7  correct 0.250  staleness 0.50  loss -0.0123  grad 0.500"
        );
        assert!(step_line(&row(false)).contains("SKIPPED"));
        assert_eq!((rounded(-0.00001, 4), rounded(-0.0001, 4)), ("0.0000".into(), "-0.0001".into()));
    }

    #[test]
    fn plain_output_has_every_step_but_not_every_tick() {
        let live = || Progress::Live(Live { steps_total: 3, ..Live::default() });
        let mut told = vec![Progress::Phase(RunPhase::Rl)];
        told.extend((0..50).map(|_| live()));
        told.push(Progress::Step(Box::new(row(true))));
        told.extend((0..50).map(|_| live()));
        told.push(Progress::Step(Box::new(row(true))));
        let out = lines(told);
        assert_eq!(out.iter().filter(|l| l.starts_with("step")).count(), 2, "{out:#?}");
        assert_eq!(out.iter().filter(|l| l.starts_with("sampling")).count(), 1, "{out:#?}");
    }

    #[test]
    fn the_end_of_a_phase_is_always_told() {
        let eval = |done| Progress::Eval { phase: RunPhase::EvalAfter, done, total: 9, correct: done / 3 };
        let out = lines((0..=9).map(eval).collect());
        assert_eq!(out.last().unwrap(), "evaluation after RL 9/9  correct 33.3 %");
        assert_eq!(out.len(), 2, "{out:#?}");
    }
}
