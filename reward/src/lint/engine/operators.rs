//! Python's operators under their names: `operator.mul(a, b)`.

use std::rc::Rc;

use ruff_python_ast::Operator;

use super::Engine;
use super::call::Args;
use super::value::Value;

impl<'a> Engine<'a> {
    pub(super) fn call_operator(&mut self, path: &str, name: &str, args: Args<'a>) -> Value<'a> {
        let method = match name {
            "setitem" => "__setitem__",
            "delitem" => "__delitem__",
            "iadd" | "iconcat" => "__iadd__",
            "ior" => "__ior__",
            "imul" => "__imul__",
            _ => "",
        };
        if let ([list @ (Value::List(_) | Value::Bag(_)), rest @ ..], false) =
            (args.positional.as_slice(), method.is_empty())
        {
            let (list, rest) = (Rc::new(list.clone()), Args::of(rest.to_vec()));
            return self.call_attribute(&list, method, rest);
        }
        if let ([list @ (Value::List(_) | Value::Bag(_)), _], "getitem") = (args.positional.as_slice(), name) {
            return self.element(&list.clone());
        }
        match (args.positional.as_slice(), operator(name)) {
            ([a, b], Some(op)) => self.binary(op, &a.clone(), &b.clone(), false),
            // What methodcaller and its kin return is called in turn.
            _ => Value::path(path),
        }
    }
}

fn operator(name: &str) -> Option<Operator> {
    Some(match name {
        "add" | "concat" => Operator::Add,
        "sub" => Operator::Sub,
        "mul" => Operator::Mult,
        "floordiv" => Operator::FloorDiv,
        "mod" => Operator::Mod,
        "pow" => Operator::Pow,
        "truediv" => Operator::Div,
        _ => return None,
    })
}
