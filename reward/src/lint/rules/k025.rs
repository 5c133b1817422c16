//! K025: tensors and modules behave as torch made them: no subclass of Tensor, no hooks, nothing of torch.nn.Module overridden.

use std::collections::{HashMap, HashSet};

use rollout::outcome::Finding;

use super::{Rule, reject};
use crate::lint::Known;
use crate::lint::members::kept;
use crate::lint::walk::ClassSeen;

/// K025
pub const RULE: Rule = Rule {
    code: "K025",
    title: "a protocol is overridden",
    page: include_str!("../../../../docs/rules/K025.md"),
    check,
};

/// Most base classes that are looked at.
const MAX_BASES: usize = 32;

/// In any class.
const NEVER: &[&str] = &[
    "__getattribute__",
    "__getattr__",
    "__setattr__",
    "__get__",
    "__set__",
    "__del__",
    "__torch_function__",
    "__torch_dispatch__",
    "__missing__",
    "__class_getitem__",
    "__set_name__",
    "__instancecheck__",
    "__array__",
    "__bool__",
    "__mro_entries__",
    "__prepare__",
];

/// Neither a module nor anything that is not known: at the end of all bases stand harmless library classes.
fn is_plain(class: &ClassSeen, all: &HashMap<&str, Vec<&ClassSeen>>) -> bool {
    let mut seen: Vec<&str> = Vec::new();
    let mut open: Vec<&str> = class.bases.iter().map(String::as_str).collect();
    while let Some(base) = open.pop() {
        let harmless = base == "object"
            || ["typing.", "abc.", "enum.", "dataclasses."].iter().any(|library| base.starts_with(library));
        if harmless || seen.contains(&base) {
            continue;
        }
        seen.push(base);
        let Some(own) = all.get(base).filter(|_| seen.len() <= MAX_BASES) else {
            return false;
        };
        open.extend(own.iter().flat_map(|c| c.bases.iter().map(String::as_str)).take(MAX_BASES));
    }
    true
}

/// The classes that modules, or what may be one, are made of.
fn parts<'a>(classes: &'a [ClassSeen], all: &HashMap<&str, Vec<&'a ClassSeen>>) -> HashSet<&'a str> {
    let mut found: HashSet<&'a str> = HashSet::new();
    let mut open: Vec<&'a ClassSeen> = classes.iter().filter(|class| !is_plain(class, all)).collect();
    while let Some(class) = open.pop() {
        if found.insert(&class.name) {
            let own = class.bases.iter().take(MAX_BASES).filter_map(|base| all.get(base.as_str()));
            open.extend(own.flatten().copied());
        }
    }
    found
}

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    let mut by_name: HashMap<&str, Vec<&ClassSeen>> = HashMap::new();
    for class in &known.whole.classes {
        by_name.entry(&class.name).or_default().push(class);
    }
    let parts = parts(&known.whole.classes, &by_name);
    for class in &known.whole.classes {
        let base = |name: &str| class.bases.iter().any(|b| b == name);
        let tensor = class.bases.iter().any(|b| {
            matches!(b.rsplit('.').next(), Some("Tensor" | "Parameter" | "Buffer" | "Size" | "dtype" | "device"))
                && b.starts_with("torch")
        });
        if tensor || base("type") || class.keywords.iter().any(|k| k == "metaclass") {
            reject(
                findings,
                RULE.code,
                class.line,
                format!("class {} changes what a tensor or a class is", class.name),
            );
        }
        let part = parts.contains(class.name.as_str());
        for (method, line) in &class.methods {
            let name = method.as_str();
            if NEVER.contains(&name) || part && kept(name) {
                reject(findings, RULE.code, *line, format!("class {} overrides {name}", class.name));
            }
        }
    }
    for seen in known.ran.engine.overrides() {
        let message = format!("class {} overrides {}", seen.class, seen.name);
        if !findings.iter().any(|f| f.message == message) {
            reject(findings, RULE.code, seen.line, message);
        }
    }
    for mention in known.whole.protocols.special.iter().filter(|m| NEVER.contains(&m.path.as_str())) {
        reject(findings, RULE.code, mention.line, format!("{} is overridden", mention.path));
    }
    for attribute in &known.whole.attributes {
        let name = attribute.path.as_str();
        if name.starts_with("register_") && name.ends_with("hook") || name.starts_with("register_module_") {
            reject(findings, RULE.code, attribute.line, format!(".{name} runs code that forward does not show"));
        }
    }
}
