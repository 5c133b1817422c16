//! What binds which names: in one function, and in the whole file.

use std::collections::{HashMap, HashSet};

use ruff_python_ast::visitor::{Visitor, walk_except_handler, walk_expr, walk_pattern, walk_stmt};
use ruff_python_ast::{ExceptHandler, Expr, ExprContext, Parameters, Pattern, Stmt};

use super::aliases::Aliases;

/// Names and how often they are bound.
#[derive(Default)]
pub(super) struct Bindings<'a> {
    pub(super) counts: HashMap<&'a str, u32>,
    /// `global` and `nonlocal`: bound elsewhere than where it is written.
    pub(super) outward: HashSet<&'a str>,
    /// By a `def` or `class` statement.
    pub(super) defined: HashMap<&'a str, u32>,
    /// Classes without a decorator.
    pub(super) classes: HashSet<&'a str>,
    /// Functions, classes and comprehensions inside are looked into.
    deep: bool,
}

impl<'a> Bindings<'a> {
    /// Of the whole file, whatever the scope.
    pub(super) fn of_file(body: &'a [Stmt]) -> Self {
        let mut bindings = Bindings { deep: true, ..Bindings::default() };
        bindings.visit_body(body);
        bindings
    }

    /// Of one function's own scope. Walrus targets in what it nests are left out.
    pub(super) fn of_function(parameters: &'a Parameters, body: &'a [Stmt]) -> Self {
        let mut bindings = Bindings::default();
        bindings.parameters(parameters);
        bindings.visit_body(body);
        bindings
    }

    /// Of a lambda.
    pub(super) fn of_parameters(parameters: &'a Parameters) -> Self {
        let mut bindings = Bindings::default();
        bindings.parameters(parameters);
        bindings
    }

    /// Of the targets of comprehensions.
    pub(super) fn of_targets(targets: impl Iterator<Item = &'a Expr>) -> Self {
        let mut bindings = Bindings::default();
        targets.for_each(|target| bindings.visit_expr(target));
        bindings
    }

    fn parameters(&mut self, parameters: &'a Parameters) {
        parameters.iter().for_each(|p| self.bind(p.name().id.as_str()));
    }

    fn bind(&mut self, name: &'a str) {
        *self.counts.entry(name).or_default() += 1;
    }

    /// Is the name bound at all?
    pub(super) fn has(&self, name: &str) -> bool {
        self.counts.contains_key(name)
    }

    /// Is the name bound by `def` or `class` and by nothing else?
    pub(super) fn is_own(&self, name: &str) -> bool {
        self.defined.get(name).is_some_and(|defined| self.counts.get(name) == Some(defined))
    }

    fn definition(&mut self, name: &'a str) {
        self.bind(name);
        *self.defined.entry(name).or_default() += 1;
    }
}

impl<'a> Visitor<'a> for Bindings<'a> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::FunctionDef(f) => {
                self.definition(f.name.id.as_str());
                if !self.deep {
                    return;
                }
            }
            Stmt::ClassDef(c) => {
                self.definition(c.name.id.as_str());
                if c.decorator_list.is_empty() {
                    self.classes.insert(c.name.id.as_str());
                }
                if !self.deep {
                    return;
                }
            }
            Stmt::Import(i) => {
                for alias in &i.names {
                    let full = alias.name.id.as_str();
                    let root = full.split('.').next().unwrap_or(full);
                    self.bind(alias.asname.as_ref().map_or(root, |n| n.id.as_str()));
                }
            }
            Stmt::ImportFrom(i) => {
                i.names.iter().for_each(|alias| self.bind(alias.asname.as_ref().unwrap_or(&alias.name).id.as_str()));
            }
            Stmt::Global(g) => self.outward.extend(g.names.iter().map(|n| n.id.as_str())),
            Stmt::Nonlocal(n) => self.outward.extend(n.names.iter().map(|n| n.id.as_str())),
            _ => {}
        }
        walk_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Name(n) if n.ctx != ExprContext::Load => self.bind(n.id.as_str()),
            Expr::Lambda(_) | Expr::ListComp(_) | Expr::SetComp(_) | Expr::DictComp(_) | Expr::Generator(_)
                if !self.deep =>
            {
                return;
            }
            _ => {}
        }
        walk_expr(self, expr);
    }

    fn visit_parameters(&mut self, parameters: &'a Parameters) {
        self.parameters(parameters);
        ruff_python_ast::visitor::walk_parameters(self, parameters);
    }

    fn visit_except_handler(&mut self, handler: &'a ExceptHandler) {
        let ExceptHandler::ExceptHandler(h) = handler;
        if let Some(name) = &h.name {
            self.bind(name.id.as_str());
        }
        walk_except_handler(self, handler);
    }

    fn visit_pattern(&mut self, pattern: &'a Pattern) {
        let name = match pattern {
            Pattern::MatchAs(p) => p.name.as_ref(),
            Pattern::MatchStar(p) => p.name.as_ref(),
            Pattern::MatchMapping(p) => p.rest.as_ref(),
            _ => None,
        };
        if let Some(name) = name {
            self.bind(name.id.as_str());
        }
        walk_pattern(self, pattern);
    }
}

/// Collects the names of modules of one function's own scope.
pub(super) struct LibraryNames<'a, 'f, 'b> {
    pub(super) aliases: &'b Aliases,
    pub(super) found: &'f mut HashSet<&'a str>,
}

impl<'a> Visitor<'a> for LibraryNames<'a, '_, '_> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::FunctionDef(_) | Stmt::ClassDef(_) => return,
            Stmt::Import(i) => {
                for alias in &i.names {
                    let full = alias.name.id.as_str();
                    let root = full.split('.').next().unwrap_or(full);
                    self.found.insert(alias.asname.as_ref().map_or(root, |n| n.id.as_str()));
                }
            }
            Stmt::ImportFrom(i) => {
                let names = i.names.iter().map(|alias| alias.asname.as_ref().unwrap_or(&alias.name).id.as_str());
                self.found.extend(names);
            }
            Stmt::Assign(a) if !self.aliases.resolve(&a.value).is_empty() => {
                self.found.extend(a.targets.iter().filter_map(|t| t.as_name_expr()).map(|n| n.id.as_str()));
            }
            Stmt::AnnAssign(a) if a.value.as_deref().is_some_and(|v| !self.aliases.resolve(v).is_empty()) => {
                self.found.extend(a.target.as_name_expr().map(|n| n.id.as_str()));
            }
            _ => {}
        }
        walk_stmt(self, stmt);
    }

    fn visit_expr(&mut self, _expr: &'a Expr) {}
}
