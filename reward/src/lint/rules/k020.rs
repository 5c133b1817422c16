//! K020: a launch in dead code or over an empty grid is a decoy.

use rollout::outcome::Finding;

use super::{Rule, forward, reject, warn};
use crate::lint::Known;
use crate::lint::engine::trace::Fact;

/// K020
pub const RULE: Rule = Rule {
    code: "K020",
    title: "a launch that never happens",
    page: include_str!("../../../../docs/rules/K020.md"),
    check,
};

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    let engine = &known.ran.engine;
    let launched = forward(engine).any(|s| matches!(s.fact, Fact::Launch { .. }));
    for seen in forward(engine) {
        if let Fact::DeadLaunch { why } = &seen.fact {
            let message = format!("a kernel launch in {why}");
            if launched {
                warn(findings, RULE.code, seen.line, message);
            } else {
                reject(findings, RULE.code, seen.line, message);
            }
        }
    }
}
