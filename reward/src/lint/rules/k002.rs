//! K002: a Triton implementation has at least one `@triton.jit` function.

use rollout::outcome::Finding;

use super::{Rule, reject};
use crate::lint::Known;

/// K002
pub const RULE: Rule = Rule {
    code: "K002",
    title: "there is no Triton kernel",
    page: include_str!("../../../../docs/rules/K002.md"),
    check,
};

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    if known.whole.kernels.is_empty() && known.ran.engine.defined.is_empty() {
        reject(findings, RULE.code, 0, "no function is decorated with @triton.jit");
    }
}
