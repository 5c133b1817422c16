//! Binding names, attributes, items and patterns.

use std::rc::Rc;

use ruff_python_ast::{Expr, Pattern, StmtAugAssign};

use super::prepass::{Place, place_of};
use super::sizes::entry;
use super::trace::{Fact, How, Stage};
use super::value::Value;
use super::{Engine, Origin};

impl<'a> Engine<'a> {
    pub(super) fn assign(&mut self, target: &'a Expr, value: Value<'a>) {
        match target {
            Expr::Name(n) => self.bind_name(n.id.as_str(), value),
            Expr::Attribute(a) => {
                let base = self.eval(&a.value);
                self.store(Place::Attribute(a.attr.id.as_str()), &value);
                self.set_attribute(&base, a.attr.id.as_str(), value);
            }
            Expr::Subscript(s) => {
                let base = self.eval(&s.value);
                if let Some(place) = place_of(&s.value) {
                    self.store(place, &value);
                }
                let index = self.eval(&s.slice);
                if matches!(base, Value::List(_) | Value::Bag(_) | Value::Union(_)) && base.tensors().is_empty() {
                    self.keyed_by(&index);
                }
                self.set_item(&s.value, &base, value, s.slice.is_slice_expr());
            }
            Expr::Tuple(t) => self.unpack(&t.elts, &value),
            Expr::List(l) => self.unpack(&l.elts, &value),
            Expr::Starred(s) => {
                let element = self.element(&value);
                self.assign(&s.value, Value::Bag(Rc::new(element)));
            }
            _ => {}
        }
    }

    pub(super) fn bind_name(&mut self, name: &'a str, value: Value<'a>) {
        if self.nonlocals.last().is_some_and(|g| g.contains(name)) {
            self.store(Place::Name(name), &value);
            if self.keeps(name, None, &value) {
                self.counts(format!("nonlocal {name}"));
            }
        }
        if self.globals.last().is_some_and(|g| g.contains(name)) {
            self.store(Place::Name(name), &value);
            if self.stage == Stage::Forward {
                let old = self.state.frames[0].get(name).cloned();
                let counts = self.keeps(name, old.as_ref(), &value);
                self.note(Fact::Keeps { what: format!("global {name}"), counts });
            }
            return self.state.bind_global(name, value);
        }
        self.state.bind(name, value);
    }

    fn unpack(&mut self, targets: &'a [Expr], value: &Value<'a>) {
        if let Value::List(items) = value
            && items.len() == targets.len()
            && !targets.iter().any(Expr::is_starred_expr)
        {
            for (target, item) in targets.iter().zip(items.iter()) {
                self.assign(target, item.clone());
            }
            return;
        }
        if let Value::Instance(object, class) = value
            && self.is_record(*class)
            && !targets.iter().any(Expr::is_starred_expr)
        {
            let fields = self.record(*object, *class);
            if fields.len() == targets.len() {
                for (target, field) in targets.iter().zip(fields) {
                    self.assign(target, field);
                }
                return;
            }
        }
        let element = self.element(value);
        for target in targets {
            self.assign(target, element.clone());
        }
    }

    /// One element of a collection, a row of a tensor, a dimension of a shape.
    pub(super) fn element(&mut self, value: &Value<'a>) -> Value<'a> {
        match value {
            Value::List(items) => match items.split_first() {
                Some((first, rest)) => {
                    let any = rest.iter().fold(first.clone(), |all, v| all.join(v));
                    if super::memory::address(&any).is_some() {
                        let all: Vec<&Value<'a>> = items.iter().chain([&any]).collect();
                        self.state.kin.borrow_mut().unite(&all);
                    }
                    any
                }
                None => Value::unknown(),
            },
            Value::Bag(item) => (**item).clone(),
            Value::Shape(of) => Value::Size(of.part()),
            Value::Size(_) => value.clone(),
            Value::Tensor(_) => value.part(),
            Value::Union(values) => {
                let parts: Vec<Value<'a>> = values.iter().map(|v| self.element(v)).collect();
                parts.iter().skip(1).fold(parts.first().cloned().unwrap_or(Value::unknown()), |all, v| all.join(v))
            }
            Value::Instance(..) => self.many_times(|engine| engine.next_of(value)),
            Value::StateScalar => Value::StateScalar,
            v if v.is_scalar() => Value::Scalar,
            other => Value::Unknown(other.all_tensors()),
        }
    }

    /// What an object of the candidate hands out when it is gone through.
    fn next_of(&mut self, object: &Value<'a>) -> Value<'a> {
        match self.special(object, "__iter__", Vec::new()) {
            Some(items @ (Value::List(_) | Value::Bag(_))) => self.element(&items),
            Some(Value::Instance(..)) => self.special(object, "__next__", Vec::new()).unwrap_or(Value::unknown()),
            Some(other) => other,
            None => match self.special(object, "__getitem__", vec![Value::Scalar]) {
                Some(item) => item,
                None => self.any_field(object),
            },
        }
    }

    pub(super) fn set_attribute(&mut self, base: &Value<'a>, name: &str, value: Value<'a>) {
        self.set_on_module(base, name, &value);
        match base {
            Value::Instance(object, _) => {
                if self.stage == Stage::Forward {
                    let old = self.state.field(*object, name).cloned();
                    let early = self.memory.is_early(*object);
                    let counts = early && self.keeps(name, old.as_ref(), &value);
                    self.note(Fact::Keeps { what: format!("self.{name}"), counts });
                }
                if name == "forward" || name == "__class__" || name == "__dict__" {
                    self.note(Fact::Patch { what: format!("self.{name}") });
                }
                self.made_in(*object, name, &value);
                self.state.set_field(*object, Rc::from(name), value);
            }
            Value::Tensor(ids) => {
                if name == "data" {
                    self.compute_on(How::Index("tensor.data = .."), &[base.clone(), value.clone()]);
                } else if name != "grad" && name != "requires_grad" {
                    self.note(Fact::Patch { what: format!("an attribute of a tensor: .{name}") });
                }
                let _ = ids;
            }
            Value::Path(path) => self.note(Fact::Patch { what: format!("{path}.{name}") }),
            Value::Class(class) => {
                let class_name = self.classes[*class].name;
                self.note(Fact::Patch { what: format!("{class_name}.{name}") });
            }
            Value::Func(_) | Value::Kernels(_) | Value::Bound(..) if self.stage == Stage::Forward => {
                self.note(Fact::Keeps { what: format!("a function's .{name}"), counts: true });
            }
            Value::NnModule(_) | Value::Super(..) | Value::Attr(..) if self.stage == Stage::Forward => {
                let counts = self.keeps(name, None, &value);
                self.note(Fact::Keeps { what: format!(".{name} of a module"), counts });
            }
            // A member of an enumeration, most likely.
            v if v.is_scalar() && !matches!(v, Value::Nothing) => self.counts(format!(".{name} of an object")),
            Value::Union(values) => {
                for one in values.iter() {
                    self.set_attribute(one, name, value.clone());
                }
            }
            _ => {}
        }
    }

    /// `del target`: what it names is evaluated.
    pub(super) fn delete(&mut self, target: &'a Expr) {
        match target {
            Expr::Name(_) => {}
            Expr::Tuple(t) => t.elts.iter().for_each(|e| self.delete(e)),
            Expr::List(l) => l.elts.iter().for_each(|e| self.delete(e)),
            Expr::Attribute(a) => {
                self.eval(&a.value);
                self.store(Place::Attribute(a.attr.id.as_str()), &Value::Nothing);
            }
            Expr::Subscript(s) => {
                let base = self.eval(&s.value);
                self.eval(&s.slice);
                self.changes_by(&s.value, &base, "del");
                if matches!(&base, Value::List(items) if !items.is_empty()) {
                    let left = Value::Bag(Rc::new(self.element(&base)));
                    self.replaced(&base, &left);
                    self.changed(&base, &left);
                }
                if let Some(place) = place_of(&s.value) {
                    self.store(place, &Value::Nothing);
                }
            }
            other => {
                self.eval(other);
            }
        }
    }

    fn set_item(&mut self, place: &'a Expr, base: &Value<'a>, value: Value<'a>, slice: bool) {
        if slice && base.tensors().is_empty() {
            self.changes_by(place, base, "a slice");
        }
        let kept = |id: &u32| matches!(self.origins.get(*id as usize), Some(Origin::Kept) | None);
        if base.tensors().iter().all(kept) && !base.tensors().is_empty() {
            // From an earlier call: more likely a collection than a tensor. Returned, it is reported.
            return;
        }
        if !base.tensors().is_empty() {
            return self.compute_on(How::Index("x[..] = .."), &[base.clone(), value]);
        }
        if let Value::Path(path) = base {
            return self.note(Fact::Patch { what: format!("{path}[..]") });
        }
        if matches!(base, Value::List(_) | Value::Bag(_) | Value::Union(_)) {
            let old = self.element(base);
            let empty = matches!(base, Value::List(items) if items.is_empty());
            let counts = self.keeps("..", None, &value);
            // What has no places yet is a dict.
            let item = if empty { entry(value) } else { self.meet(&old, &value) };
            let changed = Value::Bag(Rc::new(item));
            self.replaced(base, &changed);
            self.changed(base, &changed);
            self.replace_collection(place, changed, counts);
        }
    }

    /// Rebinds the place a collection was read from.
    pub(super) fn replace_collection(&mut self, place: &'a Expr, collection: Value<'a>, counts: bool) {
        match place {
            Expr::Name(n) => {
                let name = n.id.as_str();
                let local = self.state.frames.last().is_some_and(|f| f.contains_key(name));
                if local {
                    // A default argument lives on between calls.
                    if counts && self.stage == Stage::Forward && self.mutable.globals.contains(name) {
                        self.note(Fact::Keeps { what: name.to_owned(), counts });
                    }
                    self.state.bind(name, collection);
                } else if self.state.frames[0].contains_key(name) {
                    if self.stage == Stage::Forward {
                        self.note(Fact::Keeps { what: name.to_owned(), counts });
                    }
                    self.state.bind_global(name, collection);
                }
            }
            Expr::Attribute(a) => {
                if let Value::Instance(object, _) = self.eval(&a.value) {
                    if self.stage == Stage::Forward {
                        self.note(Fact::Keeps { what: format!("self.{}", a.attr.id.as_str()), counts });
                    }
                    self.state.set_field(object, Rc::from(a.attr.id.as_str()), collection);
                }
            }
            _ => {}
        }
    }

    pub(super) fn augmented(&mut self, stmt: &'a StmtAugAssign) {
        let old = self.eval(&stmt.target);
        let added = self.eval(&stmt.value);
        self.changes_by(&stmt.target, &old, "an operator");
        let value = self.binary(stmt.op, &old, &added, true);
        if matches!(old, Value::List(_) | Value::Bag(_) | Value::Union(_)) && !self.is_tuple(&old) {
            // A list is changed where it is.
            self.changed(&old, &value);
        }
        self.assign(&stmt.target, value);
    }

    pub(super) fn bind_pattern(&mut self, pattern: &'a Pattern, subject: &Value<'a>) {
        let unknown = Value::Unknown(subject.all_tensors());
        match pattern {
            Pattern::MatchAs(p) => {
                if let Some(inner) = p.pattern.as_deref() {
                    self.bind_pattern(inner, subject);
                }
                if let Some(name) = &p.name {
                    self.state.bind(name.id.as_str(), subject.clone());
                }
            }
            Pattern::MatchSequence(p) => {
                let element = self.element(subject);
                p.patterns.iter().for_each(|inner| self.bind_pattern(inner, &element));
            }
            Pattern::MatchOr(p) => p.patterns.iter().for_each(|inner| self.bind_pattern(inner, subject)),
            Pattern::MatchStar(p) => {
                if let Some(name) = &p.name {
                    self.state.bind(name.id.as_str(), unknown);
                }
            }
            Pattern::MatchMapping(p) => {
                let item = self.element(subject);
                p.keys.iter().for_each(|key| drop(self.eval(key)));
                p.patterns.iter().for_each(|inner| self.bind_pattern(inner, &item));
                if let Some(rest) = &p.rest {
                    self.state.bind(rest.id.as_str(), subject.clone());
                }
            }
            Pattern::MatchClass(p) => {
                self.eval(&p.cls);
                let fields = match subject {
                    Value::Instance(object, class) if self.is_record(*class) => self.record(*object, *class),
                    _ => Vec::new(),
                };
                for (index, inner) in p.arguments.patterns.iter().enumerate() {
                    let value = fields.get(index).cloned().unwrap_or(unknown.clone());
                    self.bind_pattern(inner, &value);
                }
                for keyword in &p.arguments.keywords {
                    let value = self.attribute(subject, keyword.attr.id.as_str());
                    self.bind_pattern(&keyword.pattern, &value);
                }
            }
            Pattern::MatchValue(p) => {
                self.eval(&p.value);
            }
            Pattern::MatchSingleton(_) => {}
        }
    }

    /// Work on data outside a kernel: noted while forward runs; the result is a tensor.
    pub(super) fn compute_on(&mut self, how: How, operands: &[Value<'a>]) {
        self.touches(operands);
        if self.stage == Stage::Forward {
            let data = operands.iter().any(|v| v.all_tensors().iter().any(|id| self.is_data(*id)));
            self.note(Fact::Compute { how, data });
        }
    }

    /// The same, with the result.
    pub(super) fn compute(&mut self, how: How, operands: &[Value<'a>]) -> Value<'a> {
        let data = operands.iter().any(|v| v.all_tensors().iter().any(|id| self.is_data(*id)));
        self.compute_on(how, operands);
        let origin = match (self.stage, data) {
            (Stage::Forward, true) => Origin::Compute,
            (Stage::Forward, false) => Origin::Alloc,
            _ => Origin::Parameter,
        };
        let result = self.fresh(origin);
        for operand in operands {
            self.flows.add(None, operand.all_tensors(), result.all_tensors());
        }
        result
    }
}

/// The names that a target binds.
pub(super) fn target_names(target: &Expr) -> Vec<&str> {
    match target {
        Expr::Name(n) => vec![n.id.as_str()],
        Expr::Tuple(t) => t.elts.iter().flat_map(target_names).collect(),
        Expr::List(l) => l.elts.iter().flat_map(target_names).collect(),
        Expr::Starred(s) => target_names(&s.value),
        _ => Vec::new(),
    }
}
