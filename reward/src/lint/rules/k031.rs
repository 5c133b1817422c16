//! K031: what the task's reference needs is somewhere in the kernels that the result comes from.

use rollout::outcome::Finding;

use super::{Rule, reject, warn, work};
use crate::lint::Known;

/// K031
pub const RULE: Rule = Rule {
    code: "K031",
    title: "a required component is missing",
    page: include_str!("../../../../docs/rules/K031.md"),
    check,
};

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    let (Some(reference), Some(function)) = (known.reference, known.ran.forward) else {
        return;
    };
    for name in &reference.unknown {
        warn(findings, RULE.code, 0, format!("the task's REQUIRED_OPS names {name}, which the linter does not know"));
    }
    // A kernel that does nothing at all is K032's business.
    let Some(features) = work(known).filter(|f| !f.is_empty()) else {
        return;
    };
    let line = known.ran.engine.functions[function].line;
    for (need, operation) in reference.needs.values() {
        if !features.has_any(need.done_by()) {
            let what = need.shown();
            let message = format!("the task asks for {operation}: no kernel behind the result has {what}");
            reject(findings, RULE.code, line, message);
        }
    }
}
