//! K011: eval, exec, compile, import by name and unpickling run code that nobody can read here.

use rollout::outcome::Finding;

use super::{Rule, reject};
use crate::lint::Known;

/// K011
pub const RULE: Rule =
    Rule { code: "K011", title: "code made at run time", page: include_str!("../../../../docs/rules/K011.md"), check };

const LIST: &[&str] = &[
    "builtins.eval",
    "builtins.exec",
    "builtins.compile",
    "builtins.__import__",
    "importlib",
    "imp",
    "runpy",
    "code",
    "codeop",
    "ast",
    "marshal",
    "pickle",
    "dill",
    "cloudpickle",
    "base64",
    "zlib",
    "codecs",
    "pkgutil",
    "zipimport",
];

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for mention in &known.whole.mentions {
        let path = mention.path.as_str();
        if LIST.iter().any(|l| path.strip_prefix(l).is_some_and(|r| r.is_empty() || r.starts_with('.'))) {
            reject(findings, RULE.code, mention.line, format!("{path} runs code that is made at run time"));
        }
    }
}
