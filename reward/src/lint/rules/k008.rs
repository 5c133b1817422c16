//! K008: modules of torch hold weights; calling one is torch compute.

use rollout::outcome::{Finding, Severity};

use super::{Rule, add, forward};
use crate::lint::Known;
use crate::lint::engine::trace::{Fact, How};

/// K008
pub const RULE: Rule = Rule {
    code: "K008",
    title: "a torch module computes on the forward path",
    page: include_str!("../../../../docs/rules/K008.md"),
    check,
};

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for seen in forward(&known.ran.engine) {
        let Fact::Compute { how: How::Module(name), data } = &seen.fact else {
            continue;
        };
        let message = format!("a {name} is called in forward; modules may only hold weights");
        add(findings, RULE.code, if *data { Severity::Reject } else { Severity::Warn }, seen.line, message);
    }
}
