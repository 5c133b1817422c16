//! K030: a candidate does the same whether it is compiled or interpreted, and does not ask which it is.

use rollout::outcome::Finding;

use super::{Rule, reject};
use crate::lint::Known;
use crate::lint::engine::trace::Fact;

/// K030
pub const RULE: Rule = Rule {
    code: "K030",
    title: "the candidate asks how it is run",
    page: include_str!("../../../../docs/rules/K030.md"),
    check,
};

/// Triton's innards: what they say or change differs between a compiled and an interpreted kernel.
const LIST: &[&str] = &[
    "triton.knobs",
    "triton.runtime",
    "triton.JITFunction",
    "triton.KernelInterface",
    "triton.InterpreterError",
    "triton.compile",
    "triton.compiler",
    "triton.backends",
    "triton.profiler",
    "triton.testing",
    "triton.tools",
    "triton._C",
    "triton._internal_testing",
    "triton._utils",
];

/// What honest kernels need of them: the device's properties, descriptors of tensors.
const FREE: &[&str] = &["triton.runtime.driver", "triton.tools.tensor_descriptor"];

fn below(path: &str, list: &[&str]) -> bool {
    list.iter().any(|l| path.strip_prefix(l).is_some_and(|r| r.is_empty() || r.starts_with('.')))
}

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for mention in &known.whole.mentions {
        let path = mention.path.as_str();
        if below(path, LIST) && !below(path, FREE) {
            reject(findings, RULE.code, mention.line, format!("{path} tells how the candidate is run"));
        }
    }
    let engine = &known.ran.engine;
    let given = engine.seen.iter().filter_map(|seen| match &seen.fact {
        Fact::Inside { what } => Some((seen.line, what.clone())),
        _ => None,
    });
    for (line, what) in given.chain(engine.python_in_kernels()) {
        reject(findings, RULE.code, line, format!("{what} is Python, which only an interpreted kernel can work with"));
    }
    for mention in &known.whole.inspected {
        let what = &mention.path;
        reject(findings, RULE.code, mention.line, format!("{what} tells how the candidate is run"));
    }
}
