//! Which attributes and module-level names are changed outside constructors and module code: state between calls.
//!
//! A collection may be changed under another name (`c = self.cache; c[k] = v`, or as an argument), so names are linked to
//! what they were bound to, without regard to order.

use std::collections::{HashMap, HashSet};

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{Expr, Stmt};

/// An attribute of any object, or a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place<'a> {
    Attribute(&'a str),
    Name(&'a str),
}

/// Names that may hold something from an earlier call of forward.
#[derive(Clone, Debug, Default)]
pub struct Mutable<'a> {
    /// `self.NAME = ..`, `self.NAME[..] = ..`, `self.NAME.append(..)` and the like, of any object.
    pub attributes: HashSet<&'a str>,
    /// The same for names of the module, directly or declared `global`.
    pub globals: HashSet<&'a str>,
    /// Of both, those that only numbers, flags and the like are ever kept in.
    pub scalars: HashSet<Place<'a>>,
    /// Of both, those that forward was seen to bind anew, not only what they hold.
    pub rebound: HashSet<Place<'a>>,
    /// What a name was bound to.
    links: HashMap<&'a str, HashSet<Place<'a>>>,
}

/// Stands for everything that is handed to a call; not a Python name.
const ARGUMENTS: &str = "<arguments>";

/// Methods that change a collection.
const CHANGES: &[&str] = &[
    "append",
    "add",
    "clear",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "setdefault",
    "update",
    "appendleft",
    "__setitem__",
];

impl<'a> Mutable<'a> {
    /// Collects from a module.
    pub fn of(body: &'a [Stmt]) -> Self {
        let mut collector = Collector::default();
        collector.visit_body(body);
        let Collector { mut found, parameters, passed, changed, .. } = collector;
        for parameter in parameters {
            found.links.entry(parameter).or_default().insert(Place::Name(ARGUMENTS));
        }
        found.links.insert(ARGUMENTS, passed);
        for place in found.reach(changed.into_iter().map(Place::Name)) {
            match place {
                Place::Attribute(attribute) => found.attributes.insert(attribute),
                Place::Name(name) => found.globals.insert(name),
            };
        }
        found
    }

    /// Nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty() && self.globals.is_empty()
    }

    /// The same, with nothing but numbers kept: what a first run, which finds out, takes for granted.
    pub fn optimistic(&self) -> Self {
        let mut all = self.clone();
        all.scalars.extend(self.attributes.iter().map(|a| Place::Attribute(a)));
        all.scalars.extend(self.globals.iter().map(|n| Place::Name(n)));
        all
    }

    /// All places that a change at some places may change.
    pub fn reach(&self, places: impl IntoIterator<Item = Place<'a>>) -> HashSet<Place<'a>> {
        let mut all: HashSet<Place<'a>> = places.into_iter().collect();
        let mut open: Vec<Place<'a>> = all.iter().copied().collect();
        while let Some(next) = open.pop() {
            let Place::Name(name) = next else {
                continue;
            };
            for linked in self.links.get(name).into_iter().flatten() {
                if all.insert(*linked) {
                    open.push(*linked);
                }
            }
        }
        all
    }

    /// Only what forward was seen to change; `tensors` is where something other than numbers was kept.
    pub fn narrowed(&self, stored: &HashSet<Place<'a>>, tensors: &HashSet<Place<'a>>) -> Self {
        let mut narrowed = self.clone();
        narrowed.attributes.retain(|a| stored.contains(&Place::Attribute(a)));
        narrowed.globals.retain(|n| stored.contains(&Place::Name(n)));
        narrowed.scalars = stored.difference(tensors).copied().collect();
        narrowed
    }
}

/// The attribute or name that an expression reads from: `self.a[k].get(..)` reads from `a`.
pub fn place_of(expr: &Expr) -> Option<Place<'_>> {
    match expr {
        Expr::Name(n) => Some(Place::Name(n.id.as_str())),
        Expr::Attribute(a) => Some(Place::Attribute(a.attr.id.as_str())),
        Expr::Subscript(s) => place_of(&s.value),
        Expr::Starred(s) => place_of(&s.value),
        Expr::Call(c) => match &*c.func {
            Expr::Attribute(a) => place_of(&a.value),
            _ => None,
        },
        _ => None,
    }
}

#[derive(Default)]
struct Collector<'a> {
    found: Mutable<'a>,
    /// Names of parameters, and what is handed to calls.
    parameters: HashSet<&'a str>,
    passed: HashSet<Place<'a>>,
    /// Names whose collection is changed.
    changed: HashSet<&'a str>,
    /// Functions around, constructors not counted.
    depth: usize,
}

impl<'a> Collector<'a> {
    fn target(&mut self, target: &'a Expr, indexed: bool) {
        match target {
            Expr::Attribute(a) => {
                self.found.attributes.insert(a.attr.id.as_str());
            }
            Expr::Name(n) if indexed => {
                self.changed.insert(n.id.as_str());
            }
            Expr::Subscript(s) => self.target(&s.value, true),
            Expr::Starred(s) => self.target(&s.value, indexed),
            Expr::Tuple(t) => t.elts.iter().for_each(|e| self.target(e, indexed)),
            Expr::List(l) => l.elts.iter().for_each(|e| self.target(e, indexed)),
            Expr::Call(c) => {
                if let Expr::Attribute(a) = &*c.func {
                    self.target(&a.value, true);
                }
            }
            _ => {}
        }
    }

    fn link(&mut self, target: &'a Expr, value: &'a Expr) {
        match (target, value) {
            (Expr::Tuple(targets), Expr::Tuple(values)) => {
                for (target, value) in targets.elts.iter().zip(&values.elts) {
                    self.link(target, value);
                }
            }
            (Expr::Name(n), Expr::If(i)) => {
                for value in [&*i.body, &*i.orelse] {
                    self.found.links.entry(n.id.as_str()).or_default().extend(place_of(value));
                }
            }
            (Expr::Name(n), value) => {
                self.found.links.entry(n.id.as_str()).or_default().extend(place_of(value));
            }
            _ => {}
        }
    }
}

impl<'a> Visitor<'a> for Collector<'a> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        if let Stmt::FunctionDef(f) = stmt {
            self.parameters.extend(f.parameters.iter().map(|p| p.name().id.as_str()));
            let counts = usize::from(f.name.id.as_str() != "__init__");
            self.depth += counts;
            walk_stmt(self, stmt);
            self.depth -= counts;
            return;
        }
        if self.depth > 0 {
            match stmt {
                Stmt::Assign(a) => {
                    for target in &a.targets {
                        self.target(target, false);
                        self.link(target, &a.value);
                    }
                }
                Stmt::AugAssign(a) => self.target(&a.target, false),
                Stmt::AnnAssign(a) if a.value.is_some() => {
                    self.target(&a.target, false);
                    if let Some(value) = a.value.as_deref() {
                        self.link(&a.target, value);
                    }
                }
                Stmt::Delete(d) => d.targets.iter().for_each(|t| self.target(t, false)),
                Stmt::For(f) => {
                    self.target(&f.target, false);
                    self.link(&f.target, &f.iter);
                }
                Stmt::With(w) => {
                    w.items.iter().filter_map(|i| i.optional_vars.as_deref()).for_each(|t| self.target(t, false));
                }
                Stmt::Nonlocal(n) => self.found.globals.extend(n.names.iter().map(|n| n.id.as_str())),
                Stmt::Global(g) => self.found.globals.extend(g.names.iter().map(|n| n.id.as_str())),
                _ => {}
            }
        }
        walk_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        if self.depth > 0 {
            match expr {
                Expr::Call(call) => {
                    self.passed.extend(call.arguments.args.iter().filter_map(place_of));
                    self.passed.extend(call.arguments.keywords.iter().filter_map(|k| place_of(&k.value)));
                    match &*call.func {
                        Expr::Attribute(a) if CHANGES.contains(&a.attr.id.as_str()) => self.target(&a.value, true),
                        Expr::Attribute(a) if a.attr.id.as_str() == "register_buffer" => {
                            self.named(&call.arguments.args)
                        }
                        Expr::Name(n) if n.id.as_str() == "setattr" => {
                            self.named(call.arguments.args.get(1..).unwrap_or_default())
                        }
                        _ => {}
                    }
                }
                Expr::Named(n) => self.link(&n.target, &n.value),
                _ => {}
            }
        }
        walk_expr(self, expr);
    }
}

impl<'a> Collector<'a> {
    /// An attribute given by its name.
    fn named(&mut self, args: &'a [Expr]) {
        if let Some(Expr::StringLiteral(s)) = args.first() {
            for part in s.value.iter() {
                self.found.attributes.insert(&part.value);
            }
        }
    }
}
