//! The static layers: is a candidate a Triton implementation, by its syntax tree alone?
//!
//! `syntax` parses within limits, `walk` collects facts about the whole file, `engine` runs the candidate on abstract
//! values, and the rules, one a file, turn facts into findings. To add a rule: a file in `rules`, a line in its list, a
//! page in `docs/rules`, and fixtures that it must and must not flag in the tests.

mod aliases;
mod bindings;
mod contexts;
pub mod engine;
mod flows;
mod guard;
mod made;
mod members;
mod needs;
mod protocols;
mod reference;
pub mod rules;
mod surface;
pub mod syntax;
mod tables;
mod texts;
pub mod walk;

use rollout::outcome::{Finding, Severity};
use rollout::task::TaskSpec;

pub use reference::Reference;
pub use rules::{RuleDoc, rules};

use engine::{Inputs, Ran};
use walk::WholeFile;

/// The code of the rule for text that is not Python.
pub const SYNTAX: &str = "K001";
/// The code of the rule for a file without kernels.
const NO_KERNEL: &str = "K002";

/// What the static layers found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LintReport {
    /// TritonRL's `syntax`: parses and has at least one `@triton.jit` kernel.
    pub syntax: bool,
    /// TritonRL's `func`, as far as it is decidable here: no other rejecting finding.
    pub functional: bool,
    /// Rejecting ones first, then by line and code.
    pub findings: Vec<Finding>,
}

/// All that is known of a candidate when the rules look at it.
pub struct Known<'a> {
    pub ran: Ran<'a>,
    pub whole: WholeFile,
    /// What the task's reference says, where there is a task.
    pub reference: Option<&'a Reference>,
}

/// A task, read once for any number of candidates.
#[derive(Clone, Debug, Default)]
pub struct PreparedTask {
    inputs: Option<Vec<bool>>,
    /// `None` when the task is not Python.
    reference: Option<Reference>,
}

impl PreparedTask {
    /// Reads a task.
    pub fn new(task: &TaskSpec) -> Self {
        let Ok(parsed) = syntax::parse(&task.source) else {
            return PreparedTask::default();
        };
        let body = &parsed.syntax().body;
        let inputs = engine::inputs_of(body, &syntax::Lines::new(&task.source));
        let complex = ["complex", "cfloat", "cdouble", "chalf", "fft"].iter().any(|word| task.source.contains(word));
        let reference = Reference { complex, ..reference::read(body) };
        PreparedTask { inputs, reference: Some(reference) }
    }
}

/// Lints one candidate's canonical source. With the task, the linter knows which inputs are tensors and what an answer
/// needs. For many candidates of one task, see `lint_prepared`.
pub fn lint(source: &str, task: Option<&TaskSpec>) -> LintReport {
    lint_prepared(source, task.map(PreparedTask::new).as_ref())
}

/// The same with a task that was read before.
pub fn lint_prepared(source: &str, task: Option<&PreparedTask>) -> LintReport {
    let parsed = match syntax::parse(source) {
        Ok(parsed) => parsed,
        Err(problem) => {
            let finding = rules::finding(SYNTAX, Severity::Reject, problem.line, problem.message);
            return LintReport { syntax: false, functional: false, findings: vec![finding] };
        }
    };
    let lines = syntax::Lines::new(source);
    let mut body = parsed.into_syntax().body;
    guard::empty_guards(&mut body);
    let body = &body;
    let inputs = Inputs { tensors: task.and_then(|t| t.inputs.clone()) };
    let reference = task.and_then(|t| t.reference.as_ref());
    let mut known = Known { ran: engine::run(body, &lines, &inputs), whole: walk::walk(body, &lines), reference };
    let mut findings = Vec::new();
    for rule in rules::RULES {
        (rule.check)(&mut known, &mut findings);
    }
    findings.sort_by(|a, b| {
        b.severity.cmp(&a.severity).then(a.line.cmp(&b.line)).then(a.code.cmp(&b.code)).then(a.message.cmp(&b.message))
    });
    findings.dedup();
    let rejects = |code: Option<bool>| {
        findings
            .iter()
            .filter(|f| f.severity == Severity::Reject)
            .any(|f| code.is_none_or(|c| c == (f.code == NO_KERNEL)))
    };
    LintReport { syntax: !rejects(Some(true)), functional: !rejects(None), findings }
}
