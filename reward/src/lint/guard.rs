//! What stands under `if __name__ == "__main__":` at the module's level. A candidate is imported under another name, so it
//! never runs, and what it binds is never bound: the rest is read as if it were not there.

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{CmpOp, Expr, Stmt, StmtPass};
use ruff_text_size::Ranged;

use super::bindings::Bindings;

/// What the guard asks for.
const NAME: &str = "__name__";
/// What leads to the module's names, and so to this one.
const NAMESPACES: &[&str] =
    &["globals", "locals", "vars", "eval", "exec", "__builtins__", "__import__", "__globals__", "__dict__"];

/// `__name__ == "__main__"`
pub(super) fn is_main_guard(test: &Expr) -> bool {
    let Expr::Compare(c) = test else {
        return false;
    };
    let name = matches!(&*c.left, Expr::Name(n) if n.id.as_str() == NAME);
    let equal = matches!(&*c.ops, [CmpOp::Eq]);
    name && equal && matches!(&*c.comparators, [Expr::StringLiteral(s)] if s.value.to_str() == "__main__")
}

/// Empties the body of every guard of the module. Other branches run, and stay. Where anything may give the module another
/// name, guards are tests like any other.
pub(super) fn empty_guards(body: &mut [Stmt]) {
    if renames(body) {
        return;
    }
    for stmt in body {
        if let Stmt::If(i) = stmt
            && is_main_guard(&i.test)
            && let Some(first) = i.body.first()
        {
            let pass = StmtPass { node_index: Default::default(), range: first.range() };
            i.body = vec![Stmt::Pass(pass)].into();
        }
    }
}

/// Does anything in this file bind, delete or reach for `__name__`, under a guard or elsewhere?
fn renames(body: &[Stmt]) -> bool {
    let bindings = Bindings::of_file(body);
    let mut reach = Reach(bindings.has(NAME) || bindings.outward.contains(NAME));
    reach.visit_body(body);
    reach.0
}

struct Reach(bool);

impl<'a> Visitor<'a> for Reach {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        if let Stmt::ImportFrom(i) = stmt {
            self.0 |= i.names.iter().any(|alias| alias.name.id.as_str() == "*");
        }
        walk_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        self.0 |= match expr {
            Expr::Name(n) => NAMESPACES.contains(&n.id.as_str()),
            Expr::Attribute(a) => {
                NAMESPACES.contains(&a.attr.id.as_str()) || a.attr.id.as_str() == NAME && !a.ctx.is_load()
            }
            Expr::StringLiteral(s) => s.value.to_str() == NAME,
            _ => false,
        };
        walk_expr(self, expr);
    }
}
