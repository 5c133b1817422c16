//! K034: a library's module is looked into by a dot, not passed along: no value of a candidate is a module.

use rollout::outcome::Finding;

use super::{Rule, reject};
use crate::lint::Known;

/// K034
pub const RULE: Rule = Rule {
    code: "K034",
    title: "a library is passed along",
    page: include_str!("../../../../docs/rules/K034.md"),
    check,
};

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for mention in &known.whole.passed {
        let message = format!("{} is passed along: what is taken out of it cannot be seen", mention.path);
        reject(findings, RULE.code, mention.line, message);
    }
}
