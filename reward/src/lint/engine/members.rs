//! Modules of the candidate that give torch.nn.Module's own methods another meaning: by whatever binds the name in a class or
//! in one of its bases, or in an object.

use super::Engine;
use super::trace::Fact;
use super::value::{ClassId, Value};
use crate::lint::members::{kept, word};

/// A class made in the course of a run: who asks a module asks the class it is made of.
pub struct Override<'a> {
    pub class: &'a str,
    pub name: String,
    pub line: u32,
}

impl<'a> Engine<'a> {
    /// It is a module, or what it is made of is not known.
    fn may_be_module(&self, class: ClassId) -> bool {
        self.library_bases(class).iter().any(|base| base.starts_with("torch.nn.") || base == "?")
    }

    /// What the candidate's modules override of torch.nn.Module, by themselves or through a base.
    pub fn overrides(&self) -> Vec<Override<'a>> {
        let modules = (0..self.classes.len()).filter(|class| self.may_be_module(*class));
        let mut found = Vec::new();
        for class in modules {
            let (of, line) = (self.classes[class].name, self.classes[class].line);
            let mut add = |name: &str| {
                if kept(name) {
                    found.push(Override { class: of, name: name.to_owned(), line });
                }
            };
            let members = self.members(class);
            members.iter().filter(|(name, value)| !(word(name) && is_data(value))).for_each(|(name, _)| add(name));
            // A field without a default: its value comes with the object.
            let fields = &self.classes[class].fields;
            fields.iter().filter(|name| !word(name)).for_each(|name| add(name));
        }
        found.sort_by(|a, b| (a.line, &a.name).cmp(&(b.line, &b.name)));
        found.dedup_by(|a, b| (a.line, &a.name) == (b.line, &b.name));
        found
    }

    /// `module.name = value`
    pub(super) fn set_on_module(&mut self, base: &Value<'a>, name: &str, value: &Value<'a>) {
        let module = match base {
            Value::Instance(_, class) => self.may_be_module(*class),
            Value::Tensor(_) | Value::Path(_) | Value::Class(_) | Value::Union(_) => false,
            _ => true,
        };
        let data = is_data(value) || word(name) && matches!(value, Value::Unknown(ids) if ids.is_empty());
        if module && !data && (kept(name) || name == "forward") {
            self.note(Fact::Patch { what: format!("a module's .{name}") });
        }
    }
}

/// Nothing that can be called.
fn is_data(value: &Value<'_>) -> bool {
    match value {
        Value::Tensor(_) => true,
        Value::List(values) | Value::Union(values) => values.iter().all(is_data),
        Value::Bag(item) => is_data(item),
        Value::Attr(base, _) => base.is_scalar(),
        Value::Path(path) => path.strip_prefix("torch.").is_some_and(|p| !p.contains('.') && is_dtype(p)),
        value => value.is_scalar(),
    }
}

fn is_dtype(name: &str) -> bool {
    let kinds = ["float", "bfloat", "int", "uint", "complex"];
    name == "bool" || kinds.iter().any(|k| name.strip_prefix(k).is_some_and(|bits| bits.parse::<u32>().is_ok()))
}
