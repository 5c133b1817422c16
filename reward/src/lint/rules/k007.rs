//! K007: no method of a tensor works on data in forward; the listed views, casts and allocations may.

use rollout::outcome::{Finding, Severity};

use super::{Rule, add, forward};
use crate::lint::Known;
use crate::lint::engine::trace::{Fact, How};

/// K007
pub const RULE: Rule = Rule {
    code: "K007",
    title: "a tensor method computes on the forward path",
    page: include_str!("../../../../docs/rules/K007.md"),
    check,
};

/// What makes a tensor complex, and what takes one apart.
const COMPLEX: &[&str] = &[
    "cdouble",
    "cfloat",
    "chalf",
    "complex",
    "complex128",
    "complex32",
    "complex64",
    "imag",
    "real",
    "to_complex",
    "view_as_complex",
    "view_as_real",
];

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    let names = known.whole.attributes.iter().chain(&known.whole.mentions);
    let complex = known.whole.complex
        || known.reference.is_some_and(|r| r.complex)
        || names.into_iter().any(|m| COMPLEX.contains(&m.path.rsplit('.').next().unwrap_or_default()));
    for seen in forward(&known.ran.engine) {
        if let (Fact::Conjugates { what }, true) = (&seen.fact, complex) {
            let message =
                format!(".{what} of what may be complex is its conjugate, which is computed outside a Triton kernel");
            add(findings, RULE.code, Severity::Reject, seen.line, message);
        }
    }
    for seen in forward(&known.ran.engine) {
        let Fact::Compute { how: How::Method(name), data } = &seen.fact else {
            continue;
        };
        let message = format!("the tensor method .{name}() computes in forward, outside a Triton kernel");
        add(findings, RULE.code, if *data { Severity::Reject } else { Severity::Warn }, seen.line, message);
    }
}
