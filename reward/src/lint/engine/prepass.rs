//! Which attributes and module-level names are changed outside constructors and module code: state between calls.

use std::collections::HashSet;

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{Expr, Stmt};

/// Names that may hold something from an earlier call of forward.
#[derive(Debug, Default)]
pub struct Mutable<'a> {
    /// `self.NAME = ..`, `self.NAME[..] = ..`, `self.NAME.append(..)` and the like, of any object.
    pub attributes: HashSet<&'a str>,
    /// The same for names of the module, directly or declared `global`.
    pub globals: HashSet<&'a str>,
}

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
        let mut collector = Collector { found: Mutable::default(), depth: 0 };
        collector.visit_body(body);
        collector.found
    }
}

struct Collector<'a> {
    found: Mutable<'a>,
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
                self.found.globals.insert(n.id.as_str());
            }
            Expr::Subscript(s) => self.target(&s.value, true),
            Expr::Starred(s) => self.target(&s.value, indexed),
            Expr::Tuple(t) => t.elts.iter().for_each(|e| self.target(e, indexed)),
            Expr::List(l) => l.elts.iter().for_each(|e| self.target(e, indexed)),
            _ => {}
        }
    }
}

impl<'a> Visitor<'a> for Collector<'a> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        if let Stmt::FunctionDef(f) = stmt {
            let counts = usize::from(f.name.id.as_str() != "__init__");
            self.depth += counts;
            walk_stmt(self, stmt);
            self.depth -= counts;
            return;
        }
        if self.depth > 0 {
            match stmt {
                Stmt::Assign(a) => a.targets.iter().for_each(|t| self.target(t, false)),
                Stmt::AugAssign(a) => self.target(&a.target, false),
                Stmt::AnnAssign(a) if a.value.is_some() => self.target(&a.target, false),
                Stmt::Delete(d) => d.targets.iter().for_each(|t| self.target(t, false)),
                Stmt::For(f) => self.target(&f.target, false),
                Stmt::With(w) => {
                    w.items.iter().filter_map(|i| i.optional_vars.as_deref()).for_each(|t| self.target(t, false))
                }
                Stmt::Nonlocal(n) => self.found.globals.extend(n.names.iter().map(|n| n.id.as_str())),
                Stmt::Global(g) => self.found.globals.extend(g.names.iter().map(|n| n.id.as_str())),
                _ => {}
            }
        }
        walk_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        if self.depth > 0
            && let Expr::Call(call) = expr
        {
            match &*call.func {
                Expr::Attribute(a) if CHANGES.contains(&a.attr.id.as_str()) => self.target(&a.value, true),
                Expr::Name(n) if n.id.as_str() == "setattr" => {
                    if let Some(Expr::StringLiteral(s)) = call.arguments.args.get(1) {
                        for part in s.value.iter() {
                            self.found.attributes.insert(&part.value);
                        }
                    }
                }
                _ => {}
            }
        }
        walk_expr(self, expr);
    }
}
