//! K010: computed attribute names, interpreter frames and object internals hide what runs.

use rollout::outcome::Finding;

use super::{Rule, reject};
use crate::lint::Known;

/// K010
pub const RULE: Rule =
    Rule { code: "K010", title: "reflection", page: include_str!("../../../../docs/rules/K010.md"), check };

/// Attributes that reach behind Python's ordinary names.
const INNER: &[&str] = &[
    "__dict__",
    "__globals__",
    "__builtins__",
    "__code__",
    "__closure__",
    "__defaults__",
    "__kwdefaults__",
    "__func__",
    "__self__",
    "__subclasses__",
    "__mro__",
    "__bases__",
    "__base__",
    "__getattribute__",
    "__getattr__",
    "__setattr__",
    "__delattr__",
    "__reduce__",
    "__reduce_ex__",
    "__wrapped__",
    "__loader__",
    "__spec__",
    "__import__",
    "__class_getitem__",
    "__getstate__",
    "__setstate__",
    "__hash__",
    "__array_interface__",
    "__cuda_array_interface__",
    "_modules",
    "_parameters",
    "_buffers",
    "f_back",
    "f_locals",
    "f_globals",
    "f_builtins",
    "tb_frame",
    "gi_frame",
    "cr_frame",
    "_getframe",
    "modules_dict",
    "__module__",
    "__traceback__",
    "ag_frame",
    "cr_code",
    "gi_code",
    "tb_next",
    "cache_info",
    // What an AttributeError was raised for.
    "obj",
    // Of a logger: the caller's frame, and code that runs with every record.
    "findCaller",
    "makeRecord",
    "addFilter",
    "addHandler",
    "removeHandler",
    "callHandlers",
    "loggerDict",
    "get_device_interface",
];

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for mention in &known.whole.dynamic {
        let message = format!("{} with a name that is not a constant string", mention.path);
        reject(findings, RULE.code, mention.line, message);
    }
    for mention in &known.whole.attributes {
        if INNER.contains(&mention.path.as_str()) {
            reject(findings, RULE.code, mention.line, format!(".{} reaches into the interpreter", mention.path));
        }
    }
    for mention in &known.whole.protocols.reflected {
        reject(findings, RULE.code, mention.line, format!("{} hides what is reached", mention.path));
    }
    for mention in &known.whole.mentions {
        let root = mention.path.split('.').next().unwrap_or_default();
        let harmless = matches!(mention.path.as_str(), "types" | "types.SimpleNamespace");
        let inner =
            !harmless && matches!(root, "inspect" | "gc" | "sys" | "dis" | "types" | "builtins_module" | "traceback");
        let builtin = matches!(
            mention.path.as_str(),
            "builtins.globals"
                | "builtins.locals"
                | "builtins.vars"
                | "builtins.dir"
                | "builtins.__builtins__"
                | "builtins.__loader__"
                | "builtins.__spec__"
                | "builtins.delattr"
                | "builtins.getattr"
                | "builtins.setattr"
                | "operator.attrgetter"
                | "operator.call"
                | "operator.methodcaller"
                | "string.Formatter"
        );
        if inner || builtin {
            reject(findings, RULE.code, mention.line, format!("{} reaches into the interpreter", mention.path));
        }
    }
}
