//! K009: torch's dispatcher, C modules and private packages are no way around the other rules.

use rollout::outcome::Finding;

use super::{Rule, reject};
use crate::lint::Known;

/// K009
pub const RULE: Rule = Rule {
    code: "K009",
    title: "a low-level entry into torch",
    page: include_str!("../../../../docs/rules/K009.md"),
    check,
};

const LOW: &[&str] =
    &["torch.ops", "torch.library", "torch.classes", "torch.overrides", "torch.utils._python_dispatch", "triton._C"];

/// What registers a function of the candidate's own as an operator, and asserts.
const FREE: &[&str] = &[
    "torch.library",
    "torch.library.custom_op",
    "torch.library.triton_op",
    "torch.library.wrap_triton",
    "torch.library.register_fake",
    "torch._assert",
    "torch._check",
];

/// Gives an operator another body than the one that is read here.
const OTHER_BODIES: &[&str] = &["register_kernel", "register_torch_dispatch", "register_vmap", "py_impl"];

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for mention in &known.whole.mentions {
        let path = mention.path.as_str();
        if LOW.iter().any(|l| path.strip_prefix(l).is_some_and(|r| r.is_empty() || r.starts_with('.')))
            || (path.starts_with("torch._") && !path.starts_with("torch.__version__"))
            || path.starts_with("torch.cuda._")
        {
            if FREE.contains(&path) {
                continue;
            }
            reject(findings, RULE.code, mention.line, format!("{path} is a low-level entry into torch"));
        }
    }
    for attribute in &known.whole.attributes {
        if OTHER_BODIES.contains(&attribute.path.as_str()) {
            let message = format!(".{} gives an operator another body", attribute.path);
            reject(findings, RULE.code, attribute.line, message);
        }
    }
}
