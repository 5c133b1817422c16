//! K021: a kernel that is launched writes something.

use std::collections::BTreeSet;

use rollout::outcome::Finding;

use super::{Rule, forward, reject};
use crate::lint::Known;
use crate::lint::engine::trace::Fact;

/// K021
pub const RULE: Rule = Rule {
    code: "K021",
    title: "a kernel that stores nothing",
    page: include_str!("../../../../docs/rules/K021.md"),
    check,
};

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    let engine = &mut known.ran.engine;
    let mut launched = BTreeSet::new();
    for seen in forward(engine) {
        if let Fact::Launch { kernels } = &seen.fact {
            launched.extend(kernels.iter().copied());
        }
    }
    for kernel in launched {
        if !engine.kernel_facts(kernel).any_store {
            let function = &engine.functions[kernel];
            let message = format!("the kernel {} is launched but stores nothing", function.name);
            reject(findings, RULE.code, function.line, message);
        }
    }
}
