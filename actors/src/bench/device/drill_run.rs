//! The fault drill: the executors' process is killed too, and started again for what it had not answered. Every honest verdict
//! has to be what it is without faults, no slot may be lost, no process may stay behind.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::drill::candidates;
use super::drill_lanes::{Said, below};
use super::{Item, quantile};

/// The executors' process is killed when this share of the verdicts has come, in percent.
const KILL_AT: [usize; 2] = [30, 65];
/// Without a line for so long the drill is over.
const SILENCE: Duration = Duration::from_secs(120);
/// What is left of a killed process has this long to end.
const GONE: Duration = Duration::from_secs(20);

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Drill {
    pub candidates: usize,
    pub honest: usize,
    pub honest_right: usize,
    /// Kind to the verdicts that it came to.
    pub kinds: BTreeMap<String, BTreeMap<String, usize>>,
    /// What was killed from outside: milliseconds until the next verdict, for each time.
    pub kills: BTreeMap<String, Vec<f64>>,
    /// Milliseconds until no process was left of a killed executors' process; none where some were.
    pub gone_ms: Vec<Option<f64>>,
    /// Faults that were tried again.
    pub faults: usize,
    pub seconds: f64,
    /// The slots' states at the end.
    pub slots: Vec<String>,
    pub wrong: Vec<String>,
}

impl Drill {
    /// Whether everything came out as it has to.
    pub fn held(&self) -> bool {
        self.wrong.is_empty()
            && self.honest_right == self.honest
            && self.gone_ms.iter().all(Option::is_some)
            && !self.slots.is_empty()
            && self.slots.iter().all(|s| s.starts_with("Free"))
    }
}

impl std::fmt::Display for Drill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slots = if self.slots.is_empty() { "not told".to_owned() } else { self.slots.join(", ") };
        write!(
            f,
            "drill: {} of {} honest candidates right, of {} in all; {} faults tried again; {:.0} s; slots at the end: {slots}",
            self.honest_right, self.honest, self.candidates, self.faults, self.seconds
        )?;
        for (kind, verdicts) in &self.kinds {
            let verdicts: Vec<String> = verdicts.iter().map(|(v, n)| format!("{v} {n}")).collect();
            write!(f, "\n  {kind:<20} {}", verdicts.join(", "))?;
        }
        for (kind, ms) in &self.kills {
            let (p50, worst) = (quantile(&mut ms.clone(), 0.5), quantile(&mut ms.clone(), 1.0));
            let times = ms.len();
            write!(
                f,
                "\n  SIGKILL of {kind}: {times} times, next verdict after {p50:.0} ms (median), at most {worst:.0} ms"
            )?;
        }
        for gone in &self.gone_ms {
            match gone {
                Some(ms) => write!(f, "\n  no process of the killed executors was left after {ms:.0} ms")?,
                None => write!(f, "\n  PROCESSES of the killed executors were left after {} s", GONE.as_secs())?,
            }
        }
        for wrong in &self.wrong {
            write!(f, "\n  WRONG {wrong}")?;
        }
        Ok(())
    }
}

/// `arguments`: those of the executors' process, which is this program again. `say` is told what happens, as it happens.
///
/// # Errors
/// It cannot be started, says nothing for two minutes, or ends without having done anything.
pub async fn drill(honest: &Item, count: usize, arguments: &[String], say: impl Fn(String)) -> std::io::Result<Drill> {
    let made: Vec<Option<&'static str>> = candidates(honest, count).into_iter().map(|(kind, _)| kind).collect();
    let mut report =
        Drill { candidates: count, honest: made.iter().filter(|k| k.is_none()).count(), ..Drill::default() };
    let mut open: BTreeSet<usize> = (0..count).collect();
    let mut kills: Vec<(String, Instant)> = Vec::new();
    let mut kill_at = KILL_AT.iter().map(|share| count * share / 100).collect::<Vec<_>>();
    let began = Instant::now();
    while !open.is_empty() || report.slots.is_empty() {
        let mut child = start(arguments, &open).await?;
        let Some(out) = child.stdout.take() else { return Err(std::io::Error::other("no pipe from the executors")) };
        let mut lines = BufReader::new(out).lines();
        let had = open.len();
        loop {
            let line = timeout(SILENCE, lines.next_line()).await;
            let Some(line) = line.map_err(|_| std::io::Error::other("the executors say nothing"))?? else { break };
            match serde_json::from_str::<Said>(&line) {
                Ok(Said::Killed { kind }) => {
                    say(format!("{:>4.0} s: {} open; SIGKILL of a {kind}", began.elapsed().as_secs_f64(), open.len()));
                    kills.push((kind, Instant::now()));
                }
                Ok(Said::Slots { states }) => report.slots = states,
                Ok(Said::Verdict { item, verdict, outcome, faults, took_ms, long_ms }) => {
                    let stages: Vec<String> = long_ms.iter().map(|(stage, ms)| format!("{stage} {ms:.0}")).collect();
                    say(format!(
                        "{:>4.0} s: {item} ({}) {verdict} after {took_ms:.0} ms [{}]{}",
                        began.elapsed().as_secs_f64(),
                        made[item].unwrap_or("honest"),
                        stages.join(", "),
                        faults.iter().map(|f| format!("; tried again: {f}")).collect::<String>()
                    ));
                    for (kind, at) in kills.drain(..) {
                        let ms = at.elapsed().as_secs_f64() * 1e3;
                        say(format!("      the next verdict {ms:.0} ms after that of the {kind}"));
                        report.kills.entry(kind).or_default().push(ms);
                    }
                    report.faults += faults.len();
                    if open.remove(&item) {
                        report.count(made[item], item, &verdict, &outcome);
                    }
                }
                Err(_) => {}
            }
            if kill_at.first().is_some_and(|at| count - open.len() >= *at) {
                kill_at.remove(0);
                say(format!("{:>4.0} s: {} open; SIGKILL of the executors", began.elapsed().as_secs_f64(), open.len()));
                kills.push(("executors".into(), Instant::now()));
                report.gone_ms.push(kill(&mut child).await);
                break;
            }
        }
        let ended =
            timeout(GONE, child.wait()).await.map_err(|_| std::io::Error::other("the executors do not end"))??;
        if open.len() == had && (had > 0 || report.slots.is_empty()) {
            return Err(std::io::Error::other(format!("the executors ended without a verdict: {ended}")));
        }
    }
    report.wrong.extend(open.iter().map(|item| format!("{item} has no verdict")));
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

impl Drill {
    fn count(&mut self, kind: Option<&str>, item: usize, verdict: &str, outcome: &str) {
        let passed = verdict == "passed";
        match kind {
            None => {
                self.honest_right += usize::from(passed);
                if !passed {
                    self.wrong.push(format!("honest {item}: {outcome}"));
                }
            }
            Some(kind) => {
                *self.kinds.entry(kind.to_owned()).or_default().entry(verdict.to_owned()).or_default() += 1;
                if passed || verdict == "fault" {
                    self.wrong.push(format!("{kind} {item}: {outcome}"));
                }
            }
        }
    }
}

async fn start(arguments: &[String], open: &BTreeSet<usize>) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    if let Some(mut to) = child.stdin.take() {
        let written = timeout(GONE, to.write_all(json!(open).to_string().as_bytes())).await;
        written.map_err(|_| std::io::Error::other("the executors do not read"))??;
    }
    Ok(child)
}

/// Kills it; milliseconds until nothing below it is left.
async fn kill(child: &mut Child) -> Option<f64> {
    let all = child.id().map(below).unwrap_or_default();
    let began = Instant::now();
    timeout(GONE, child.kill()).await.ok()?.ok()?;
    while began.elapsed() < GONE {
        if all.iter().all(|pid| ended(*pid)) {
            return Some(began.elapsed().as_secs_f64() * 1e3);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    None
}

fn ended(pid: u32) -> bool {
    // A zombie holds nothing any more. The state follows the name, which is in brackets.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}
