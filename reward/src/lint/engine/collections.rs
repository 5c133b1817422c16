//! Methods of lists, dicts and sets.

use std::rc::Rc;

use ruff_python_ast::Expr;

use super::Engine;
use super::call::Args;
use super::prepass::place_of;
use super::trace::Fact;
use super::value::Value;

impl<'a> Engine<'a> {
    pub(super) fn collection_method(
        &mut self,
        place: &'a Expr,
        base: &Rc<Value<'a>>,
        name: &str,
        args: &Args<'a>,
    ) -> Value<'a> {
        let takes = name == "popleft" || name == "pop" && args.positional.is_empty();
        if takes && self.outlives(place) {
            self.note(Fact::Keeps { what: super::expr::shown(place), counts: true });
        }
        let (result, changed) = self.collection(base, name, args);
        if let Some(collection) = changed {
            if let Some(place) = place_of(place) {
                self.store(place, &collection);
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
        let with = |value: &Value<'a>| if empty { value.clone() } else { item.join(value) };
        let last = args.all().last().cloned();
        match (name, last) {
            ("append" | "add" | "insert" | "appendleft", Some(value)) => {
                (Value::Nothing, Some(Value::Bag(Rc::new(with(&value)))))
            }
            ("setdefault", Some(value)) => {
                let both = with(&value);
                (both.clone(), Some(Value::Bag(Rc::new(both))))
            }
            ("extend" | "update", Some(value)) => {
                let more = self.element(&value);
                (Value::Nothing, Some(Value::Bag(Rc::new(with(&more)))))
            }
            ("get", _) => {
                let default = args.positional.get(1).cloned().unwrap_or(Value::Nothing);
                (if empty { default } else { item.join(&default) }, None)
            }
            ("items", _) => (Value::Bag(Rc::new(Value::List(Rc::new(vec![Value::Scalar, item])))), None),
            ("values" | "copy", _) => (Value::Bag(Rc::new(item)), None),
            ("keys", _) => (Value::Bag(Rc::new(Value::Scalar)), None),
            ("pop" | "popitem" | "popleft", _) => (item, None),
            ("forward" | "__call__", _) => (self.call_value(&Rc::clone(base), args.clone()), None),
            ("to" | "cuda" | "eval" | "train", _) => ((**base).clone(), None),
            _ => (Value::Scalar, None),
        }
    }
}
