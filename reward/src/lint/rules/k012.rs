//! K012: a candidate imports torch, triton and a few harmless parts of the standard library.

use std::collections::HashSet;

use rollout::outcome::Finding;

use super::{Rule, reject, warn};
use crate::lint::Known;
use crate::lint::surface::{importable, outside};

/// K012
pub const RULE: Rule = Rule {
    code: "K012",
    title: "an import outside the list",
    page: include_str!("../../../../docs/rules/K012.md"),
    check,
};

/// Harmless but pointless: listed, not rejected.
const SUSPICIOUS: &[&str] = &["numpy", "time", "random"];

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for import in &known.whole.imports {
        let root = import.path.split('.').next().unwrap_or_default();
        if !importable(&import.path) {
            reject(findings, RULE.code, import.line, format!("{} may not be imported", import.path));
        } else if SUSPICIOUS.contains(&root) {
            warn(findings, RULE.code, import.line, format!("{} is imported", import.path));
        }
    }
    let mut free: HashSet<&str> = HashSet::new();
    for mention in &known.whole.mentions {
        if free.contains(mention.path.as_str()) {
            continue;
        }
        if !outside(&mention.path) {
            free.insert(&mention.path);
        } else {
            reject(
                findings,
                RULE.code,
                mention.line,
                format!("{} is not on the list of what may be named", mention.path),
            );
        }
    }
    for import in &known.whole.star_imports {
        reject(findings, RULE.code, import.line, format!("from {} import * hides which names are bound", import.path));
    }
}
