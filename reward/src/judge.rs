//! Extraction and lint in one step: the ruling on a raw answer.

use rollout::outcome::{Candidate, Finding, Outcome, Ruling, Severity};
use rollout::task::TaskSpec;

use crate::extract::extract;
use crate::lint::lint;

/// Rules on a model's raw answer to a task.
pub fn judge(answer: &str, task: &TaskSpec) -> Ruling {
    match extract(answer) {
        Ok(candidate) => judge_candidate(candidate, Some(task)),
        Err(error) => Ruling::Reject {
            candidate: None,
            findings: Vec::new(),
            outcome: Outcome::Unparsed { reason: error.to_string() },
        },
    }
}

/// Rules on a candidate that is already extracted (a Python file given to `troupe verify`).
///
/// A candidate that is not Python is `Unparsed`, any other rejecting finding makes it `Rejected`; the reason is the
/// first rejecting finding.
pub fn judge_candidate(candidate: Candidate, task: Option<&TaskSpec>) -> Ruling {
    let report = lint(&candidate.source, task);
    let findings = report.findings;
    let Some(first) = findings.iter().find(|f| f.severity == Severity::Reject) else {
        return Ruling::Admit { candidate, findings };
    };
    let reason = reason(first);
    let outcome =
        if first.code == crate::lint::SYNTAX { Outcome::Unparsed { reason } } else { Outcome::Rejected { reason } };
    Ruling::Reject { candidate: Some(candidate), findings, outcome }
}

fn reason(finding: &Finding) -> String {
    if finding.line == 0 {
        format!("{}: {}", finding.code, finding.message)
    } else {
        format!("{} (line {}): {}", finding.code, finding.line, finding.message)
    }
}
