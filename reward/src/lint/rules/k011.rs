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
    "typing.ForwardRef",
    "typing.get_type_hints",
    "typing_extensions.ForwardRef",
    "typing_extensions.get_type_hints",
    "typing_extensions.evaluate_forward_ref",
];

/// Evaluates an annotation in a string.
const EVALUATES: &[&str] = &["_evaluate", "__forward_arg__", "__forward_code__"];

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for line in &known.whole.protocols.evaluated {
        reject(findings, RULE.code, *line, "an annotation in a string that is more than a type");
    }
    for attribute in known.whole.attributes.iter().filter(|a| EVALUATES.contains(&a.path.as_str())) {
        reject(findings, RULE.code, attribute.line, format!(".{} evaluates a text", attribute.path));
    }
    for mention in &known.whole.mentions {
        let path = mention.path.as_str();
        if LIST.iter().any(|l| path.strip_prefix(l).is_some_and(|r| r.is_empty() || r.starts_with('.'))) {
            reject(findings, RULE.code, mention.line, format!("{path} runs code that is made at run time"));
        }
    }
}
