//! The text of a value: a tensor's has its numbers, also where the tensor lies in a list, a record or an exception; a function's
//! or a plain object's has its address.

use super::Engine;
use super::call::Args;
use super::machine::{asks_device, is_address, is_object};
use super::trace::Fact;
use super::value::Value;

/// Methods that give a text, of any object.
pub(super) const TEXTS: &[&str] = &["__repr__", "__str__", "__format__", "__mod__", "__rmod__"];

/// Deepest nesting that is looked through.
const MAX_DEPTH: u32 = 12;

/// What a text shows.
#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    numbers: bool,
    address: bool,
    device: bool,
}

impl Shown {
    fn with(self, other: Self) -> Self {
        Shown {
            numbers: self.numbers | other.numbers,
            address: self.address | other.address,
            device: self.device | other.device,
        }
    }
}

impl<'a> Engine<'a> {
    /// A text is made of these values.
    pub(super) fn text_of(&mut self, what: &str, values: &[Value<'a>]) -> Value<'a> {
        let shown = values.iter().fold(Shown::default(), |all, v| all.with(self.shown_by(v, 0)));
        if shown.numbers {
            self.note(Fact::Host { what: what.to_owned(), reject: true });
        }
        if shown.device {
            self.note(Fact::Machine { what: "all properties of the device".to_owned() });
        }
        if shown.address {
            self.note(Fact::Machine { what: format!("the address of something, by {what}") });
        }
        Value::Scalar
    }

    /// `f"{..}"`: one that is raised goes nowhere, if it is not made number by number.
    pub(super) fn text_of_parts(&mut self, parts: &[Value<'a>]) {
        if !self.raising {
            self.text_of("a tensor's text", parts);
        } else if self.turns > 0 && parts.iter().any(|v| !v.tensors().is_empty()) {
            self.note(Fact::Host { what: "a tensor's text".to_owned(), reject: true });
        }
    }

    /// Evaluates what is raised.
    pub(super) fn raised<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> T {
        let around = std::mem::replace(&mut self.raising, true);
        let value = run(self);
        self.raising = around;
        value
    }

    /// `%` and the methods in `TEXTS`.
    pub(super) fn text_by(&mut self, name: &str, base: &Value<'a>, args: &Args<'a>) -> Value<'a> {
        let own = self.special(base, name, args.all());
        own.unwrap_or_else(|| {
            let all: Vec<Value<'a>> = std::iter::once(base.clone()).chain(args.all()).collect();
            self.text_of(&format!(".{name}()"), &all)
        })
    }

    fn shown_by(&mut self, value: &Value<'a>, depth: u32) -> Shown {
        let numbers = |numbers: bool| Shown { numbers, ..Shown::default() };
        let address = Shown { address: true, ..Shown::default() };
        if depth > MAX_DEPTH {
            return numbers(!value.all_tensors().is_empty());
        }
        if is_address(value) || is_object(value) {
            return address;
        }
        if asks_device(value) {
            return Shown { device: true, ..Shown::default() };
        }
        match value {
            Value::Tensor(_) => numbers(true),
            Value::Unknown(ids) => numbers(!ids.is_empty()),
            Value::List(values) | Value::Union(values) => self.shown_by_all(values, depth),
            Value::Bag(item) => self.shown_by(item, depth + 1),
            Value::Bound(receiver, _) => self.shown_by(receiver, depth + 1).with(address),
            Value::Attr(base, _) if !base.is_scalar() => self.shown_by(base, depth + 1),
            Value::Partial(p) => {
                let callee = self.shown_by(&p.callee, depth + 1);
                let keywords: Vec<Value<'a>> = p.keywords.iter().map(|(_, v)| v.clone()).collect();
                callee.with(self.shown_by_all(&p.args, depth)).with(self.shown_by_all(&keywords, depth))
            }
            Value::Func(_) | Value::Launcher(_) => address,
            // What a plain object inherits.
            Value::Super(_, class) if self.is_plain(*class) => address,
            Value::Instance(object, class) => self.shown_by_object(*object, *class, depth),
            _ => Shown::default(),
        }
    }

    fn shown_by_all(&mut self, values: &[Value<'a>], depth: u32) -> Shown {
        values.iter().fold(Shown::default(), |all, v| all.with(self.shown_by(v, depth + 1)))
    }

    /// Its text is its address.
    fn is_plain(&self, class: usize) -> bool {
        self.library_bases(class).is_empty() && !self.has_fields(class)
    }

    fn shown_by_object(&mut self, object: u32, class: usize, depth: u32) -> Shown {
        let instance = Value::Instance(object, class);
        for name in ["__repr__", "__str__", "__format__"] {
            if self.member(class, name).is_some() {
                let args = if name == "__format__" { vec![Value::Scalar] } else { Vec::new() };
                self.special(&instance, name, args);
                return Shown::default();
            }
        }
        // A module's text is that of its layers.
        let bases = self.library_bases(class);
        if bases.iter().any(|b| b.starts_with("torch.nn.") || b.starts_with("enum.")) {
            return Shown::default();
        }
        // All fields are looked through: that is paid for.
        self.budget = self.budget.saturating_sub(self.state.fields.len() as u32 / 4);
        let fields = self.state.fields.iter().filter(|((of, _), _)| *of == object);
        let fields: Vec<Value<'a>> = fields.map(|(_, v)| v.clone()).collect();
        if self.is_plain(class) {
            Shown { address: true, ..Shown::default() }
        } else {
            self.shown_by_all(&fields, depth)
        }
    }
}
