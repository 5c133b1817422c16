//! K014: try and contextlib.suppress turn a failing kernel into a fallback.

use rollout::outcome::Finding;

use super::{Rule, forward, reject};
use crate::lint::Known;
use crate::lint::engine::trace::Fact;

/// K014
pub const RULE: Rule = Rule {
    code: "K014",
    title: "an exception handler on the forward path",
    page: include_str!("../../../../docs/rules/K014.md"),
    check,
};

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for seen in forward(&known.ran.engine) {
        if seen.fact == Fact::Try {
            reject(findings, RULE.code, seen.line, "try on the forward path can hide a fallback");
        }
    }
    for mention in &known.whole.mentions {
        if matches!(mention.path.as_str(), "contextlib.suppress" | "contextlib.ExitStack" | "contextlib.contextmanager")
        {
            reject(findings, RULE.code, mention.line, format!("{} can hide a fallback", mention.path));
        }
    }
}
