//! Classes without a constructor of their own (dataclasses, named tuples): their fields are their arguments.

use std::rc::Rc;

use ruff_python_ast::{Expr, Stmt};

use super::call::Args;
use super::value::{ClassId, Env, ObjId, Value};
use super::{ClassInfo, Engine};

/// Most fields and base classes that are looked at.
const MAX_FIELDS: usize = 64;

/// The annotated names of a class body, in order.
pub(super) fn annotated(body: &[Stmt]) -> Vec<Rc<str>> {
    let name = |stmt: &Stmt| match stmt {
        Stmt::AnnAssign(a) => match &*a.target {
            Expr::Name(n) => Some(Rc::from(n.id.as_str())),
            _ => None,
        },
        _ => None,
    };
    body.iter().filter_map(name).take(MAX_FIELDS).collect()
}

impl<'a> Engine<'a> {
    /// The fields of a class, those of its bases first.
    fn fields(&self, class: ClassId) -> Vec<Rc<str>> {
        let mut chain = vec![class];
        let mut at = 0;
        while let Some(info) = chain.get(at).and_then(|c| self.classes.get(*c)) {
            at += 1;
            for base in &info.bases {
                if let Value::Class(base) = base
                    && !chain.contains(base)
                    && chain.len() < MAX_FIELDS
                {
                    chain.push(*base);
                }
            }
        }
        let mut all: Vec<Rc<str>> = Vec::new();
        for name in chain.iter().rev().filter_map(|c| self.classes.get(*c)).flat_map(|info| &info.fields) {
            if !all.contains(name) && all.len() < MAX_FIELDS {
                all.push(Rc::clone(name));
            }
        }
        all
    }

    /// A class with fields of its own.
    pub(super) fn has_fields(&self, class: ClassId) -> bool {
        !self.fields(class).is_empty()
    }

    /// A class whose objects are their fields.
    pub(super) fn is_record(&self, class: ClassId) -> bool {
        self.member(class, "__init__").is_none() && !self.fields(class).is_empty()
    }

    /// The values of all fields.
    pub(super) fn record(&mut self, object: ObjId, class: ClassId) -> Vec<Value<'a>> {
        self.fields(class).iter().map(|name| self.instance_attribute(object, class, name)).collect()
    }

    /// Sets the fields of a new object from the arguments of its construction.
    pub(super) fn fill_record(&mut self, object: ObjId, class: ClassId, args: Args<'a>) {
        let fields = self.fields(class);
        for (name, value) in fields.iter().zip(args.positional) {
            self.state.set_field(object, Rc::clone(name), value);
        }
        for (name, value) in args.keywords {
            if let Some(name) = name {
                self.state.set_field(object, Rc::from(name), value);
            }
        }
        if let Some(rest) = args.rest {
            for name in &fields {
                let value = self.state.field(object, name).map_or(rest.clone(), |old| old.join(&rest));
                self.state.set_field(object, Rc::clone(name), value);
            }
        }
        if let Some(Value::Func(after)) = self.member(class, "__post_init__") {
            self.call_function(&after, Some(Value::Instance(object, class)), Args::default());
        }
    }

    /// `dataclasses.asdict(record)` and the like: a collection of what it holds.
    pub(super) fn fields_of(&mut self, args: &Args<'a>) -> Value<'a> {
        let record = args.positional.first().cloned().unwrap_or(Value::unknown());
        let field = self.any_field(&record);
        if field.all_tensors().is_empty() { Value::Scalar } else { Value::Bag(Rc::new(field)) }
    }

    /// `types.SimpleNamespace(..)`
    pub(super) fn namespace(&mut self, args: Args<'a>) -> Value<'a> {
        let class = self.classes.len();
        let fields: Vec<Rc<str>> = args.keywords.iter().filter_map(|(k, _)| k.map(Rc::from)).take(MAX_FIELDS).collect();
        let info = ClassInfo { name: "namespace", bases: Vec::new(), members: Env::new(), fields, line: self.line };
        self.classes.push(info);
        self.instantiate(class, Args { positional: Vec::new(), ..args })
    }

    /// One of the fields of a record, whichever.
    pub(super) fn any_field(&mut self, value: &Value<'a>) -> Value<'a> {
        match value {
            Value::Instance(object, class) if self.is_record(*class) => {
                let fields = self.record(*object, *class);
                fields.iter().skip(1).fold(fields.first().cloned().unwrap_or(Value::unknown()), |all, v| all.join(v))
            }
            _ => Value::unknown(),
        }
    }

    /// `dataclasses.field(default=.., default_factory=..)`
    pub(super) fn record_default(&mut self, args: &Args<'a>) -> Value<'a> {
        let named = |name: &str| args.keywords.iter().find(|(k, _)| *k == Some(name)).map(|(_, v)| v.clone());
        match (named("default"), named("default_factory")) {
            (Some(value), _) => value,
            (None, Some(factory)) => {
                self.remember(std::slice::from_ref(&factory));
                self.perhaps(|engine| engine.call_value(&factory, Args::default()))
            }
            (None, None) => Value::unknown(),
        }
    }

    /// `collections.namedtuple(name, fields)`: a class of its own.
    pub(super) fn named_tuple(&mut self, args: &Args<'a>) -> Value<'a> {
        let fields: Vec<Rc<str>> = match args.get(1, "field_names") {
            Some(Value::Str(names)) => {
                names.split([',', ' ']).filter(|n| !n.is_empty()).take(MAX_FIELDS).map(Rc::from).collect()
            }
            Some(Value::List(names)) => names
                .iter()
                .take(MAX_FIELDS)
                .filter_map(|n| match n {
                    Value::Str(name) => Some(Rc::clone(name)),
                    _ => None,
                })
                .collect(),
            _ => return Value::unknown(),
        };
        let class = self.classes.len();
        let info = ClassInfo { name: "named tuple", bases: Vec::new(), members: Env::new(), fields, line: self.line };
        self.classes.push(info);
        Value::Class(class)
    }
}
