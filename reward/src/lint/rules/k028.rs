//! K028: a candidate reads and writes nothing but its tensors.

use rollout::outcome::Finding;

use super::{Rule, reject, warn};
use crate::lint::Known;
use crate::lint::engine::trace::Fact;

/// K028
pub const RULE: Rule = Rule {
    code: "K028",
    title: "files, network and the interpreter's innards",
    page: include_str!("../../../../docs/rules/K028.md"),
    check,
};

const LIST: &[&str] = &[
    "builtins.open",
    "builtins.breakpoint",
    "builtins.input",
    "builtins.help",
    "torch.load",
    "torch.save",
    "torch.hub",
    "torch.utils.model_zoo",
    "torch.from_file",
    "torch.profiler",
    "torch.autograd.profiler",
    "os",
    "io",
    "pathlib",
    "shutil",
    "tempfile",
    "socket",
    "urllib",
    "requests",
    "http",
    "sqlite3",
    "mmap",
    "fcntl",
    "resource",
    "pip",
    "logging.FileHandler",
    "logging.basicConfig",
    "logging.config",
    "logging.handlers",
];

/// Methods of arrays and storages that write or read files.
const METHODS: &[&str] = &["dump", "from_file", "tofile"];

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for mention in &known.whole.mentions {
        let path = mention.path.as_str();
        if LIST.iter().any(|l| path.strip_prefix(l).is_some_and(|r| r.is_empty() || r.starts_with('.'))) {
            reject(
                findings,
                RULE.code,
                mention.line,
                format!("{path}: a candidate has no business with files, the network or the environment"),
            );
        }
    }
    for attribute in known.whole.attributes.iter().filter(|a| METHODS.contains(&a.path.as_str())) {
        reject(findings, RULE.code, attribute.line, format!(".{} writes or reads files", attribute.path));
    }
    for seen in &known.ran.engine.seen {
        if seen.fact == Fact::Prints {
            warn(findings, RULE.code, seen.line, "print: nobody reads what a candidate prints");
        }
    }
}
