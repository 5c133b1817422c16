//! Calls of Python's own functions.

use std::rc::Rc;

use super::Engine;
use super::call::Args;
use super::machine::{asks_device, is_address, object};
use super::prepass::Place;
use super::sizes::{entry, extreme};
use super::text::TEXTS;
use super::trace::{Fact, How};
use super::value::Value;
use crate::lint::tables::{COMPUTE_BUILTINS, QUIET_BUILTINS};

impl<'a> Engine<'a> {
    /// Runs the candidate's functions among some arguments (keys, callbacks) for what they do.
    pub(super) fn callbacks(&mut self, args: &Args<'a>) {
        let all = args.all();
        let functions = super::callbacks::functions_among(&all);
        // One that hands itself on ends here.
        if functions.is_empty() || self.returns.len() >= super::MAX_CALLS {
            return;
        }
        let mut data = Value::unknown();
        for value in all.iter().filter(|v| !super::callbacks::is_function(v)) {
            let item = self.element(value);
            data = if matches!(data, Value::Unknown(_)) { item } else { data.join(&item) };
        }
        let alive = self.state.alive;
        for function in functions {
            let args = Args { rest: Some(data.clone()), ..Args::default() };
            self.many_times(|engine| engine.call_value(&function, args));
            self.state.alive = alive;
        }
    }

    /// A function in the hands of something that calls it for one item after the other, or for none: a loop by another name.
    pub(super) fn many_times(&mut self, run: impl FnOnce(&mut Self) -> Value<'a>) -> Value<'a> {
        self.turns += 1;
        let made = self.perhaps(run);
        self.turns = self.turns.saturating_sub(1);
        made
    }

    pub(super) fn call_builtin(&mut self, name: &str, args: Args<'a>) -> Value<'a> {
        let result = self.builtin(name, args);
        self.builtin_gives(name, result)
    }

    /// The collection or function that the least or greatest of these is, whichever.
    fn one_of(&mut self, args: &Args<'a>) -> Option<Value<'a>> {
        let one = match args.positional.as_slice() {
            [items] => self.element(items),
            several => self.element(&Value::List(Rc::new(several.to_vec()))),
        };
        one.each().iter().any(|v| matches!(v, Value::List(_) | Value::Bag(_) | Value::Func(_))).then_some(one)
    }

    fn builtin(&mut self, name: &str, args: Args<'a>) -> Value<'a> {
        if name == "map" && args.positional.len() >= 2 {
            let items: Vec<Value<'a>> = args.positional[1..].iter().map(|v| self.element(v)).collect();
            let before = Rc::clone(&self.state.objects);
            let function = args.positional[0].clone();
            let made = self.many_times(|engine| engine.call_value(&function, Args::of(items)));
            self.unwrite(&before);
            return Value::Bag(Rc::new(made));
        }
        // `iter(f, end)` asks f for one thing after the other.
        if name == "iter" && args.positional.len() == 2 {
            let before = Rc::clone(&self.state.objects);
            let function = args.positional[0].clone();
            let made = self.many_times(|engine| engine.call_value(&function, Args::default()));
            self.unwrite(&before);
            return Value::Bag(Rc::new(made));
        }
        if matches!(name, "sorted" | "max" | "min" | "filter" | "iter" | "any" | "all" | "sum") {
            self.callbacks(&args);
        }
        let first = args.positional.first().cloned();
        if name.split_once('.').is_some_and(|(_, method)| TEXTS.contains(&method) || matches!(method, "format" | "join")) {
            return self.text_of(&format!("{name}()"), &args.all());
        }
        // `list.append(flag, 1)`
        if let (Some(("list" | "dict" | "set", method)), Some(list @ (Value::List(_) | Value::Bag(_)))) =
            (name.split_once('.'), &first)
            && method != "fromkeys"
        {
            let rest = Args { positional: args.positional[1..].to_vec(), ..args };
            return self.call_attribute(&Rc::new(list.clone()), method, rest);
        }
        match (name, &first) {
            ("super", _) => match (args.positional.get(1), &first) {
                (Some(Value::Instance(object, _)), Some(Value::Class(class))) => Value::Super(*object, *class),
                _ => self.super_of(None),
            },
            ("getattr", Some(base)) => match args.positional.get(1) {
                Some(Value::Str(name)) => {
                    let found = self.attribute(base, name);
                    match args.positional.get(2) {
                        Some(default) if matches!(found, Value::Attr(..)) => found.join(default),
                        _ => found,
                    }
                }
                _ => self.opaque("getattr with a computed name", &args),
            },
            ("setattr", Some(base)) => match (args.positional.get(1), args.positional.get(2)) {
                (Some(Value::Str(name)), Some(value)) => {
                    if let Some(name) = self.mutable.attributes.get(&**name).copied() {
                        self.store(Place::Attribute(name), value);
                    }
                    self.set_attribute(base, name, value.clone());
                    Value::Nothing
                }
                _ => {
                    self.note(Fact::Patch { what: "setattr with a computed name".to_owned() });
                    Value::Nothing
                }
            },
            ("str" | "repr" | "format" | "ascii" | "bytes" | "bytearray", Some(_)) => {
                self.text_of(&format!("{name}()"), &args.all())
            }
            ("object", None) => object(),
            ("slice", Some(_)) if args.has_tensor() => Value::Unknown(self.element(&Value::List(Rc::new(args.all()))).all_tensors()),
            ("hasattr", Some(value)) if asks_device(value) => {
                self.note(Fact::Machine { what: "which properties the device has".to_owned() });
                Value::Scalar
            }
            ("dict", None) if !args.keywords.is_empty() => {
                let values = args.all();
                Value::Bag(Rc::new(entry(values.iter().skip(1).fold(values[0].clone(), |all, v| all.join(v)))))
            }
            ("len", Some(tensor @ Value::Tensor(_))) => match self.sized(tensor) {
                Some(of) => Value::Size(of.part()),
                None => Value::Scalar,
            },
            ("min" | "max", _) if extreme(&args).is_some() => extreme(&args).unwrap_or(Value::Scalar),
            ("min" | "max", Some(_)) if !args.has_tensor() && self.one_of(&args).is_some() => {
                self.one_of(&args).unwrap_or(Value::Scalar)
            }
            ("range", _) => Value::Bag(Rc::new(Value::Scalar)),
            ("int", Some(address)) if is_address(address) => address.clone(),
            ("int", Some(size @ Value::Size(_))) if args.positional.len() == 1 => size.clone(),
            ("tuple", Some(Value::Shape(_))) => first.unwrap_or(Value::Scalar),
            ("tuple" | "list", Some(value @ (Value::List(_) | Value::Bag(_)))) => self.copied(value),
            // Unlike a shape, a list can be changed.
            ("list", Some(Value::Shape(of))) => {
                let made = Value::Bag(Rc::new(Value::Size(of.part())));
                self.made_here(&made);
                made
            }
            ("tuple", None) => self.made_tuple(Value::List(Rc::new(Vec::new()))),
            ("list" | "dict" | "set", None) => {
                let made = Value::List(Rc::new(Vec::new()));
                self.made_here(&made);
                made
            }
            ("dict.fromkeys", Some(_)) => {
                let keys = args.positional.first().map_or(Value::Nothing, |keys| self.element(keys));
                self.keyed_by(&keys);
                Value::Bag(Rc::new(entry(args.positional.get(1).cloned().unwrap_or(Value::Nothing))))
            }
            ("iter" | "next" | "reversed" | "sorted" | "tuple" | "list" | "set" | "frozenset", Some(value)) => {
                let item = self.element(value);
                match (name, args.positional.get(1)) {
                    ("next", Some(default)) => item.join(default),
                    ("next", None) => item,
                    _ => Value::Bag(Rc::new(item)),
                }
            }
            ("enumerate", Some(value)) => {
                let item = self.element(value);
                Value::Bag(Rc::new(Value::List(Rc::new(vec![Value::Scalar, item]))))
            }
            ("zip", Some(_)) => {
                let items: Vec<Value<'a>> = args.positional.iter().map(|v| self.element(v)).collect();
                Value::Bag(Rc::new(Value::List(Rc::new(items))))
            }
            ("dict", Some(pairs)) => match self.element(pairs) {
                Value::List(pair) if pair.len() == 2 => {
                    self.keyed_by(&pair[0]);
                    Value::Bag(Rc::new(entry(pair[1].clone())))
                }
                other => Value::Bag(Rc::new(Value::Unknown(other.all_tensors()))),
            },
            ("type", Some(Value::Instance(_, class))) => Value::Class(*class),
            ("type", Some(Value::Tensor(_))) => Value::path("torch.Tensor"),
            _ if COMPUTE_BUILTINS.contains(&name) => {
                if args.has_tensor() {
                    self.compute(How::Function(format!("builtins.{name}")), &args.all())
                } else if args.all().iter().any(|v| matches!(v, Value::StateScalar)) {
                    Value::StateScalar
                } else {
                    Value::Scalar
                }
            }
            // Whoever writes it, has the text.
            ("print", _) if args.rest.is_some() || args.get(usize::MAX, "file").is_some_and(|v| !matches!(v, Value::Nothing)) => {
                self.text_of("print()", &args.all());
                self.note(Fact::Host { what: "print() into something of the candidate's".to_owned(), reject: true });
                Value::Nothing
            }
            ("print", _) => {
                self.note(Fact::Prints);
                Value::Nothing
            }
            _ if QUIET_BUILTINS.contains(&name) => Value::Scalar,
            _ if args.has_tensor() => self.opaque(&format!("a call of {name}, which is not defined here"), &args),
            // What an exception is made of, it can be asked for.
            _ if name.ends_with("Error") || name.ends_with("Exception") || name.ends_with("Warning") => Value::Scalar,
            _ => Value::unknown(),
        }
    }
}
