//! K001: the candidate parses, within limits. The check itself runs before all other rules.

use rollout::outcome::Finding;

use super::Rule;
use crate::lint::Known;

/// K001
pub const RULE: Rule = Rule {
    code: "K001",
    title: "the candidate is not Python",
    page: include_str!("../../../../docs/rules/K001.md"),
    check,
};

fn check(_known: &mut Known<'_>, _findings: &mut Vec<Finding>) {}
