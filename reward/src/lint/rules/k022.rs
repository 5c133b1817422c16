//! K022: every tensor that forward returns is written by a kernel on every way to that return.

use rollout::outcome::Finding;

use super::{Rule, forward, reject};
use crate::lint::Known;
use crate::lint::engine::trace::{Fact, Forged};

/// K022
pub const RULE: Rule = Rule {
    code: "K022",
    title: "the result is not a kernel's work",
    page: include_str!("../../../../docs/rules/K022.md"),
    check,
};

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    let in_place_task = known.reference.is_some_and(|r| r.mutates);
    for seen in forward(&known.ran.engine) {
        let Fact::Returns { forged } = seen.fact else {
            continue;
        };
        let message = match forged {
            Forged::Input => "forward returns an input that no kernel wrote to",
            Forged::Parameter => "forward returns a parameter as it is",
            Forged::Unwritten => "forward returns a tensor that no kernel writes on this way",
            Forged::Kept => "forward can return a tensor kept from an earlier call",
            Forged::NotATensor => "forward returns something that is not a tensor",
            Forged::Unknown => "where this return value comes from is not understood",
            // The reference does so too.
            Forged::InPlace if in_place_task => continue,
            Forged::InPlace => "forward writes over one of its inputs and returns it",
            // K029's business.
            Forged::Constant => continue,
        };
        reject(findings, RULE.code, seen.line, message);
    }
}
