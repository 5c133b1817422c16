//! K006: no Python operator and no indexing that moves data works on tensors in forward.

use rollout::outcome::{Finding, Severity};

use super::{Rule, add, forward};
use crate::lint::Known;
use crate::lint::engine::trace::{Fact, How};

/// K006
pub const RULE: Rule = Rule {
    code: "K006",
    title: "an operator works on tensors on the forward path",
    page: include_str!("../../../../docs/rules/K006.md"),
    check,
};

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for seen in forward(&known.ran.engine) {
        let (what, data) = match &seen.fact {
            Fact::Compute { how: How::Operator(symbol), data } => (format!("operator {symbol} on a tensor"), *data),
            Fact::Compute { how: How::Index(what), data } => (format!("{what} on a tensor"), *data),
            _ => continue,
        };
        let severity = if data { Severity::Reject } else { Severity::Warn };
        add(findings, RULE.code, severity, seen.line, format!("{what} computes in forward, outside a Triton kernel"));
    }
}
