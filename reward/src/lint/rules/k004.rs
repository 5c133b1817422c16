//! K004: ModelNew.forward reaches at least one launch.

use rollout::outcome::Finding;

use super::{Rule, forward, reject};
use crate::lint::Known;
use crate::lint::engine::trace::Fact;

/// K004
pub const RULE: Rule =
    Rule { code: "K004", title: "no kernel is launched", page: include_str!("../../../../docs/rules/K004.md"), check };

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    let engine = &known.ran.engine;
    let Some(function) = known.ran.forward else {
        return;
    };
    let launched = forward(engine).any(|s| matches!(s.fact, Fact::Launch { .. } | Fact::DeadLaunch { .. }));
    if !launched {
        reject(findings, RULE.code, engine.functions[function].line, "ModelNew.forward launches no Triton kernel");
    }
}
