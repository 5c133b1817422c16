//! Where library modules go. A module may be imported, have another name, and be looked into by a dot; anything else could
//! hide what is taken out of it, so anything else is a finding, and no value of the candidate ever is a module. The same
//! holds, less strictly, for the classes whose methods all torch code uses; and an attribute is set only on an own object.

use std::collections::HashSet;

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_pattern, walk_stmt};
use ruff_python_ast::{CmpOp, Comprehension, Expr, ExprCall, ExprContext, Operator, Parameters, Pattern, Stmt};

use super::aliases::{Aliases, constant_text};
use super::bindings::{Bindings, LibraryNames};
use super::surface::is_module;
use super::syntax::Lines;
use super::walk::Mention;

/// Classes that are named, asked for and inherited from, and not passed along: who has one can replace its methods.
const PINNED: &[&str] = &["torch.Tensor", "torch.nn.Module", "torch.nn.Parameter", "torch.autograd.Function"];

/// Called openly, or not at all: its text is judged where it is called.
const OPEN: &str = ".inline_asm_elementwise";

/// Generic classes of Python: what stands in their brackets is a type.
const GENERIC: &[&str] = &["dict", "frozenset", "list", "set", "tuple", "type"];

/// What was found.
#[derive(Default)]
pub(super) struct Flows {
    /// Modules and pinned classes that are passed along.
    pub(super) passed: Vec<Mention>,
    /// Attributes that are set on something that may not be the candidate's own.
    pub(super) foreign: Vec<Mention>,
}

struct Scope<'a> {
    bindings: Bindings<'a>,
    /// Names that an import or another name of a module binds in this scope.
    modules: HashSet<&'a str>,
    first: Option<&'a str>,
    class: bool,
}

pub(super) struct Walker<'a, 'b> {
    lines: &'b Lines,
    aliases: &'b Aliases,
    file: &'b Bindings<'a>,
    /// Names that are made by the candidate: instances of its classes, layers.
    made: HashSet<&'a str>,
    scopes: Vec<Scope<'a>>,
    found: Flows,
}

/// Looks through a file.
pub(super) fn flows<'a>(body: &'a [Stmt], lines: &Lines, aliases: &Aliases, file: &Bindings<'a>) -> Flows {
    let made = super::made::names(body, aliases, file);
    let mut walker = Walker { lines, aliases, file, made, scopes: Vec::new(), found: Flows::default() };
    walker.visit_body(body);
    walker.found
}

/// The name a chain of attributes, items and calls starts from.
fn root(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Name(n) => Some(n.id.as_str()),
        Expr::Attribute(a) => root(&a.value),
        Expr::Subscript(s) => root(&s.value),
        _ => None,
    }
}

fn is_pinned(path: &str) -> bool {
    PINNED.contains(&path) || path.ends_with(OPEN)
}

/// A name or a chain of attributes.
fn is_chain(expr: &Expr) -> bool {
    match expr {
        Expr::Name(_) => true,
        Expr::Attribute(a) => is_chain(&a.value),
        _ => false,
    }
}

impl<'a> Walker<'a, '_> {
    /// What an expression of this scope may stand for in the libraries.
    fn paths(&self, expr: &Expr) -> Vec<String> {
        match root(expr) {
            Some(name) if !self.aliases.names.contains_key(name) || self.is_shadowed(name) => Vec::new(),
            _ => self.aliases.resolve(expr),
        }
    }

    fn module(&self, expr: &Expr) -> Option<String> {
        self.paths(expr).into_iter().find(|path| is_module(path))
    }

    fn pinned(&self, expr: &Expr) -> Option<String> {
        if matches!(expr, Expr::Attribute(a) if a.attr.id.as_str() == "__class__") {
            return Some("a __class__".to_owned());
        }
        self.paths(expr).into_iter().find(|path| is_pinned(path))
    }

    /// Is this name, read here, one of a function's own that is never a module?
    fn is_shadowed(&self, name: &str) -> bool {
        if self.file.outward.contains(name) {
            return false;
        }
        let scope = self.scopes.iter().rev().filter(|scope| !scope.class).find(|scope| scope.bindings.has(name));
        scope.is_some_and(|scope| !scope.modules.contains(name))
    }

    fn is_builtin(&self, callee: &Expr, names: &[&str]) -> bool {
        matches!(callee, Expr::Name(n) if names.contains(&n.id.as_str()) && !self.file.has(n.id.as_str()))
    }

    /// Something that takes types in brackets.
    fn is_generic(&self, expr: &Expr) -> bool {
        let own = |n: &str| self.file.is_own(n) && self.file.classes.contains(n);
        self.is_builtin(expr, GENERIC)
            || self.is_typing(expr)
            || expr.as_name_expr().is_some_and(|n| own(n.id.as_str()))
    }

    fn is_typing(&self, expr: &Expr) -> bool {
        let typing =
            |p: &String| ["typing.", "typing_extensions.", "collections.abc."].iter().any(|m| p.starts_with(m));
        self.paths(expr).iter().any(typing)
    }

    /// Unless a function around has something else by this name.
    fn may_be_type(&self, callee: &Expr) -> bool {
        let bound = || self.scopes.iter().any(|scope| !scope.class && scope.bindings.has("type"));
        matches!(callee, Expr::Name(n) if n.id.as_str() == "type") && !bound()
    }

    /// `type(x)`
    fn class_of<'e>(&self, expr: &'e Expr) -> Option<&'e Expr> {
        match expr {
            Expr::Call(c) if self.may_be_type(&c.func) && c.arguments.keywords.is_empty() => match &*c.arguments.args {
                [of] if !of.is_starred_expr() => Some(of),
                _ => None,
            },
            _ => None,
        }
    }

    fn pass(&mut self, what: String, expr: &Expr) {
        let line = self.lines.of(expr);
        self.found.passed.push(Mention { path: what, line });
    }

    /// A place for a type: what is pinned may stand here, a module may not.
    fn type_place(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Name(_) | Expr::Attribute(_) if self.pinned(expr).is_some() => {
                if let Expr::Attribute(a) = expr
                    && self.paths(expr).is_empty()
                {
                    self.visit_expr(&a.value);
                }
            }
            Expr::Subscript(s) if self.is_generic(&s.value) => {
                self.callee(&s.value);
                self.type_place(&s.slice);
            }
            Expr::BinOp(b) if b.op == Operator::BitOr && self.is_type(&b.left) && self.is_type(&b.right) => {
                self.type_place(&b.left);
                self.type_place(&b.right);
            }
            Expr::Tuple(t) => t.elts.iter().for_each(|e| self.type_place(e)),
            Expr::List(l) => l.elts.iter().for_each(|e| self.type_place(e)),
            _ => match self.class_of(expr) {
                Some(_) => walk_expr(self, expr),
                None => self.visit_expr(expr),
            },
        }
    }

    /// Not an object of the candidate, whose operators would be called.
    fn is_type(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Name(n) => !self.made.contains(n.id.as_str()),
            Expr::Attribute(_) => !self.paths(expr).is_empty(),
            Expr::Subscript(s) => self.is_generic(&s.value),
            Expr::BinOp(b) => self.is_type(&b.left) && self.is_type(&b.right),
            Expr::NoneLiteral(_) | Expr::StringLiteral(_) => true,
            _ => false,
        }
    }

    /// The two sides of a comparison that calls no method of the candidate.
    fn compares_types(&self, left: &Expr, op: CmpOp, right: &Expr) -> bool {
        let class = |e: &Expr| self.class_of(e).is_some() || self.pinned(e).is_some() || !self.paths(e).is_empty();
        match op {
            CmpOp::Is | CmpOp::IsNot => true,
            CmpOp::Eq | CmpOp::NotEq => class(left) && class(right),
            CmpOp::In | CmpOp::NotIn => matches!(right, Expr::Tuple(_) | Expr::List(_) | Expr::Set(_)),
            _ => false,
        }
    }

    fn annotation(&mut self, expr: Option<&'a Expr>) {
        if let Some(expr) = expr {
            self.type_place(expr);
        }
    }

    fn enter(&mut self, bindings: Bindings<'a>, first: Option<&'a str>, class: bool, body: &'a [Stmt]) {
        let mut modules = HashSet::new();
        for stmt in body {
            self.module_names(stmt, &mut modules);
        }
        self.scopes.push(Scope { bindings, modules, first, class });
    }

    /// Names that stand for modules in this scope, over all its blocks.
    fn module_names(&self, stmt: &'a Stmt, found: &mut HashSet<&'a str>) {
        let mut names = LibraryNames { aliases: self.aliases, found };
        names.visit_stmt(stmt);
    }

    fn in_class(&self) -> bool {
        self.scopes.last().is_some_and(|scope| scope.class)
    }

    /// Is this one of the candidate's own objects?
    fn is_own(&self, base: &Expr) -> bool {
        match base {
            Expr::Name(n) => {
                let name = n.id.as_str();
                let first = self.scopes.iter().rev().find(|scope| !scope.class && scope.bindings.has(name));
                match first.and_then(|scope| scope.first) {
                    Some(first) if first == name => true,
                    _ => self.made.contains(name) || self.file.is_own(name),
                }
            }
            Expr::Attribute(a) => !a.attr.id.starts_with("__") && self.is_own(&a.value),
            Expr::Subscript(s) => self.is_own(&s.value),
            Expr::Call(c) => self.is_builtin(&c.func, &["super"]) && c.arguments.args.is_empty(),
            _ => false,
        }
    }

    fn stored(&mut self, base: &'a Expr, name: &str, at: &Expr) {
        let inner = name.starts_with("__") && !matches!(name, "__doc__" | "__name__" | "__qualname__");
        if inner || !self.paths(base).is_empty() || !self.is_own(base) {
            let line = self.lines.of(at);
            self.found.foreign.push(Mention { path: name.to_owned(), line });
        }
    }

    fn call(&mut self, call: &'a ExprCall) {
        let args = &*call.arguments.args;
        let text = args.get(1).and_then(constant_text);
        let mut rest = args;
        let mut types: &'a [Expr] = &[];
        if self.is_builtin(&call.func, &["getattr", "hasattr"]) && text.is_some() {
            if self.module(&args[0]).is_some() || self.pinned(&args[0]).is_some() {
                rest = &args[1..];
            }
        } else if self.is_builtin(&call.func, &["setattr"])
            && let (Some(text), Some(base)) = (&text, args.first())
        {
            self.stored(base, text, base);
        } else if self.is_builtin(&call.func, &["isinstance", "issubclass"]) && args.len() == 2 {
            (rest, types) = args.split_at(1);
        } else if self.is_builtin(&call.func, &["super", "print", "repr", "str"])
            || self.is_typing(&call.func)
            || (matches!(&*call.func, Expr::Attribute(a) if a.attr.id.as_str() == "register")
                && !self.file.has("register"))
        {
            (rest, types) = args.split_at(0);
        }
        self.callee(&call.func);
        rest.iter().for_each(|arg| self.visit_expr(arg));
        types.iter().for_each(|arg| self.type_place(arg));
        let typing = self.is_typing(&call.func);
        for keyword in &call.arguments.keywords {
            if typing { self.type_place(&keyword.value) } else { self.visit_expr(&keyword.value) }
        }
    }

    /// What is called may be a class.
    fn callee(&mut self, expr: &'a Expr) {
        if self.pinned(expr).is_some() || self.class_of(expr).is_some() {
            self.type_place(expr);
        } else {
            self.visit_expr(expr);
        }
    }

    /// What a dot follows may be a module or a class.
    fn base(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Call(c) if self.module(expr).is_some() || self.class_of(expr).is_some() => self.call(c),
            _ if is_chain(expr) && self.module(expr).is_some() => {}
            _ => self.callee(expr),
        }
    }

    /// What gets another name may be a module or a class.
    fn named(&mut self, value: &'a Expr) {
        let mut inner = value;
        while let Expr::Attribute(a) = inner
            && !self.paths(value).is_empty()
        {
            inner = &a.value;
        }
        match inner {
            _ if self.paths(value).is_empty() => self.visit_expr(value),
            Expr::Call(c) => self.call(c),
            _ => {}
        }
    }

    fn comprehension(&mut self, generators: &'a [Comprehension], elements: &[&'a Expr]) {
        // The first iterable is read outside.
        if let Some(first) = generators.first() {
            self.visit_expr(&first.iter);
        }
        let bindings = Bindings::of_targets(generators.iter().map(|g| &g.target));
        self.enter(bindings, None, false, &[]);
        for (index, generator) in generators.iter().enumerate() {
            if index > 0 {
                self.visit_expr(&generator.iter);
            }
            self.visit_expr(&generator.target);
            generator.ifs.iter().for_each(|test| self.visit_expr(test));
        }
        elements.iter().for_each(|e| self.visit_expr(e));
        self.scopes.pop();
    }
}

impl<'a> Visitor<'a> for Walker<'a, '_> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::Import(_) | Stmt::ImportFrom(_) if self.in_class() => {
                let line = self.lines.of(stmt);
                self.found.passed.push(Mention { path: "an import in a class".to_owned(), line });
            }
            // Another name.
            Stmt::Assign(a) if a.targets.iter().all(Expr::is_name_expr) && !self.in_class() => {
                self.named(&a.value);
            }
            Stmt::AnnAssign(a) => {
                self.annotation(Some(&a.annotation));
                if let Some(value) = a.value.as_deref() {
                    if a.target.is_name_expr() && !self.in_class() { self.named(value) } else { self.visit_expr(value) }
                }
                self.visit_expr(&a.target);
            }
            Stmt::FunctionDef(f) => {
                f.decorator_list.iter().for_each(|d| self.visit_decorator(d));
                self.visit_parameters(&f.parameters);
                self.annotation(f.returns.as_deref());
                let first = f.parameters.iter_non_variadic_params().next().map(|p| p.parameter.name.id.as_str());
                self.enter(Bindings::of_function(&f.parameters, &f.body), first, false, &f.body);
                self.visit_body(&f.body);
                self.scopes.pop();
            }
            Stmt::ClassDef(c) => {
                c.decorator_list.iter().for_each(|d| self.visit_decorator(d));
                if let Some(arguments) = &c.arguments {
                    arguments.args.iter().for_each(|base| self.type_place(base));
                    arguments.keywords.iter().for_each(|keyword| self.visit_expr(&keyword.value));
                }
                self.enter(Bindings::default(), None, true, &[]);
                self.visit_body(&c.body);
                self.scopes.pop();
            }
            _ => walk_stmt(self, stmt),
        }
    }

    fn visit_annotation(&mut self, expr: &'a Expr) {
        self.type_place(expr);
    }

    fn visit_parameters(&mut self, parameters: &'a Parameters) {
        for parameter in parameters {
            if let Some(default) = parameter.default() {
                self.visit_expr(default);
            }
            self.annotation(parameter.annotation());
        }
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Name(n) => {
                if n.ctx == ExprContext::Load
                    && let Some(path) = self.paths(expr).into_iter().find(|path| is_module(path) || is_pinned(path))
                {
                    self.pass(path, expr);
                }
                return;
            }
            Expr::Attribute(a) => {
                let paths = self.paths(expr);
                if a.ctx != ExprContext::Load {
                    self.stored(&a.value, a.attr.id.as_str(), expr);
                } else if a.attr.id.as_str() == "__class__" {
                    self.pass("the class of a value".to_owned(), expr);
                } else if let Some(path) = paths.iter().find(|path| is_module(path) || is_pinned(path)) {
                    self.pass(path.clone(), expr);
                }
                if is_chain(expr) && !paths.is_empty() {
                    return;
                }
                return self.base(&a.value);
            }
            Expr::Call(c) => {
                if let Some(path) = self.module(expr) {
                    self.pass(path, expr);
                } else if self.class_of(expr).is_some() {
                    self.pass("the class of a value".to_owned(), expr);
                }
                return self.call(c);
            }
            Expr::Compare(c) => {
                if let ([op], [right]) = (&*c.ops, &*c.comparators)
                    && self.compares_types(&c.left, *op, right)
                {
                    if !(right.is_none_literal_expr() && is_chain(&c.left) && self.module(&c.left).is_some()) {
                        self.type_place(&c.left);
                    }
                    return self.type_place(right);
                }
            }
            Expr::Subscript(s) if self.is_generic(&s.value) => {
                self.callee(&s.value);
                return self.type_place(&s.slice);
            }
            Expr::FString(f) => {
                for element in f.value.elements().filter_map(|e| e.as_interpolation()) {
                    if self.module(&element.expression).is_none() && self.pinned(&element.expression).is_some()
                        || self.class_of(&element.expression).is_some()
                    {
                        self.type_place(&element.expression);
                    } else {
                        self.visit_expr(&element.expression);
                    }
                    if let Some(format) = &element.format_spec {
                        format.elements.iter().for_each(|e| self.visit_interpolated_string_element(e));
                    }
                }
                return;
            }
            Expr::Lambda(l) => {
                if let Some(parameters) = l.parameters.as_deref() {
                    self.visit_parameters(parameters);
                    self.enter(Bindings::of_parameters(parameters), None, false, &[]);
                } else {
                    self.enter(Bindings::default(), None, false, &[]);
                }
                self.visit_expr(&l.body);
                self.scopes.pop();
                return;
            }
            Expr::ListComp(c) => return self.comprehension(&c.generators, &[&c.elt]),
            Expr::SetComp(c) => return self.comprehension(&c.generators, &[&c.elt]),
            Expr::Generator(c) => return self.comprehension(&c.generators, &[&c.elt]),
            Expr::DictComp(c) => {
                let key = c.key.as_deref().into_iter();
                return self.comprehension(&c.generators, &key.chain([&*c.value]).collect::<Vec<_>>());
            }
            _ => {}
        }
        walk_expr(self, expr);
    }

    fn visit_pattern(&mut self, pattern: &'a Pattern) {
        match pattern {
            Pattern::MatchClass(p) => {
                self.type_place(&p.cls);
                self.visit_pattern_arguments(&p.arguments);
            }
            _ => walk_pattern(self, pattern),
        }
    }
}
