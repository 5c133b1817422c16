//! K005: no function of torch or another library works on data in forward.

use rollout::outcome::{Finding, Severity};

use super::{Rule, add, forward};
use crate::lint::Known;
use crate::lint::engine::trace::{Fact, How};

/// K005
pub const RULE: Rule = Rule {
    code: "K005",
    title: "torch computes on the forward path",
    page: include_str!("../../../../docs/rules/K005.md"),
    check,
};

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for seen in forward(&known.ran.engine) {
        let Fact::Compute { how: How::Function(name), data } = &seen.fact else {
            continue;
        };
        let message = format!("{name} computes in forward, outside a Triton kernel");
        add(findings, RULE.code, if *data { Severity::Reject } else { Severity::Warn }, seen.line, message);
    }
}
