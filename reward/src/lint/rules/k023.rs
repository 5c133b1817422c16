//! K023: a call of forward depends on its inputs, not on the calls before.

use rollout::outcome::Finding;

use super::{Rule, forward, note, reject, warn};
use crate::lint::Known;
use crate::lint::engine::trace::Fact;

/// K023
pub const RULE: Rule =
    Rule { code: "K023", title: "state between calls", page: include_str!("../../../../docs/rules/K023.md"), check };

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for seen in forward(&known.ran.engine) {
        match &seen.fact {
            Fact::Keeps { what, counts: true } => {
                reject(findings, RULE.code, seen.line, format!("forward counts its calls in {what}"));
            }
            Fact::Keeps { what, counts: false } => {
                note(findings, RULE.code, seen.line, format!("forward keeps {what} for later calls"));
            }
            Fact::Cached { what } => {
                reject(findings, RULE.code, seen.line, format!("results of {what} are kept between calls"));
            }
            Fact::StateBranch => {
                warn(findings, RULE.code, seen.line, "a branch on a value kept from an earlier call");
            }
            _ => {}
        }
    }
    for mention in &known.whole.mentions {
        if matches!(mention.path.as_str(), "collections.Counter" | "itertools.count" | "itertools.cycle") {
            reject(findings, RULE.code, mention.line, format!("{} counts", mention.path));
        }
        if mention.path == "functools.cached_property" {
            warn(findings, RULE.code, mention.line, format!("{} keeps state between calls", mention.path));
        }
    }
    for iterator in &known.whole.iterators {
        reject(findings, RULE.code, *iterator, "an iterator is kept: what it gives depends on the calls before");
    }
}
