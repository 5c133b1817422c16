//! Expressions of the abstract interpreter, conditions included.

use std::collections::BTreeMap;
use std::rc::Rc;

use ruff_python_ast::visitor::{Visitor, walk_expr};
use ruff_python_ast::{Comprehension, Expr, Number, Operator, UnaryOp};

use super::assign::target_names;
use super::call::Args;
use super::fold::{fold, special_name};
use super::paths::canonical;
use super::sizes::entry;
use super::state::Written;
use super::trace::{Fact, How, Stage};
use super::value::{Func, ObjId, Value, scalar};
use super::{Binding, Body, Engine, FuncInfo};

/// Longest dotted name.
const MAX_PATH: usize = 400;
/// Longest list whose elements a comprehension goes through one by one.
const MAX_UNROLLED: usize = 16;

/// Source-like text of a chain of names, for messages.
pub fn shown(expr: &Expr) -> String {
    match expr {
        Expr::Name(n) => n.id.to_string(),
        Expr::Attribute(a) => format!("{}.{}", shown(&a.value), a.attr.id),
        Expr::Call(c) => format!("{}(..)", shown(&c.func)),
        Expr::Subscript(s) => format!("{}[..]", shown(&s.value)),
        _ => "(..)".to_owned(),
    }
}

impl<'a> Engine<'a> {
    pub(super) fn eval(&mut self, expr: &'a Expr) -> Value<'a> {
        if !self.step() {
            return Value::unknown();
        }
        self.expression(expr).bounded()
    }

    fn expression(&mut self, expr: &'a Expr) -> Value<'a> {
        match expr {
            Expr::Name(n) => self.name(n.id.as_str()),
            Expr::Attribute(a) => {
                let base = self.eval(&a.value);
                self.attribute(&base, a.attr.id.as_str())
            }
            Expr::Call(c) => {
                self.line = self.lines.of(expr);
                self.call(c)
            }
            Expr::Subscript(s) => self.subscript(s),
            Expr::NumberLiteral(n) => match &n.value {
                Number::Int(i) => i.as_u64().and_then(|v| i64::try_from(v).ok()).map_or(Value::Scalar, Value::Int),
                _ => Value::Scalar,
            },
            Expr::StringLiteral(s) => Value::Str(Rc::from(s.value.to_str())),
            Expr::BooleanLiteral(b) => Value::Bool(b.value),
            Expr::NoneLiteral(_) => Value::Nothing,
            Expr::BytesLiteral(_) | Expr::EllipsisLiteral(_) => Value::Scalar,
            Expr::FString(_) | Expr::TString(_) => {
                let parts = self.children(expr);
                self.text_of_parts(&parts);
                parts.iter().for_each(|v| self.measured(v));
                let state = parts.iter().any(|v| v.tensors().is_empty() && self.is_state(v));
                self.tainted(state, Value::Scalar)
            }
            Expr::BinOp(b) => {
                let left = self.eval(&b.left);
                let right = self.eval(&b.right);
                self.line = self.lines.of(expr);
                self.binary(b.op, &left, &right, false)
            }
            Expr::UnaryOp(u) => {
                let operand = self.eval(&u.operand);
                self.unary(u.op, &operand)
            }
            Expr::Compare(c) => self.compare(c).0,
            Expr::BoolOp(b) => self.logic(b.op, &b.values).0,
            Expr::If(i) => {
                let test = self.condition(&i.test);
                match test.truth {
                    Some(true) => self.eval(&i.body),
                    Some(false) => self.eval(&i.orelse),
                    None => {
                        let before = self.fork();
                        self.narrow(&i.test, true);
                        let yes = self.eval(&i.body);
                        let after = std::mem::replace(&mut self.state, before);
                        self.narrow(&i.test, false);
                        let no = self.eval(&i.orelse);
                        let yes = self.if_it_has(&i.test, yes, &no);
                        let other = std::mem::take(&mut self.state);
                        let value = match (after.alive, other.alive) {
                            (true, false) => yes,
                            (false, true) => no,
                            _ => yes.join(&no),
                        };
                        self.state = after.join(other);
                        value
                    }
                }
            }
            Expr::Named(n) => {
                let value = self.eval(&n.value);
                self.assign(&n.target, value.clone());
                value
            }
            Expr::Lambda(l) => {
                if let Some(parameters) = l.parameters.as_deref() {
                    self.defaults(parameters);
                }
                let info = FuncInfo {
                    name: "<lambda>",
                    params: l.parameters.as_deref(),
                    body: Body::Expr(&l.body),
                    line: self.lines.of(expr),
                    binding: Binding::Plain,
                    node: None,
                    owner: self.owner,
                    cached: false,
                };
                let id = self.function(std::ptr::from_ref(l) as usize, info);
                Value::Func(self.close(id))
            }
            Expr::Tuple(t) => {
                let made = self.elements(&t.elts);
                self.made_tuple(made)
            }
            Expr::List(l) => {
                let made = self.elements(&l.elts);
                self.made_here(&made);
                made
            }
            Expr::Set(s) => {
                let items = self.elements(&s.elts);
                Value::Bag(Rc::new(self.element(&items)))
            }
            Expr::Dict(d) => {
                let mut all: Option<Value<'a>> = None;
                for item in &d.items {
                    if let Some(key) = &item.key {
                        let key = self.eval(key);
                        self.keyed_by(&key);
                    }
                    let value = self.eval(&item.value);
                    if let (None, Value::Instance(_, class)) = (&item.key, &value)
                        && self.is_launch_record(*class)
                    {
                        // `{**named_args, ..}` is read by the same names.
                        return value;
                    }
                    all = Some(match all {
                        Some(others) => self.meet(&others, &value),
                        None => value,
                    });
                }
                let made = match all {
                    Some(value) => Value::Bag(Rc::new(entry(value))),
                    None => Value::List(Rc::new(Vec::new())),
                };
                self.made_here(&made);
                made
            }
            Expr::ListComp(c) => {
                let made = self.comprehension(&c.generators, &[&c.elt]);
                self.made_here(&made);
                made
            }
            Expr::SetComp(c) => self.comprehension(&c.generators, &[&c.elt]),
            Expr::Generator(c) => {
                // Lazy: what it writes to is written only where somebody runs it. Tensors made in it come out of it.
                let before = Rc::clone(&self.state.objects);
                let items = self.comprehension(&c.generators, &[&c.elt]);
                self.unwrite(&before);
                self.iterator(items)
            }
            Expr::DictComp(c) => {
                let mut parts: Vec<&'a Expr> = c.key.as_deref().into_iter().collect();
                parts.push(&c.value);
                entry(self.comprehension(&c.generators, &parts))
            }
            Expr::Starred(s) => {
                let value = self.eval(&s.value);
                Value::Bag(Rc::new(self.element(&value)))
            }
            Expr::Slice(_) => {
                let bounds = self.children(expr);
                bounds.iter().for_each(|v| self.decides(v));
                Value::Scalar
            }
            Expr::Yield(y) => {
                let value = y.value.as_deref().map_or(Value::Nothing, |v| self.eval(v));
                self.yielded(value)
            }
            Expr::YieldFrom(y) => {
                let all = self.eval(&y.value);
                let value = self.element(&all);
                self.yielded(value)
            }
            Expr::Await(_) | Expr::IpyEscapeCommand(_) => {
                self.children(expr);
                if self.stage == Stage::Forward {
                    self.note(Fact::Opaque { what: "await".to_owned() });
                }
                Value::unknown()
            }
        }
    }

    /// Evaluates the direct parts of an expression.
    fn children(&mut self, expr: &'a Expr) -> Vec<Value<'a>> {
        struct Parts<'a>(Vec<&'a Expr>);
        impl<'a> Visitor<'a> for Parts<'a> {
            fn visit_expr(&mut self, expr: &'a Expr) {
                self.0.push(expr);
            }
        }
        let mut parts = Parts(Vec::new());
        walk_expr(&mut parts, expr);
        parts.0.into_iter().map(|part| self.eval(part)).collect()
    }

    /// Takes back what was written to tensors that existed before.
    pub(super) fn unwrite(&mut self, before: &BTreeMap<ObjId, Written>) {
        for (id, written) in before {
            if self.state.written(*id) != *written {
                self.state.set_written(*id, *written);
            }
        }
    }

    fn elements(&mut self, elts: &'a [Expr]) -> Value<'a> {
        if elts.iter().any(Expr::is_starred_expr) {
            let mut items = Vec::new();
            let mut counted = true;
            for elt in elts {
                match elt {
                    Expr::Starred(s) => match self.eval(&s.value) {
                        Value::List(inner) => items.extend(inner.iter().cloned()),
                        other => {
                            self.measured(&other);
                            items.push(self.element(&other));
                            counted = false;
                        }
                    },
                    other => items.push(self.eval(other)),
                }
            }
            let items = Value::List(Rc::new(items));
            return if counted { items } else { Value::Bag(Rc::new(self.element(&items))) };
        }
        Value::List(Rc::new(elts.iter().map(|e| self.eval(e)).collect()))
    }

    /// A generator hands out a value; what it is sent back is unknown.
    fn yielded(&mut self, value: Value<'a>) -> Value<'a> {
        if let Some(yielded) = self.yields.last_mut() {
            *yielded = Some(match yielded.take() {
                Some(before) => before.join(&value),
                None => value,
            });
        }
        Value::unknown()
    }

    fn comprehension(&mut self, generators: &'a [Comprehension], parts: &[&'a Expr]) -> Value<'a> {
        self.turns += 1;
        self.memory.searching += 1;
        // Its names are its own.
        let names: Vec<&'a str> = generators.iter().flat_map(|g| target_names(&g.target)).collect();
        let hidden: Vec<Option<Value<'a>>> =
            names.iter().map(|name| self.state.frames.last().and_then(|f| f.get(name)).cloned()).collect();
        let made = self.perhaps(|engine| engine.comprehended(generators, parts));
        for (name, value) in names.into_iter().zip(hidden).rev() {
            match value {
                Some(value) => self.state.bind(name, value),
                None => self.state.unbind(name),
            }
        }
        self.memory.searching = self.memory.searching.saturating_sub(1);
        self.turns = self.turns.saturating_sub(1);
        made
    }

    fn comprehended(&mut self, generators: &'a [Comprehension], parts: &[&'a Expr]) -> Value<'a> {
        if let ([generator], [part]) = (generators, parts)
            && generator.ifs.is_empty()
        {
            let items = self.eval(&generator.iter);
            self.walked(&items);
            if let Value::List(items) = &items
                && items.len() <= MAX_UNROLLED
            {
                // One by one: each keeps its place.
                let mut made = Vec::with_capacity(items.len());
                for item in items.iter() {
                    self.assign(&generator.target, item.clone());
                    made.push(self.eval(part));
                }
                return Value::List(Rc::new(made));
            }
            let item = self.element(&items);
            self.assign(&generator.target, item);
            return Value::Bag(Rc::new(self.eval(part)));
        }
        for generator in generators {
            let items = self.eval(&generator.iter);
            self.walked(&items);
            let item = self.element(&items);
            self.assign(&generator.target, item);
            for test in &generator.ifs {
                self.condition(test);
            }
        }
        let mut last = Value::unknown();
        for (at, part) in parts.iter().enumerate() {
            last = self.eval(part);
            if at + 1 < parts.len() {
                self.keyed_by(&last);
            }
        }
        Value::Bag(Rc::new(last))
    }

    /// Looks a name up: locals, what the function closed over, the module, builtins.
    pub(super) fn name(&mut self, name: &'a str) -> Value<'a> {
        for (depth, frame) in self.state.frames.iter().enumerate().rev() {
            if let Some(value) = frame.get(name) {
                let value = value.clone();
                if depth == 0 {
                    self.lasting(&value);
                }
                return value;
            }
        }
        match name {
            "__name__" => Value::Str(Rc::from("candidate")),
            "__file__" | "__doc__" => Value::Scalar,
            "NotImplemented" | "Ellipsis" | "__debug__" => Value::Scalar,
            "Model" => {
                self.note(Fact::Reference { what: "the name Model, which the candidate does not define".to_owned() });
                Value::unknown()
            }
            _ => Value::Path(Rc::from(format!("builtins.{name}"))),
        }
    }

    /// A dotted name, in its one spelling.
    pub(super) fn dotted(&self, base: &str, name: &str) -> Value<'a> {
        // No library is that deep.
        let path = if base.len() > MAX_PATH { base.to_owned() } else { canonical(&format!("{base}.{name}")) };
        Value::Path(Rc::from(path))
    }

    pub(super) fn binary(&mut self, op: Operator, a: &Value<'a>, b: &Value<'a>, in_place: bool) -> Value<'a> {
        if let Some(value) = self.address_arithmetic(op, a, b) {
            return value;
        }
        if !a.tensors().is_empty() || !b.tensors().is_empty() {
            let result = self.compute(How::Operator(op.as_str()), &[a.clone(), b.clone()]);
            return if in_place && !a.tensors().is_empty() { a.join(&result) } else { result };
        }
        if matches!(a, Value::Instance(..)) || matches!(b, Value::Instance(..)) {
            let name = special_name(op);
            let found = self.special(a, &format!("__{name}__"), vec![b.clone()]);
            if let Some(value) = found.or_else(|| self.special(b, &format!("__r{name}__"), vec![a.clone()])) {
                return value;
            }
        }
        if op == Operator::Mod && !a.is_scalar() | matches!(a, Value::Str(_) | Value::Scalar) {
            // `"%s" % [x]`
            self.text_of("a text's %", std::slice::from_ref(b));
        }
        match (a, b, op) {
            (Value::Int(x), Value::Int(y), _) => fold(op, *x, *y).map_or(Value::Scalar, Value::Int),
            (Value::Str(x), Value::Str(y), Operator::Add) if x.len() + y.len() < 4096 => {
                Value::Str(Rc::from(format!("{x}{y}")))
            }
            (Value::List(x), Value::List(y), Operator::Add) => {
                Value::List(Rc::new(x.iter().chain(y.iter()).cloned().collect()))
            }
            (Value::List(x), Value::Int(_), Operator::Mult) => {
                let items = Value::List(Rc::clone(x));
                Value::Bag(Rc::new(self.element(&items)))
            }
            _ if super::sizes::operate(op, a, b).is_some() => super::sizes::operate(op, a, b).unwrap_or(Value::Scalar),
            (Value::List(_) | Value::Bag(_), _, _)
            | (_, Value::List(_) | Value::Bag(_), _)
            | (Value::Shape(_), _, Operator::Add)
            | (_, Value::Shape(_), Operator::Add) => {
                let (x, y) = (self.element(a), self.element(b));
                Value::Bag(Rc::new(x.join(&y)))
            }
            _ if a.is_scalar() && b.is_scalar() => match scalar(a, b) {
                Value::StateScalar => Value::StateScalar,
                _ => Value::Scalar,
            },
            _ => {
                let ids = super::value::merge_ids(&a.all_tensors(), &b.all_tensors());
                if !ids.is_empty() && self.stage == Stage::Forward {
                    self.note(Fact::Opaque { what: format!("operator {} on a value of unknown type", op.as_str()) });
                }
                // None and a number that an earlier call left, too.
                let state = |v: &Value<'a>| v.tensors().is_empty() && self.is_state(v);
                if ids.is_empty() && (state(a) || state(b))
                    || a.each().iter().chain(b.each()).any(|v| matches!(v, Value::StateScalar))
                {
                    return Value::StateScalar;
                }
                if ids.is_empty() { Value::Scalar } else { Value::Unknown(ids) }
            }
        }
    }

    pub(super) fn unary(&mut self, op: UnaryOp, operand: &Value<'a>) -> Value<'a> {
        self.decides(operand);
        if op == UnaryOp::Not {
            let state = operand.tensors().is_empty() && self.is_state(operand);
            return operand.truth().map_or_else(|| self.tainted(state, Value::Scalar), |t| Value::Bool(!t));
        }
        if !operand.tensors().is_empty() {
            return self.compute(How::Operator(op.as_str()), std::slice::from_ref(operand));
        }
        match (op, operand) {
            (UnaryOp::USub, Value::Int(i)) => i.checked_neg().map_or(Value::Scalar, Value::Int),
            (_, Value::StateScalar) => Value::StateScalar,
            (_, Value::Unknown(_)) => operand.clone(),
            _ => Value::Scalar,
        }
    }

    /// Calls a value with one unknown argument, for what its body does (a grid function).
    pub(super) fn probe(&mut self, func: &Func<'a>) -> Value<'a> {
        self.call_function(func, None, Args::of(vec![Value::Bag(Rc::new(Value::Scalar))]))
    }
}
