//! Which names of a candidate stand for library names, and which for its kernels; without regard to order or scope.

use std::collections::{HashMap, HashSet};

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{Expr, Operator, Parameters, Stmt};

use super::engine::canonical;
use super::surface::is_module;
use super::walk::WATCHED;

/// Most library names one name may stand for.
const MAX_PATHS: usize = 12;
/// Most rounds that follow chains like `a = torch; b = a.nn; c = b.functional`, written in any order.
const MAX_ROUNDS: u32 = 8;

#[derive(Default)]
pub(super) struct Aliases {
    pub(super) names: HashMap<String, Vec<String>>,
    pub(super) defined: HashSet<String>,
    /// Names bound to a kernel.
    kernels: HashSet<String>,
    /// Names that stand for more than is followed.
    pub(super) tangled: Vec<String>,
    changed: bool,
}

impl Aliases {
    /// Of a file.
    pub(super) fn of(body: &[Stmt]) -> Self {
        let mut aliases = Aliases::default();
        for round in 0..MAX_ROUNDS {
            aliases.changed = false;
            aliases.visit_body(body);
            if !aliases.changed {
                break;
            }
            if round + 1 == MAX_ROUNDS {
                aliases.tangled.push("a name".to_owned());
            }
        }
        for stmt in body {
            match stmt {
                Stmt::FunctionDef(f) => {
                    aliases.defined.insert(f.name.id.to_string());
                }
                Stmt::ClassDef(c) => {
                    aliases.defined.insert(c.name.id.to_string());
                }
                _ => {}
            }
        }
        aliases
    }

    fn add(&mut self, name: &str, path: String) {
        let module = is_module(&path);
        let paths = self.names.entry(name.to_owned()).or_default();
        if paths.contains(&path) {
            return;
        }
        if paths.len() < MAX_PATHS {
            paths.push(path);
            self.changed |= module;
        } else if module && !self.tangled.iter().any(|t| t == name) {
            self.tangled.push(name.to_owned());
        }
    }

    /// All library names a chain may stand for.
    pub(super) fn resolve(&self, expr: &Expr) -> Vec<String> {
        match expr {
            Expr::Name(n) => self.names.get(n.id.as_str()).cloned().unwrap_or_default(),
            Expr::Attribute(a) => self.extend(self.resolve(&a.value), a.attr.id.as_str()),
            Expr::Call(c) if matches!(&*c.func, Expr::Name(n) if n.id.as_str() == "getattr") => {
                match (c.arguments.args.first(), c.arguments.args.get(1).and_then(constant_text)) {
                    (Some(base), Some(name)) => self.extend(self.resolve(base), &name),
                    _ => Vec::new(),
                }
            }
            _ => Vec::new(),
        }
    }

    fn makes_kernel(&self, decorator: &Expr) -> bool {
        let expr = match decorator {
            Expr::Call(c) => &c.func,
            other => other,
        };
        self.resolve(expr).iter().any(|p| matches!(p.as_str(), "triton.jit" | "triton.autotune" | "triton.heuristics"))
    }

    pub(super) fn is_kernel(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Name(n) => self.kernels.contains(n.id.as_str()),
            Expr::Call(c) => self.makes_kernel(expr) && c.arguments.args.iter().any(|a| matches!(a, Expr::Name(_))),
            _ => false,
        }
    }

    /// A kernel, or a part of `triton`.
    pub(super) fn is_inside(&self, expr: &Expr) -> bool {
        let triton = |p: &String| p.split('.').next() == Some("triton");
        self.is_kernel(expr) || self.resolve(expr).iter().any(triton)
    }

    fn extend(&self, paths: Vec<String>, name: &str) -> Vec<String> {
        paths.into_iter().filter(|p| p.len() < 200).map(|p| canonical(&format!("{p}.{name}"))).collect()
    }

    fn bind(&mut self, target: &Expr, value: &Expr) {
        match (target, value) {
            (Expr::Name(n), value) => {
                if self.is_kernel(value) {
                    self.kernels.insert(n.id.to_string());
                }
                let mut paths = self.resolve(value);
                if let Expr::Name(v) = value
                    && WATCHED.contains(&v.id.as_str())
                {
                    paths.push(format!("builtins.{}", v.id));
                }
                for path in paths {
                    self.add(n.id.as_str(), path);
                }
            }
            (Expr::Tuple(targets), Expr::Tuple(values)) => {
                for (target, value) in targets.elts.iter().zip(&values.elts) {
                    self.bind(target, value);
                }
            }
            _ => {}
        }
    }
}

impl<'a> Visitor<'a> for Aliases {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::Import(i) => {
                for alias in &i.names {
                    let full = alias.name.id.as_str();
                    match &alias.asname {
                        Some(name) => self.add(name.id.as_str(), canonical(full)),
                        None => {
                            let root = full.split('.').next().unwrap_or(full);
                            self.add(root, root.to_owned());
                        }
                    }
                }
            }
            Stmt::ImportFrom(i) => {
                let module =
                    format!("{}{}", ".".repeat(i.level as usize), i.module.as_ref().map_or("", |m| m.id.as_str()));
                for alias in &i.names {
                    let bound = alias.asname.as_ref().unwrap_or(&alias.name).id.as_str();
                    self.add(bound, canonical(&format!("{module}.{}", alias.name.id)));
                }
            }
            Stmt::Assign(a) => a.targets.iter().for_each(|t| self.bind(t, &a.value)),
            Stmt::AnnAssign(a) => {
                if let Some(value) = a.value.as_deref() {
                    self.bind(&a.target, value);
                }
            }
            Stmt::FunctionDef(f) if f.decorator_list.iter().any(|d| self.makes_kernel(&d.expression)) => {
                self.kernels.insert(f.name.id.to_string());
            }
            Stmt::With(w) => {
                for item in &w.items {
                    if let Some(target) = item.optional_vars.as_deref() {
                        self.bind(target, &item.context_expr);
                    }
                }
            }
            _ => {}
        }
        walk_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        if let Expr::Named(n) = expr {
            self.bind(&n.target, &n.value);
        }
        walk_expr(self, expr);
    }

    fn visit_parameters(&mut self, parameters: &'a Parameters) {
        for parameter in parameters.iter_non_variadic_params() {
            if let Some(default) = parameter.default.as_deref() {
                for path in self.resolve(default) {
                    self.add(parameter.parameter.name.id.as_str(), path);
                }
            }
        }
        ruff_python_ast::visitor::walk_parameters(self, parameters);
    }
}

/// A string made of constants: literals and their sums.
pub fn constant_text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::StringLiteral(s) => Some(s.value.to_str().to_owned()),
        Expr::BinOp(b) if b.op == Operator::Add => {
            let (left, right) = (constant_text(&b.left)?, constant_text(&b.right)?);
            (left.len() + right.len() < 4096).then(|| left + &right)
        }
        _ => None,
    }
}
