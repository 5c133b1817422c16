//! The static layers: is a candidate a Triton implementation, by its syntax tree alone?

pub mod syntax;

use rollout::outcome::{Finding, Severity};
use rollout::task::TaskSpec;

/// The code of the rule for text that is not Python.
pub const SYNTAX: &str = "K001";

/// A rule's page, for `troupe explain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleDoc {
    pub code: &'static str,
    pub title: &'static str,
    pub page: &'static str,
}

/// What the static layers found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LintReport {
    /// TritonRL's `syntax`: parses and has at least one `@triton.jit` kernel.
    pub syntax: bool,
    /// TritonRL's `func`, as far as it is decidable here: no other rejecting finding.
    pub functional: bool,
    /// By line, then code.
    pub findings: Vec<Finding>,
}

/// All rules, by code.
pub fn rules() -> &'static [RuleDoc] {
    &[]
}

/// Lints one candidate's canonical source.
pub fn lint(source: &str, _task: Option<&TaskSpec>) -> LintReport {
    match syntax::parse(source) {
        Ok(_) => LintReport { syntax: true, functional: true, findings: Vec::new() },
        Err(problem) => {
            let finding = Finding {
                code: SYNTAX.to_owned(),
                severity: Severity::Reject,
                line: problem.line,
                message: problem.message,
            };
            LintReport { syntax: false, functional: false, findings: vec![finding] }
        }
    }
}
