//! What became of a candidate: an `Outcome` is the candidate's own doing and can be scored, a `Fault` is ours and
//! cannot (`score` takes no `Fault`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::evidence::Evidence;
use crate::id::Digest;
use crate::timing::Timing;

/// How a finding of the static layers weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Listed, changes nothing.
    Note,
    /// Suspicious; shown, does not reject.
    Warn,
    /// The candidate is not a valid Triton implementation.
    Reject,
}

/// One finding of a lint rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// `K001`..; `docs/rules/<code>.md` explains it.
    pub code: String,
    pub severity: Severity,
    /// 1-based line in the candidate's source; 0 when the finding is about the whole file.
    pub line: u32,
    pub message: String,
}

/// The single program extracted from an answer. Everybody downstream gets this text and this digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    pub source: String,
    /// SHA-256 of the canonical source.
    pub digest: Digest,
}

/// The judge's decision on one answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Ruling {
    /// Goes on to the executor.
    Admit { candidate: Candidate, findings: Vec<Finding> },
    /// Ends here, with a scored outcome.
    Reject { candidate: Option<Candidate>, findings: Vec<Finding>, outcome: Outcome },
}

/// The layers of the verifier; `None` means not reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    pub extracted: Option<bool>,
    pub syntax: Option<bool>,
    pub functional: Option<bool>,
    pub compiled: Option<bool>,
    pub correct: Option<bool>,
}

/// Which phase of an evaluation a limit was hit in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Import,
    Compile,
    Run,
}

/// The candidate's own doing: scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Outcome {
    /// No single candidate could be extracted, or it is not Python.
    Unparsed {
        reason: String,
    },
    /// A static layer rejected it (see the findings).
    Rejected {
        reason: String,
    },
    CompileError {
        message: String,
    },
    /// Raised, exited, aborted or was killed by a signal while running.
    Crashed {
        phase: Phase,
        message: String,
    },
    OutOfMemory {
        phase: Phase,
        message: String,
    },
    TimedOut {
        phase: Phase,
        limit_ms: u64,
    },
    WrongAnswer {
        message: String,
    },
    /// A timing that no machine can reach.
    Implausible {
        message: String,
    },
    /// Correct. `speedup` is reference time / candidate time; `None` where nothing was timed.
    Passed {
        speedup: Option<f64>,
    },
}

impl Outcome {
    /// The verdict's name in `troupe verify --json`.
    pub fn verdict(&self) -> &'static str {
        match self {
            Outcome::Unparsed { .. } => "unparsed",
            Outcome::Rejected { .. } => "rejected",
            Outcome::CompileError { .. } => "compile_error",
            Outcome::Crashed { .. } => "crashed",
            Outcome::OutOfMemory { .. } => "out_of_memory",
            Outcome::TimedOut { .. } => "timed_out",
            Outcome::WrongAnswer { .. } => "wrong_answer",
            Outcome::Implausible { .. } => "implausible",
            Outcome::Passed { .. } => "passed",
        }
    }

    /// How far the candidate came.
    pub fn layers(&self) -> Layers {
        let (extracted, syntax, functional, compiled, correct) = match self {
            Outcome::Unparsed { .. } => (Some(false), None, None, None, None),
            Outcome::Rejected { .. } => (Some(true), None, Some(false), None, None),
            Outcome::CompileError { .. } => (Some(true), Some(true), Some(true), Some(false), None),
            Outcome::Crashed { phase, .. } | Outcome::OutOfMemory { phase, .. } | Outcome::TimedOut { phase, .. } => {
                match phase {
                    Phase::Import | Phase::Compile => (Some(true), Some(true), Some(true), Some(false), None),
                    Phase::Run => (Some(true), Some(true), Some(true), Some(true), Some(false)),
                }
            }
            Outcome::WrongAnswer { .. } | Outcome::Implausible { .. } => {
                (Some(true), Some(true), Some(true), Some(true), Some(false))
            }
            Outcome::Passed { .. } => (Some(true), Some(true), Some(true), Some(true), Some(true)),
        };
        Layers { extracted, syntax, functional, compiled, correct }
    }

    /// TritonRL's `valid = syntax * func`.
    pub fn is_valid(&self) -> bool {
        !matches!(self, Outcome::Unparsed { .. } | Outcome::Rejected { .. })
    }

    pub fn is_correct(&self) -> bool {
        matches!(self, Outcome::Passed { .. })
    }
}

/// Ours, never scored. `code` is `F001`..; `docs/faults/<code>.md` explains it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Fault {
    pub code: String,
    pub message: String,
}

/// One kernel launch seen while the candidate was compiled against the stand-in driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    pub kernel: String,
    pub grid: [u32; 3],
}

/// What the executor saw of one candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExecReport {
    pub outcome: Outcome,
    pub launches: Vec<Launch>,
    /// Wall time per phase in milliseconds, for example `compile`, `run`, `reference`, `total`.
    pub phase_ms: BTreeMap<String, f64>,
    /// Verdicts under KernelBench's tolerances, `None` when no output was compared.
    pub kernelbench_1e2: Option<bool>,
    pub kernelbench_1e4: Option<bool>,
    /// Largest absolute error over all outputs and draws, `None` when no output was compared.
    pub max_abs_error: Option<f64>,
    /// What was seen of it while it ran.
    pub evidence: Evidence,
    /// What was measured of it; `None` where nothing was timed.
    pub timing: Option<Timing>,
    /// What the evidence and the judge after it came to: `K1..` and `J..`.
    pub findings: Vec<Finding>,
    /// The last part of what the candidate printed; a log, never evidence.
    pub log_tail: String,
    /// SHA-256 of the evaluation protocol (harness sources and settings).
    pub protocol: Digest,
    /// True when an identical candidate for the same task was evaluated earlier in the run.
    pub reused: bool,
}
