//! K032: where the task computes, the kernels behind the result do more than copy.

use rollout::outcome::Finding;

use super::{Rule, reject, work};
use crate::lint::Known;

/// K032
pub const RULE: Rule =
    Rule { code: "K032", title: "a trivial kernel", page: include_str!("../../../../docs/rules/K032.md"), check };

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    let (Some(reference), Some(function)) = (known.reference, known.ran.forward) else {
        return;
    };
    let Some((_, operation)) = reference.needs.values().next() else {
        return;
    };
    if work(known).is_some_and(|features| features.is_empty()) {
        let message = format!("the task asks for {operation}: the kernels behind the result only copy what they load");
        reject(findings, RULE.code, known.ran.engine.functions[function].line, message);
    }
}
