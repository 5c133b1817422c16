//! K027: tensors stay on their device: no .cpu(), .numpy(), .tolist().

use rollout::outcome::{Finding, Severity};

use super::{Rule, add, forward};
use crate::lint::Known;
use crate::lint::engine::trace::Fact;

/// K027
pub const RULE: Rule = Rule {
    code: "K027",
    title: "data leaves for the host",
    page: include_str!("../../../../docs/rules/K027.md"),
    check,
};

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for seen in forward(&known.ran.engine) {
        if let Fact::Host { what, reject } = &seen.fact {
            let severity = if *reject { Severity::Reject } else { Severity::Warn };
            add(findings, RULE.code, severity, seen.line, format!("{what} looks at data or addresses on the host"));
        }
    }
}
