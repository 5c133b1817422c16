//! K012: a candidate imports torch, triton and a few harmless parts of the standard library.

use rollout::outcome::Finding;

use super::{Rule, reject, warn};
use crate::lint::Known;

/// K012
pub const RULE: Rule = Rule {
    code: "K012",
    title: "an import outside the list",
    page: include_str!("../../../../docs/rules/K012.md"),
    check,
};

/// Modules that may be imported, with all below them. torch's own dangerous parts have rules of their own.
pub const ALLOWED: &[&str] = &[
    "torch",
    "triton",
    "math",
    "typing",
    "typing_extensions",
    "__future__",
    "functools",
    "dataclasses",
    "enum",
    "collections",
    "itertools",
    "operator",
    "abc",
    "numbers",
    "contextlib",
    "warnings",
    "logging",
    "copy",
    "string",
    "textwrap",
    // Only for SimpleNamespace: the rest is K010's.
    "types",
];

/// Harmless but pointless: listed, not rejected.
const SUSPICIOUS: &[&str] = &["numpy", "time", "random"];

/// Parts of allowed packages that are not.
const DENIED: &[&str] = &["triton.testing", "triton.ops", "triton.compiler", "triton.backends", "triton.tools.compile"];

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for import in &known.whole.imports {
        let root = import.path.split('.').next().unwrap_or_default();
        let denied =
            DENIED.iter().any(|d| import.path.strip_prefix(d).is_some_and(|r| r.is_empty() || r.starts_with('.')));
        if SUSPICIOUS.contains(&root) {
            warn(findings, RULE.code, import.line, format!("{} is imported", import.path));
        } else if denied || !ALLOWED.contains(&root) {
            reject(findings, RULE.code, import.line, format!("{} may not be imported", import.path));
        }
    }
    for import in &known.whole.star_imports {
        reject(findings, RULE.code, import.line, format!("from {} import * hides which names are bound", import.path));
    }
}
