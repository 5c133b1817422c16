//! K016: ModelNew stands alone: it does not inherit from, call or copy state out of the reference model.

use rollout::outcome::Finding;

use super::{Rule, reject, warn};
use crate::lint::Known;
use crate::lint::engine::trace::{Fact, Stage};

/// K016
pub const RULE: Rule =
    Rule { code: "K016", title: "the reference is used", page: include_str!("../../../../docs/rules/K016.md"), check };

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for seen in &known.ran.engine.seen {
        if let Fact::Reference { what } = &seen.fact {
            if seen.stage == Stage::Module {
                warn(findings, RULE.code, seen.line, format!("the reference is used: {what}"));
            } else {
                reject(findings, RULE.code, seen.line, format!("the reference is used: {what}"));
            }
        }
    }
    for class in known.whole.classes.iter().filter(|c| c.name == "ModelNew") {
        if class.bases.iter().any(|b| b == "Model" || b.ends_with(".Model")) {
            reject(findings, RULE.code, class.line, "ModelNew inherits from the reference Model");
        }
    }
}
