//! Methods of lists, dicts and sets.

use std::rc::Rc;

use ruff_python_ast::Expr;

use super::Engine;
use super::call::Args;
use super::prepass::place_of;
use super::sizes::entry;
use super::trace::{Fact, Stage};
use super::value::Value;

/// Methods after which nothing new is in a collection, but not all, or elsewhere.
const SHUFFLES: &[&str] = &[
    "clear",
    "pop",
    "popitem",
    "popleft",
    "remove",
    "discard",
    "reverse",
    "sort",
    "rotate",
    "move_to_end",
    "__delitem__",
    "__imul__",
];

impl<'a> Engine<'a> {
    pub(super) fn collection_method(
        &mut self,
        place: &'a Expr,
        base: &Rc<Value<'a>>,
        name: &str,
        args: &Args<'a>,
    ) -> Value<'a> {
        self.changes(place, base, name);
        let (result, changed) = self.collection(base, name, args);
        let state = self.any_state(args);
        let result = self.tainted(state, result);
        if self.outlasts(base) {
            self.lasting(&result);
        }
        if let Some(collection) = changed {
            self.replaced(base, &collection);
            self.changed(base, &collection);
            if SHUFFLES.contains(&name) {
                self.replace_collection(place, collection, false);
                return result;
            }
            if let Some(place) = place_of(place) {
                self.store(place, &collection);
            }
            let value = args.all().last().cloned().unwrap_or(Value::Nothing);
            let counts = self.outlasts(base) && self.keeps("..", None, &value);
            if counts {
                self.counts(super::expr::shown(place));
            }
            self.replace_collection(place, collection, false);
        }
        result
    }

    /// A method of a list, dict or set: its result, and what the collection becomes.
    pub(super) fn collection(
        &mut self,
        base: &Rc<Value<'a>>,
        name: &str,
        args: &Args<'a>,
    ) -> (Value<'a>, Option<Value<'a>>) {
        let empty = matches!(&**base, Value::List(items) if items.is_empty());
        let item = self.element(base);
        let last = args.all().last().cloned();
        let kin = Rc::clone(&self.state.kin);
        let with = |value: &Value<'a>| {
            if empty {
                return value.clone();
            }
            let both = item.join(value);
            kin.borrow_mut().unite(&[&item, value, &both]);
            both
        };
        match (name, last) {
            ("append" | "add" | "insert" | "appendleft", Some(value)) => {
                (Value::Nothing, Some(Value::Bag(Rc::new(with(&value)))))
            }
            ("setdefault", Some(value)) => {
                let both = entry(with(&value));
                if let Some(key) = args.positional.first() {
                    self.keyed_by(key);
                }
                (both.clone(), Some(Value::Bag(Rc::new(both))))
            }
            ("__setitem__", Some(value)) => (Value::Nothing, Some(Value::Bag(Rc::new(with(&value))))),
            ("extend" | "update" | "extendleft" | "__iadd__" | "__ior__", Some(value)) => {
                let more = self.element(&value);
                let more = if matches!(name, "update" | "__ior__") { entry(more) } else { more };
                (Value::Nothing, Some(Value::Bag(Rc::new(with(&more)))))
            }
            ("get", _) => {
                let default = args.positional.get(1).cloned().unwrap_or(Value::Nothing);
                (if empty { default } else { item.join(&default) }, None)
            }
            ("items", _) => (self.view(base, Value::List(Rc::new(vec![Value::Scalar, item]))), None),
            ("values" | "copy", _) => (self.view(base, item), None),
            ("keys", _) => (self.view(base, Value::Scalar), None),
            _ if SHUFFLES.contains(&name) => {
                let known = matches!(&**base, Value::List(items) if !items.is_empty());
                let left = known.then(|| Value::Bag(Rc::new(item.clone())));
                (if name.starts_with("pop") { item } else { Value::Scalar }, left)
            }
            ("forward" | "__call__", _) => (self.call_value(&Rc::clone(base), args.clone()), None),
            ("to" | "cuda" | "eval" | "train", _) => ((**base).clone(), None),
            _ => (Value::Scalar, None),
        }
    }

    /// A dict's keys are not followed.
    pub(super) fn keyed_by(&mut self, key: &Value<'a>) {
        let holds = |v: &Value<'a>| !v.all_tensors().is_empty() && !matches!(v, Value::Attr(..) | Value::Instance(..));
        if self.stage == Stage::Forward && holds(key) {
            self.note(Fact::OpaqueCall { what: "a tensor as a key".to_owned() });
        }
    }

    /// As many things as a collection holds.
    fn view(&mut self, base: &Value<'a>, item: Value<'a>) -> Value<'a> {
        let view = Value::Bag(Rc::new(item));
        self.replaced(base, &view);
        view
    }
}
