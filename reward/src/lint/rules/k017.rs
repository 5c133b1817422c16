//! K017: torch, triton, builtins and classes stay as they are.

use rollout::outcome::Finding;

use super::{Rule, reject};
use crate::lint::Known;
use crate::lint::engine::trace::Fact;

/// K017
pub const RULE: Rule =
    Rule { code: "K017", title: "something is replaced", page: include_str!("../../../../docs/rules/K017.md"), check };

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for mention in &known.whole.patched {
        reject(findings, RULE.code, mention.line, format!("{} is replaced", mention.path));
    }
    for mention in &known.whole.foreign {
        let message = format!(".{} is set on something that may not be the candidate's own", mention.path);
        reject(findings, RULE.code, mention.line, message);
    }
    for seen in &known.ran.engine.seen {
        if let Fact::Patch { what } = &seen.fact {
            reject(findings, RULE.code, seen.line, format!("{what} is replaced"));
        }
    }
}
