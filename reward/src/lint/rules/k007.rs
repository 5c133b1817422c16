//! K007: no method of a tensor works on data in forward; the listed views, casts and allocations may.

use rollout::outcome::{Finding, Severity};

use super::{Rule, add, forward};
use crate::lint::Known;
use crate::lint::engine::trace::{Fact, How};

/// K007
pub const RULE: Rule = Rule {
    code: "K007",
    title: "a tensor method computes on the forward path",
    page: include_str!("../../../../docs/rules/K007.md"),
    check,
};

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for seen in forward(&known.ran.engine) {
        let Fact::Compute { how: How::Method(name), data } = &seen.fact else {
            continue;
        };
        let message = format!("the tensor method .{name}() computes in forward, outside a Triton kernel");
        add(findings, RULE.code, if *data { Severity::Reject } else { Severity::Warn }, seen.line, message);
    }
}
