//! K003: exactly one `class ModelNew(torch.nn.Module)` with a forward.

use rollout::outcome::Finding;

use super::{Rule, reject};
use crate::lint::Known;

/// K003
pub const RULE: Rule = Rule {
    code: "K003",
    title: "there is no usable ModelNew",
    page: include_str!("../../../../docs/rules/K003.md"),
    check,
};

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    let bound = &known.whole.models;
    if bound.len() > 1 {
        let line = bound.last().copied().unwrap_or(0);
        reject(findings, RULE.code, line, format!("ModelNew is bound {} times", bound.len()));
    }
    let Some(class) = known.ran.model else {
        return reject(findings, RULE.code, bound.first().copied().unwrap_or(0), "no class ModelNew is defined");
    };
    let line = known.ran.engine.classes[class].line;
    let bases = known.ran.engine.library_bases(class);
    if !bases.iter().any(|b| b.starts_with("torch.nn.")) {
        reject(findings, RULE.code, line, "ModelNew is not a torch.nn.Module");
    }
    if known.ran.forward.is_none() {
        reject(findings, RULE.code, line, "ModelNew has no method forward");
    }
}
