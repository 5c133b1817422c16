//! `try` on the forward path: what goes wrong must go on going wrong.

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{ExceptHandler, Expr, Stmt, StmtRaise, StmtTry};

use super::Engine;
use super::value::Value;

/// Exceptions that nothing of Python takes for an answer, as loops take `StopIteration` and `hasattr` an `AttributeError`.
const LOUD: &[&str] = &["Exception", "NotImplementedError", "RuntimeError", "TypeError", "ValueError"];

impl<'a> Engine<'a> {
    /// Something else may follow where the body fails.
    pub(super) fn may_swallow(&mut self, stmt: &'a StmtTry) -> bool {
        stmt.is_star || !stmt.finalbody.is_empty() || !stmt.handlers.iter().all(|h| self.passes_on(h))
    }

    /// A handler that raises at its end, come what may.
    fn passes_on(&mut self, handler: &'a ExceptHandler) -> bool {
        let ExceptHandler::ExceptHandler(handler) = handler;
        let Some((Stmt::Raise(last), before)) = handler.body.split_last() else {
            return false;
        };
        let caught = handler.name.as_ref().map(|name| name.id.as_str());
        // What was caught stays what it is.
        let word = |e: &Expr| e.as_name_expr().is_some_and(|n| Some(n.id.as_str()) != caught);
        let plain = before.iter().all(|stmt| match stmt {
            Stmt::Assign(a) => a.targets.iter().all(word),
            stmt => matches!(stmt, Stmt::Expr(_) | Stmt::Pass(_)),
        });
        plain && !leaves(&handler.body) && self.is_loud(last, caught)
    }

    /// `raise`, `raise RuntimeError(..) from e`
    fn is_loud(&mut self, raise: &'a StmtRaise, caught: Option<&str>) -> bool {
        match raise.exc.as_deref() {
            None => true,
            Some(Expr::Name(n)) if Some(n.id.as_str()) == caught => true,
            Some(Expr::Call(c)) => self.is_error(&c.func),
            Some(class) => self.is_error(class),
        }
    }

    fn is_error(&mut self, class: &'a Expr) -> bool {
        class.is_name_expr()
            && matches!(self.quiet(class), Value::Path(p) if p.strip_prefix("builtins.").is_some_and(|p| LOUD.contains(&p)))
    }
}

/// A way out that drops what was raised, puts it off, or gives it another meaning.
fn leaves(body: &[Stmt]) -> bool {
    struct Ways(bool);
    impl<'a> Visitor<'a> for Ways {
        fn visit_stmt(&mut self, stmt: &'a Stmt) {
            self.0 |= matches!(stmt, Stmt::Return(_) | Stmt::Break(_) | Stmt::Continue(_));
            walk_stmt(self, stmt);
        }
        fn visit_expr(&mut self, expr: &'a Expr) {
            self.0 |= matches!(expr, Expr::Named(_) | Expr::Yield(_) | Expr::YieldFrom(_) | Expr::Await(_));
            walk_expr(self, expr);
        }
    }
    let mut ways = Ways(false);
    ways.visit_body(body);
    ways.0
}
