//! K029: a returned tensor is written by a kernel from something it loaded.

use rollout::outcome::Finding;

use super::{Rule, forward, reject};
use crate::lint::Known;
use crate::lint::engine::trace::{Fact, Forged};

/// K029
pub const RULE: Rule = Rule {
    code: "K029",
    title: "the result does not depend on the inputs",
    page: include_str!("../../../../docs/rules/K029.md"),
    check,
};

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for seen in forward(&known.ran.engine) {
        if seen.fact == (Fact::Returns { forged: Forged::Constant }) {
            let message =
                "forward returns a tensor that kernels write without loading anything that comes from an input";
            reject(findings, RULE.code, seen.line, message);
        }
    }
}
