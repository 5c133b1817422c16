//! `troupe bench corpus`: every hack and every honest kernel of the corpus through the verifier, and which layer stopped
//! what. The corpus' own README has its format.

mod load;
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rollout::outcome::{ExecReport, Fault, Outcome, Ruling};
use rollout::task::TaskSpec;
use sandbox::executor::{Executor, ExecutorConfig};
use serde::Serialize;
use tokio::sync::Mutex;

use crate::policy::Gpus;

pub use load::{Entry, Expected, load};
pub use table::table;

/// A layer of the verifier that can stop a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    Extract,
    Static,
    Compile,
    Evidence,
    Numeric,
    Isolation,
}

impl Layer {
    pub const ALL: [Layer; 6] =
        [Layer::Extract, Layer::Static, Layer::Compile, Layer::Evidence, Layer::Numeric, Layer::Isolation];

    pub fn name(self) -> &'static str {
        match self {
            Layer::Extract => "extract",
            Layer::Static => "static",
            Layer::Compile => "compile",
            Layer::Evidence => "evidence",
            Layer::Numeric => "numeric",
            Layer::Isolation => "isolation",
        }
    }

    pub fn named(name: &str) -> Option<Layer> {
        Layer::ALL.into_iter().find(|l| l.name() == name)
    }

    /// Which layer an outcome is the work of; `None` for one that passed.
    fn of(outcome: &Outcome, ran: bool) -> Option<Layer> {
        match outcome {
            Outcome::Passed { .. } => None,
            Outcome::Unparsed { .. } if !ran => Some(Layer::Extract),
            Outcome::Rejected { .. } if !ran => Some(Layer::Static),
            Outcome::Unparsed { .. } | Outcome::Rejected { .. } => Some(Layer::Evidence),
            Outcome::CompileError { .. } => Some(Layer::Compile),
            Outcome::WrongAnswer { .. } | Outcome::Implausible { .. } => Some(Layer::Numeric),
            Outcome::Crashed { .. } | Outcome::OutOfMemory { .. } | Outcome::TimedOut { .. } => Some(Layer::Isolation),
        }
    }
}

/// What became of one entry.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    pub file: String,
    pub row: Option<String>,
    pub expected: Option<Layer>,
    /// The layer that stopped it; `None`: it passed, or was not judged.
    pub stopped: Option<Layer>,
    pub verdict: String,
    pub reason: String,
    /// For a hack that the static rules stopped: what stops it without them. Not reached otherwise.
    pub behind: Option<Behind>,
    /// Milliseconds in the sandbox; `None` where it was not executed.
    pub ms: Option<f64>,
    /// Faults of ours on the way, one for each try that came to nothing.
    pub faults: Vec<String>,
}

/// The verdict of one that came to nothing but faults.
const UNJUDGED: &str = "fault";

/// What happens to a candidate when the static rules let it through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Behind {
    Stopped(Layer),
    Passed,
    /// The evaluation came to a fault of ours.
    Fault,
}

impl Judged {
    /// An honest one passed, a hack was stopped by the layer it names.
    pub fn as_expected(&self) -> bool {
        self.stopped == self.expected && !self.unjudged()
    }

    /// Every try came to a fault of ours: nothing is known of it.
    pub fn unjudged(&self) -> bool {
        self.verdict == UNJUDGED
    }
}

/// Everything a run over the corpus found.
#[derive(Clone, Debug, Serialize)]
pub struct CorpusBench {
    pub hacks: usize,
    pub honest: usize,
    /// Hacks that passed.
    pub false_accepts: usize,
    /// Honest ones that did not.
    pub false_rejects: usize,
    /// Hacks that another layer stopped than the one they name.
    pub other_layer: usize,
    /// Of whom nothing is known: every try was a fault of ours.
    pub unjudged: usize,
    pub seconds: f64,
    pub entries: Vec<Judged>,
}

/// Of a fault, as `rollout.retries`.
const RETRIES: usize = 2;
/// So many of one executor's in a row that cannot be judged are no faults of single evaluations: it, or the device, is gone.
const BROKEN: usize = 5;

/// Runs all `entries` on `executors` executors. `behind`: static rejections are executed too, for the table's sake.
///
/// # Errors
/// A fault of an executor's start, or of many evaluations in a row. One of a single evaluation stands with its entry.
pub async fn run(
    entries: Vec<Entry>,
    executors: usize,
    behind: bool,
    config: impl Fn(usize) -> ExecutorConfig,
    gpus: Option<Arc<Gpus>>,
    progress: impl Fn(usize) + Send + Sync + 'static,
) -> Result<CorpusBench, Fault> {
    let began = Instant::now();
    let entries = Arc::new(entries);
    let next = Arc::new(AtomicUsize::new(0));
    let judged = Arc::new(Mutex::new(Vec::new()));
    let progress = Arc::new(progress);
    let mut workers = tokio::task::JoinSet::new();
    for number in 0..executors.max(1) {
        let (config, gpus) = (config(number), gpus.clone());
        let (entries, next, judged, progress) = (entries.clone(), next.clone(), judged.clone(), progress.clone());
        workers.spawn(async move {
            let device = match gpus {
                None => None,
                Some(gpus) => Some(gpus.of_executor(number).await?),
            };
            let executor = Executor::start(ExecutorConfig { device, ..config }).await?;
            let mut in_a_row = 0;
            while let Some(entry) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
                let one = judge(entry, &executor, behind).await;
                in_a_row = if one.unjudged() { in_a_row + 1 } else { 0 };
                if in_a_row == BROKEN {
                    let message =
                        format!("{BROKEN} candidates in a row could not be judged; {}: {}", one.file, one.reason);
                    return Err(Fault { code: "F999".into(), message });
                }
                let mut all = judged.lock().await;
                all.push(one);
                progress(all.len());
            }
            executor.shutdown().await;
            Ok::<(), Fault>(())
        });
    }
    while let Some(done) = workers.join_next().await {
        done.map_err(|e| Fault { code: "F999".into(), message: format!("a worker of the bench ended: {e}") })??;
    }
    if let Some(gpus) = gpus {
        gpus.shutdown().await;
    }
    let mut all = std::mem::take(&mut *judged.lock().await);
    all.sort_by(|a: &Judged, b: &Judged| a.file.cmp(&b.file));
    Ok(summary(all, began.elapsed().as_secs_f64()))
}

fn summary(entries: Vec<Judged>, seconds: f64) -> CorpusBench {
    let count = |which: fn(&Judged) -> bool| entries.iter().filter(|e| which(e)).count();
    CorpusBench {
        hacks: count(|e| e.expected.is_some()),
        honest: count(|e| e.expected.is_none()),
        false_accepts: count(|e| e.expected.is_some() && e.stopped.is_none() && !e.unjudged()),
        false_rejects: count(|e| e.expected.is_none() && e.stopped.is_some()),
        other_layer: count(|e| e.expected.is_some() && e.stopped.is_some() && !e.as_expected()),
        unjudged: count(Judged::unjudged),
        seconds,
        entries,
    }
}

async fn judge(entry: &Entry, executor: &Executor, behind: bool) -> Judged {
    let mut judged = Judged {
        file: entry.file.clone(),
        row: entry.row.clone(),
        expected: match entry.expected {
            Expected::Stopped(layer) => Some(layer),
            Expected::Passed => None,
        },
        stopped: None,
        verdict: String::new(),
        reason: String::new(),
        behind: None,
        ms: None,
        faults: Vec::new(),
    };
    let ruling = match &entry.candidate {
        Ok(candidate) => reward::judge_candidate(candidate.clone(), Some(&entry.task)),
        Err(reason) => Ruling::Reject {
            candidate: None,
            findings: Vec::new(),
            outcome: Outcome::Unparsed { reason: reason.clone() },
        },
    };
    let (outcome, ran) = match ruling {
        Ruling::Reject { outcome, candidate, .. } => {
            if let (true, Outcome::Rejected { .. }, Some(candidate)) = (behind, &outcome, candidate) {
                judged.behind = Some(match execute(executor, &entry.task, &candidate, &mut judged.faults).await {
                    Some(report) => Layer::of(&report.outcome, true).map_or(Behind::Passed, Behind::Stopped),
                    None => Behind::Fault,
                });
            }
            (outcome, false)
        }
        Ruling::Admit { candidate, .. } => {
            let Some(report) = execute(executor, &entry.task, &candidate, &mut judged.faults).await else {
                judged.verdict = UNJUDGED.to_owned();
                judged.reason = judged.faults.last().cloned().unwrap_or_default();
                return judged;
            };
            judged.ms = report.phase_ms.get("total").copied();
            (report.outcome, true)
        }
    };
    judged.stopped = Layer::of(&outcome, ran);
    judged.verdict = outcome.verdict().to_owned();
    judged.reason = reason_of(&outcome);
    judged
}

/// Tried again after a fault, as in a run: whose doing a kill was shows at the second one, and who was disturbed on a GPU is measured again.
async fn execute(
    executor: &Executor,
    task: &TaskSpec,
    candidate: &rollout::outcome::Candidate,
    faults: &mut Vec<String>,
) -> Option<ExecReport> {
    for _ in 0..=RETRIES {
        match executor.evaluate(task, candidate).await {
            Ok(report) => return Some(reward::evidence::weigh(report)),
            Err(fault) => faults.push(fault.to_string()),
        }
    }
    None
}

fn reason_of(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Unparsed { reason: text } | Outcome::Rejected { reason: text } => text.clone(),
        Outcome::CompileError { message }
        | Outcome::Crashed { message, .. }
        | Outcome::OutOfMemory { message, .. }
        | Outcome::WrongAnswer { message }
        | Outcome::Implausible { message } => message.clone(),
        Outcome::TimedOut { phase, limit_ms } => format!("{phase:?} took more than {limit_ms} ms"),
        Outcome::Passed { .. } => String::new(),
    }
}
