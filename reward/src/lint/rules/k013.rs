//! K013: torch.compile, TorchScript, tracing and inductor generate kernels that the candidate did not write.

use rollout::outcome::Finding;

use super::{Rule, reject};
use crate::lint::Known;

/// K013
pub const RULE: Rule = Rule {
    code: "K013",
    title: "torch compiles the work itself",
    page: include_str!("../../../../docs/rules/K013.md"),
    check,
};

const LIST: &[&str] = &[
    "torch.compile",
    "triton.compile",
    "triton.compiler",
    "torch.jit",
    "torch.fx",
    "torch.export",
    "torch.compiler",
    "torch._dynamo",
    "torch._inductor",
    "torch.onnx",
    "torch.func",
    "torch.vmap",
];

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for mention in &known.whole.mentions {
        let path = mention.path.as_str();
        // Asks to be left alone.
        if path == "torch.compiler.disable" {
            continue;
        }
        if LIST.iter().any(|l| path.strip_prefix(l).is_some_and(|r| r.is_empty() || r.starts_with('.'))) {
            reject(findings, RULE.code, mention.line, format!("{path} lets torch write the kernel"));
        }
    }
}
