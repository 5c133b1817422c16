//! K024: a construct that touches tensors and that the linter cannot follow is shown, not passed over.

use rollout::outcome::Finding;

use super::{Rule, reject, warn};
use crate::lint::Known;
use crate::lint::engine::trace::{Fact, Stage};

/// K024
pub const RULE: Rule =
    Rule { code: "K024", title: "not understood", page: include_str!("../../../../docs/rules/K024.md"), check };

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for seen in &known.ran.engine.seen {
        match &seen.fact {
            Fact::Opaque { what } if seen.stage == Stage::Forward => {
                warn(findings, RULE.code, seen.line, format!("not understood: {what}"));
            }
            Fact::OpaqueCall { what } if seen.stage == Stage::Forward => {
                reject(findings, RULE.code, seen.line, format!("not understood: {what}"));
            }
            Fact::Decorator { what } => {
                warn(findings, RULE.code, seen.line, format!("not understood: the decorator {what}"));
            }
            Fact::Unseen { what } => {
                reject(findings, RULE.code, seen.line, format!("runs where no call is seen: {what}"));
            }
            Fact::Budget => {
                reject(findings, RULE.code, seen.line, "the candidate is too tangled to be followed");
            }
            _ => {}
        }
    }
}
