//! Settings of torch that a `with` statement or a decorator gives back at its end. Opened in any other way, or held open by a
//! generator that waits, they stay on for whoever comes after the candidate.

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{Decorator, Expr, ExprCall, Stmt, WithItem};

use super::aliases::Aliases;
use super::syntax::Lines;
use super::walk::Mention;

/// What casts operations of torch within it, by all its names.
const CASTS: &[&str] = &["torch.autocast", "torch.amp.autocast", "torch.cuda.amp.autocast"];

/// Where such a setting may stay on.
pub(super) fn left_on(body: &[Stmt], lines: &Lines, aliases: &Aliases) -> Vec<Mention> {
    let mut walker = Walker { lines, aliases, waits: false, open: Vec::new(), found: Vec::new() };
    walker.visit_body(body);
    walker.found
}

struct Walker<'b> {
    lines: &'b Lines,
    aliases: &'b Aliases,
    /// The function around hands out values, or waits.
    waits: bool,
    /// What the function around opens.
    open: Vec<Mention>,
    found: Vec<Mention>,
}

impl Walker<'_> {
    fn casts(&self, expr: &Expr) -> Option<String> {
        self.aliases.resolve(expr).into_iter().find(|path| CASTS.contains(&path.as_str()))
    }

    /// `torch.autocast(..)`
    fn opens<'e>(&self, expr: &'e Expr) -> Option<(&'e ExprCall, Mention)> {
        let call = expr.as_call_expr()?;
        let path = self.casts(&call.func)?;
        Some((call, Mention { path, line: self.lines.of(expr) }))
    }
}

impl<'a> Visitor<'a> for Walker<'_> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        let Stmt::FunctionDef(f) = stmt else {
            return walk_stmt(self, stmt);
        };
        let waits = std::mem::replace(&mut self.waits, f.is_async);
        let open = std::mem::take(&mut self.open);
        walk_stmt(self, stmt);
        let opened = std::mem::replace(&mut self.open, open);
        if std::mem::replace(&mut self.waits, waits) {
            self.found.extend(opened);
        }
    }

    fn visit_with_item(&mut self, item: &'a WithItem) {
        match self.opens(&item.context_expr) {
            // Under a name it could be opened once more.
            Some((call, mention)) if item.optional_vars.is_none() => {
                self.open.push(mention);
                self.visit_arguments(&call.arguments);
            }
            _ => ruff_python_ast::visitor::walk_with_item(self, item),
        }
    }

    fn visit_decorator(&mut self, decorator: &'a Decorator) {
        match self.opens(&decorator.expression) {
            Some((call, _)) => self.visit_arguments(&call.arguments),
            None => self.visit_expr(&decorator.expression),
        }
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        self.waits |= matches!(expr, Expr::Yield(_) | Expr::YieldFrom(_) | Expr::Await(_));
        if let Some(path) = self.casts(expr) {
            self.found.push(Mention { path, line: self.lines.of(expr) });
        }
        walk_expr(self, expr);
    }
}
