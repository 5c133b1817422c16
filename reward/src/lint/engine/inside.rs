//! The candidate's own Python objects in a kernel. Compiled, Triton refuses them; interpreted, a kernel's body is Python, and
//! whatever it does with them is done outside Triton. Constants pass: numbers, enumerations, settings of a class, tuples.

use std::collections::HashSet;

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{Expr, Stmt};

use super::expr::shown;
use super::value::{FuncId, Value};
use super::{Body, Engine, FuncInfo};
use crate::lint::bindings::Bindings;

/// Deepest object that is looked into.
const MAX_DEPTH: u32 = 4;
/// Most values that are looked at for one candidate. What is left over counts as Python.
pub const BUDGET: u32 = 100_000;

/// One part of a chain like `Box.kept["y"].copy_(..)`.
enum Step<'a> {
    Member(&'a str),
    Item,
    Call,
}

impl<'a> Engine<'a> {
    /// What of the candidate's own Python kernels work with, by line.
    pub fn python_in_kernels(&self) -> Vec<(u32, String)> {
        let mut search = Search {
            engine: self,
            kernel: 0,
            given: None,
            own: HashSet::new(),
            listed: HashSet::new(),
            found: Vec::new(),
        };
        search.listed = self.listed_methods();
        let mut done = HashSet::new();
        for id in self.defined.iter().filter(|id| done.insert(**id)) {
            let Some(FuncInfo { params: Some(params), body: Body::Block(body), .. }) = self.functions.get(*id) else {
                continue;
            };
            let bound = Bindings::of_function(params, body);
            search.own = bound.counts.into_keys().filter(|name| !bound.outward.contains(name)).collect();
            search.kernel = *id;
            search.visit_body(body);
        }
        search.found
    }

    /// Handed to a kernel as a constant, it brings something along to work with in Python. Methods of its class do not count:
    /// what the kernel does with an object that has some is judged by itself.
    pub(super) fn brings_python(&self, value: &Value<'a>, depth: u32) -> bool {
        let cost = if matches!(value, Value::Instance(..)) { self.state.fields.len() as u32 / 8 + 1 } else { 1 };
        self.inside_budget.set(self.inside_budget.get().saturating_sub(cost));
        if self.inside_budget.get() == 0 {
            return true;
        }
        match value {
            Value::Tensor(_)
            | Value::NnModule(_)
            | Value::Partial(_)
            | Value::Bound(..)
            | Value::Super(..)
            | Value::Launcher(_) => true,
            Value::Path(path) => calls_others(path),
            // A method with what it belongs to.
            Value::Attr(base, _) => {
                base.each().iter().any(|v| matches!(v, Value::List(_) | Value::Bag(_)) || self.brings_python(v, depth))
            }
            Value::Unknown(ids) => !ids.is_empty(),
            Value::Func(func) => !self.is_constexpr(func.id),
            Value::Union(values) => values.iter().any(|v| self.brings_python(v, depth)),
            Value::List(values) => {
                depth > 0 && self.is_empty_list(value) || values.iter().any(|v| self.brings_python(v, depth))
            }
            Value::Bag(item) => self.brings_python(item, depth),
            Value::Instance(..) | Value::Class(_) if depth >= MAX_DEPTH => true,
            Value::Instance(object, class) => {
                let fields = self.state.fields.iter().filter(|((of, _), _)| of == object);
                let own: Vec<&Value<'a>> = fields.map(|(_, v)| v).collect();
                own.into_iter().any(|v| self.brings_python(v, depth + 1))
                    || self.brings_python(&Value::Class(*class), depth)
            }
            Value::Class(class) => {
                let members = self.classes.get(*class).map(|c| c.members.values().collect()).unwrap_or_default();
                let members: Vec<&Value<'a>> = members;
                members.into_iter().any(|v| !matches!(v, Value::Func(_)) && self.brings_python(v, depth + 1))
            }
            _ => false,
        }
    }

    /// The names of the methods of enumerations.
    fn listed_methods(&self) -> HashSet<&'a str> {
        let enums = (0..self.classes.len()).filter(|class| self.is_enum(*class));
        let members = enums.flat_map(|class| self.members(class));
        members.filter(|(_, v)| matches!(v, Value::Func(f) if !self.is_constexpr(f.id))).map(|(name, _)| name).collect()
    }

    /// It is an object or a class with code of its own, or holds one.
    pub(super) fn has_methods(&self, value: &Value<'a>, depth: u32) -> bool {
        let spent = if matches!(value, Value::Instance(..)) { self.state.fields.len() as u32 / 8 + 1 } else { 1 };
        self.inside_budget.set(self.inside_budget.get().saturating_sub(spent));
        if self.inside_budget.get() == 0 {
            return true;
        }
        let code = |v: &Value<'a>| v.each().iter().any(|v| matches!(v, Value::Func(f) if !self.is_constexpr(f.id)));
        match value {
            Value::Union(values) | Value::List(values) => values.iter().any(|v| self.has_methods(v, depth)),
            Value::Bag(item) => self.has_methods(item, depth),
            Value::Instance(..) | Value::Class(_) if depth >= MAX_DEPTH => true,
            Value::Class(class) => self.members(*class).iter().any(|(_, v)| code(v) || self.has_methods(v, depth + 1)),
            Value::Instance(object, class) => {
                let mut fields = self.state.fields.iter().filter(|((of, _), _)| of == object);
                fields.any(|(_, v)| self.has_methods(v, depth + 1)) || self.has_methods(&Value::Class(*class), depth)
            }
            _ => false,
        }
    }

    /// Its class answers for members that it does not have.
    fn asks_its_own(&self, value: &Value<'a>) -> bool {
        let (Value::Class(class) | Value::Instance(_, class)) = value else {
            return false;
        };
        self.member(*class, "__getattr__").is_some() || self.member(*class, "__getattribute__").is_some()
    }

    /// What of the candidate's own a kernel works with by way of one of its parameters.
    pub(super) fn worked_with(&self, kernel: FuncId, parameter: &'a str, value: &Value<'a>) -> bool {
        let Some(FuncInfo { body: Body::Block(body), .. }) = self.functions.get(kernel) else {
            return true;
        };
        let given = Some((parameter, value));
        let mut search =
            Search { engine: self, kernel, own: HashSet::new(), listed: HashSet::new(), given, found: Vec::new() };
        search.visit_body(body);
        !search.found.is_empty()
    }

    /// It can be filled later; an empty tuple cannot.
    fn is_empty_list(&self, value: &Value<'a>) -> bool {
        matches!(value, Value::List(items) if items.is_empty()) && !self.is_tuple(value)
    }

    /// `@triton.constexpr_function`: Triton runs it, on constants alone.
    fn is_constexpr(&self, id: FuncId) -> bool {
        let node = self.functions.get(id).and_then(|info| info.node);
        node.is_some_and(|node| {
            node.decorator_list.iter().any(|d| match &d.expression {
                Expr::Name(n) => n.id.as_str() == "constexpr_function",
                Expr::Attribute(a) => a.attr.id.as_str() == "constexpr_function",
                _ => false,
            })
        })
    }

    /// Whether a chain from this value works with Python objects.
    fn works_in_python(&self, value: &Value<'a>, steps: &[Step<'a>], changes: bool) -> bool {
        let Some((step, rest)) = steps.split_first() else {
            let empty = self.is_empty_list(value);
            let collection = matches!(value, Value::List(_) | Value::Bag(_));
            // Under another name, or in a helper, it is out of sight.
            return changes && collection || empty || self.has_methods(value, 0) || self.brings_python(value, 0);
        };
        match (value, step) {
            (Value::Union(values), _) => values.iter().any(|v| self.works_in_python(v, steps, changes)),
            (Value::Func(func), Step::Call) => !self.is_constexpr(func.id),
            (Value::Func(_), _) => true,
            (Value::Class(class), Step::Call) => !self.is_record(*class) || self.has_methods(value, 0),
            (Value::Class(_) | Value::Instance(..), Step::Member(name)) => {
                let changes = self.mutable.attributes.contains(name);
                if self.asks_its_own(value) {
                    return true;
                }
                let member = match value {
                    Value::Instance(object, class) => {
                        self.state.field(*object, name).cloned().or_else(|| self.member(*class, name))
                    }
                    Value::Class(class) => self.member(*class, name),
                    _ => None,
                };
                match member {
                    Some(member) => self.works_in_python(&member, rest, changes),
                    None => rest.iter().any(|s| !matches!(s, Step::Member(_))),
                }
            }
            (Value::List(_) | Value::Bag(_), Step::Item) => {
                let empty = self.is_empty_list(value);
                changes || empty || self.has_methods(value, 0) || self.brings_python(value, 0)
            }
            (Value::List(_) | Value::Bag(_), _) => true,
            (
                Value::Instance(..)
                | Value::Tensor(_)
                | Value::NnModule(_)
                | Value::Partial(_)
                | Value::Bound(..)
                | Value::Super(..)
                | Value::Launcher(_),
                _,
            ) => true,
            (Value::Attr(..) | Value::Unknown(_), _) => {
                rest.iter().chain([step]).any(|s| !matches!(s, Step::Member(_)))
            }
            _ => false,
        }
    }
}

/// Calls what it is given, or a method of it by name.
fn calls_others(path: &str) -> bool {
    let (root, rest) = path.split_once('.').unwrap_or((path, ""));
    matches!(root, "operator" | "functools" | "itertools") || path.starts_with("torch.Tensor.") && !rest.is_empty()
}

struct Search<'e, 'a> {
    engine: &'e Engine<'a>,
    kernel: FuncId,
    /// The one parameter that is looked for, and what it is given; without one, names from outside are.
    given: Option<(&'a str, &'e Value<'a>)>,
    /// Names that the kernel binds.
    own: HashSet<&'a str>,
    /// Methods of enumerations: a member of one is taken for its number and has them all the same.
    listed: HashSet<&'a str>,
    found: Vec<(u32, String)>,
}

impl<'a> Search<'_, 'a> {
    fn free(&self, name: &str) -> Option<&Value<'a>> {
        if let Some((parameter, value)) = self.given {
            return (parameter == name).then_some(value);
        }
        if self.own.contains(name) {
            return None;
        }
        let closed = self.engine.made.get(&self.kernel).and_then(|func| func.closure.as_ref());
        closed.and_then(|c| c.get(name)).or_else(|| self.engine.state.frames.first()?.get(name))
    }
}

impl<'a> Visitor<'a> for Search<'_, 'a> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::AnnAssign(a) => {
                a.value.iter().for_each(|v| self.visit_expr(v));
                self.visit_expr(&a.target);
            }
            _ => walk_stmt(self, stmt),
        }
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        let mut steps = Vec::new();
        let mut inner = expr;
        loop {
            inner = match inner {
                Expr::Attribute(a) => {
                    steps.push(Step::Member(a.attr.id.as_str()));
                    &a.value
                }
                Expr::Subscript(s) => {
                    steps.push(Step::Item);
                    self.visit_expr(&s.slice);
                    &s.value
                }
                Expr::Call(c) => {
                    steps.push(Step::Call);
                    self.visit_arguments(&c.arguments);
                    &c.func
                }
                _ => break,
            };
        }
        steps.reverse();
        if steps.iter().any(|s| matches!(s, Step::Member(name) if self.listed.contains(name))) {
            self.found.push((self.engine.lines.of(expr), format!("{} in a kernel", shown(expr))));
        }
        match inner {
            Expr::Name(n) => {
                let name = n.id.as_str();
                let changes = self.engine.mutable.globals.contains(name);
                if self.free(name).is_some_and(|v| self.engine.works_in_python(v, &steps, changes)) {
                    let line = self.engine.lines.of(expr);
                    self.found.push((line, format!("{} in a kernel", shown(expr))));
                }
            }
            _ => walk_expr(self, inner),
        }
    }
}
