//! Names that stand for the candidate's own objects: instances of its classes, layers, parts of `self`.

use std::collections::{HashMap, HashSet};

use ruff_python_ast::visitor::{Visitor, walk_stmt};
use ruff_python_ast::{Expr, Stmt};

use super::aliases::Aliases;
use super::bindings::Bindings;

/// Names that are bound to own objects and to nothing else, whatever the scope.
pub(super) fn names<'a>(body: &'a [Stmt], aliases: &Aliases, file: &Bindings<'a>) -> HashSet<&'a str> {
    let mut made = Made { aliases, file, counts: HashMap::new() };
    made.visit_body(body);
    made.counts.into_iter().filter(|(name, made)| file.counts.get(name) == Some(made)).map(|(name, _)| name).collect()
}

struct Made<'a, 'b> {
    aliases: &'b Aliases,
    file: &'b Bindings<'a>,
    counts: HashMap<&'a str, u32>,
}

impl<'a> Made<'a, '_> {
    fn bind(&mut self, target: &'a Expr) {
        match target {
            Expr::Name(n) => *self.counts.entry(n.id.as_str()).or_default() += 1,
            Expr::Tuple(t) => t.elts.iter().for_each(|e| self.bind(e)),
            _ => {}
        }
    }

    /// `self.a.b`, `self.a()`, `enumerate(self.a)`
    fn of_self(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Name(n) => n.id.as_str() == "self",
            Expr::Attribute(a) => !a.attr.id.starts_with("__") && self.of_self(&a.value),
            Expr::Subscript(s) => self.of_self(&s.value),
            Expr::Call(c) => {
                let pairs = matches!(&*c.func, Expr::Name(n) if matches!(n.id.as_str(), "enumerate" | "zip" | "list"));
                self.of_self(&c.func)
                    || pairs && !c.arguments.args.is_empty() && c.arguments.args.iter().all(|a| self.of_self(a))
            }
            _ => false,
        }
    }

    fn is_made(&self, value: &Expr) -> bool {
        let Expr::Call(call) = value else {
            return self.of_self(value);
        };
        let own = matches!(&*call.func, Expr::Name(n) if self.file.is_own(n.id.as_str()));
        let layer = |path: &String| path.starts_with("torch.nn.") || path == "types.SimpleNamespace";
        own || self.aliases.resolve(&call.func).iter().any(layer)
    }
}

impl<'a> Visitor<'a> for Made<'a, '_> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::Assign(a) if self.is_made(&a.value) => {
                a.targets.iter().filter(|t| t.is_name_expr()).for_each(|t| self.bind(t));
            }
            Stmt::For(f) if self.of_self(&f.iter) => self.bind(&f.target),
            _ => {}
        }
        walk_stmt(self, stmt);
    }

    fn visit_expr(&mut self, _expr: &'a Expr) {}
}
