//! Facts about the whole file, whether its code is reached or not: which names it mentions by their full path, what it
//! imports, what it assigns to, which classes and methods it defines.
//!
//! Names are resolved without regard to order: a name that is bound to a library name anywhere counts as that library
//! name everywhere.

use std::collections::HashSet;

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{Expr, Number, Stmt};

use super::aliases::Aliases;
pub use super::aliases::constant_text;
use super::bindings::Bindings;
use super::contexts::left_on;
use super::engine::canonical;
use super::flows::{Flows, flows};
use super::guard::is_main_guard;
use super::protocols::{Protocols, protocols};
use super::syntax::Lines;
use super::texts::Texts;

/// A library name, mentioned.
#[derive(Clone, Debug)]
pub struct Mention {
    /// Full dotted path; builtins as `builtins.eval`.
    pub path: String,
    pub line: u32,
}

/// A class statement.
#[derive(Clone, Debug)]
pub struct ClassSeen {
    pub name: String,
    /// Full paths, or names of the candidate's own classes.
    pub bases: Vec<String>,
    pub keywords: Vec<String>,
    pub methods: Vec<(String, u32)>,
    pub line: u32,
}

/// What the whole file says.
#[derive(Debug, Default)]
pub struct WholeFile {
    pub mentions: Vec<Mention>,
    /// Module paths as imported, relative ones with their dots.
    pub imports: Vec<Mention>,
    /// `from x import *`
    pub star_imports: Vec<Mention>,
    /// Library attributes that are assigned to or deleted.
    pub patched: Vec<Mention>,
    /// Every attribute name.
    pub attributes: Vec<Mention>,
    /// `getattr`, `setattr`, `delattr` or `hasattr` with a name that is not a constant string.
    pub dynamic: Vec<Mention>,
    pub classes: Vec<ClassSeen>,
    /// Lines on which `ModelNew` is bound.
    pub models: Vec<u32>,
    /// Lines of functions decorated as kernels.
    pub kernels: Vec<u32>,
    /// Lines on which an iterator is kept in an attribute or a name of the module.
    pub iterators: Vec<u32>,
    /// Statements that switch something of torch and leave it so.
    pub switches: Vec<Mention>,
    /// Contexts of torch that may stay open.
    pub left_on: Vec<Mention>,
    /// Text of inline assembly; `None` when it is not a constant.
    pub assembly: Vec<(Option<String>, u32)>,
    /// Questions about a kernel or a part of `triton` as a Python object.
    pub inspected: Vec<Mention>,
    /// Modules, and classes that all torch code uses, passed along as values.
    pub passed: Vec<Mention>,
    /// Attributes set on something that may not be the candidate's own.
    pub foreign: Vec<Mention>,
    pub protocols: Protocols,
    /// It has a complex number, or the name of their type.
    pub complex: bool,
}

/// Builtins that tell something about the object they are given.
const TELLING: &[&str] = &[
    "type",
    "repr",
    "str",
    "format",
    "isinstance",
    "issubclass",
    "hasattr",
    "getattr",
    "callable",
    "vars",
    "dir",
    "id",
    "hash",
    "ascii",
    "bytes",
    "len",
];

/// Of these, what a compiled kernel answers otherwise than an interpreted one: a 1 is a constant there, a tensor here.
const KERNEL_TELLING: &[&str] =
    &["type", "isinstance", "issubclass", "hasattr", "getattr", "callable", "vars", "dir", "id", "hash", "repr", "str"];

/// Attributes of a kernel that honest code uses.
const KERNEL_ATTRIBUTES: &[&str] = &["run", "warmup", "best_config"];

/// The option of a launch that lets it start before the kernel ahead of it has ended.
const DEPENDENT: &str = "launch_pdl";

/// Builtins that are looked for.
pub(super) const WATCHED: &[&str] = &[
    "eval",
    "exec",
    "compile",
    "__import__",
    "globals",
    "locals",
    "vars",
    "open",
    "breakpoint",
    "delattr",
    "setattr",
    "getattr",
    "memoryview",
    "exit",
    "quit",
    "__builtins__",
    "__loader__",
    "__spec__",
    "dir",
    "help",
    "input",
    "__file__",
    "__name__",
];

/// `logging.getLogger(__name__)`
fn is_logger(call: &ruff_python_ast::ExprCall) -> bool {
    let get = matches!(&*call.func, Expr::Attribute(a) if a.attr.id.as_str() == "getLogger" && a.value.is_name_expr());
    get && matches!(&*call.arguments.args, [Expr::Name(n)] if n.id.as_str() == "__name__")
}

/// Walks a module.
pub fn walk<'a>(body: &'a [Stmt], lines: &'a Lines) -> WholeFile {
    let aliases = Aliases::of(body);
    let file = Bindings::of_file(body);
    let texts = Texts::of_file(body, &file);
    let Flows { mut passed, foreign } = flows(body, lines, &aliases, &file);
    passed.extend(aliases.tangled.iter().map(|name| Mention { path: name.clone(), line: 0 }));
    let protocols = protocols(body, lines, &aliases, &file, &texts);
    let left_on = left_on(body, lines, &aliases);
    let found = WholeFile { passed, foreign, protocols, left_on, ..WholeFile::default() };
    let mut walker = Walker { lines, aliases: &aliases, texts: &texts, found, local: Vec::new(), in_kernel: false };
    walker.visit_body(body);
    walker.found
}

struct Walker<'b> {
    lines: &'b Lines,
    aliases: &'b Aliases,
    texts: &'b Texts<'b>,
    found: WholeFile,
    /// What the functions around bind for themselves: no builtin, whatever its name.
    local: Vec<HashSet<&'b str>>,
    /// In a kernel's body.
    in_kernel: bool,
}

impl Walker<'_> {
    fn patch(&mut self, target: &Expr) {
        match target {
            Expr::Attribute(_) => {
                let line = self.lines.of(target);
                for path in self.aliases.resolve(target) {
                    self.found.patched.push(Mention { path, line });
                }
            }
            Expr::Subscript(s) => {
                let line = self.lines.of(target);
                for path in self.aliases.resolve(&s.value) {
                    self.found.patched.push(Mention { path: format!("{path}[..]"), line });
                }
            }
            Expr::Tuple(t) => t.elts.iter().for_each(|e| self.patch(e)),
            Expr::List(l) => l.elts.iter().for_each(|e| self.patch(e)),
            Expr::Starred(s) => self.patch(&s.value),
            _ => {}
        }
    }

    fn binds_model(&self, target: &Expr) -> bool {
        match target {
            Expr::Name(n) => n.id.as_str() == "ModelNew",
            Expr::Tuple(t) => t.elts.iter().any(|e| self.binds_model(e)),
            _ => false,
        }
    }
}

impl<'a> Visitor<'a> for Walker<'a> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        let line = self.lines.of(stmt);
        match stmt {
            Stmt::Import(i) => {
                for alias in &i.names {
                    self.found.imports.push(Mention { path: alias.name.id.to_string(), line });
                    self.found.mentions.push(Mention { path: canonical(alias.name.id.as_str()), line });
                    let bound = alias.asname.as_ref().unwrap_or(&alias.name).id.as_str();
                    if bound == "ModelNew" {
                        self.found.models.push(line);
                    }
                }
            }
            Stmt::ImportFrom(i) => {
                let module = i.module.as_ref().map_or("", |m| m.id.as_str());
                let module = format!("{}{module}", ".".repeat(i.level as usize));
                for alias in &i.names {
                    if alias.name.id.as_str() == "*" {
                        self.found.star_imports.push(Mention { path: module.clone(), line });
                    }
                    let path = canonical(&format!("{module}.{}", alias.name.id));
                    self.found.mentions.push(Mention { path, line });
                    if alias.asname.as_ref().unwrap_or(&alias.name).id.as_str() == "ModelNew" {
                        self.found.models.push(line);
                    }
                }
                self.found.imports.push(Mention { path: module, line });
            }
            Stmt::Assign(a) => {
                let iterator = matches!(&*a.value, Expr::Call(c) if c.func.as_name_expr().is_some_and(|n| n.id.as_str() == "iter"));
                let stays = |t: &Expr| t.is_attribute_expr() || self.local.is_empty();
                if iterator && a.targets.iter().any(stays) {
                    self.found.iterators.push(line);
                }
                for target in &a.targets {
                    self.patch(target);
                    if self.binds_model(target) {
                        self.found.models.push(line);
                    }
                }
            }
            Stmt::Expr(e) => {
                if let Expr::Call(c) = &*e.value {
                    let switch = |p: &String| p.ends_with(".set_grad_enabled") || p.ends_with(".inference_mode");
                    let paths = self.aliases.resolve(&c.func).into_iter().filter(switch);
                    self.found.switches.extend(paths.map(|path| Mention { path, line }));
                }
            }
            Stmt::If(i) if is_main_guard(&i.test) => {
                self.visit_body(&i.body);
                for clause in &i.elif_else_clauses {
                    if let Some(test) = &clause.test {
                        self.visit_expr(test);
                    }
                    self.visit_body(&clause.body);
                }
                return;
            }
            Stmt::AugAssign(a) => self.patch(&a.target),
            Stmt::AnnAssign(a) => self.patch(&a.target),
            Stmt::Delete(d) => d.targets.iter().for_each(|t| self.patch(t)),
            Stmt::For(f) => self.patch(&f.target),
            Stmt::FunctionDef(f) => {
                let kernel = f.decorator_list.iter().any(|d| {
                    let expr = match &d.expression {
                        Expr::Call(c) => &c.func,
                        other => other,
                    };
                    self.aliases.resolve(expr).iter().any(|p| p == "triton.jit")
                });
                if kernel {
                    self.found.kernels.push(line);
                }
                let own = Bindings::of_function(&f.parameters, &f.body);
                self.local.push(own.counts.into_keys().filter(|name| !own.outward.contains(name)).collect());
                let around = std::mem::replace(&mut self.in_kernel, kernel);
                walk_stmt(self, stmt);
                self.in_kernel = around;
                self.local.pop();
                return;
            }
            Stmt::ClassDef(c) => {
                let arguments = c.arguments.as_deref();
                let bases = arguments.map(|a| &*a.args).unwrap_or_default();
                // `Generic[T]` is `Generic`.
                let bases = bases.iter().map(|b| if let Expr::Subscript(s) = b { &*s.value } else { b });
                let bases = bases.map(|b| match (self.aliases.resolve(b).into_iter().next(), b) {
                    (Some(path), _) => path,
                    (None, Expr::Name(n)) => n.id.to_string(),
                    _ => "?".to_owned(),
                });
                let keywords = arguments.map(|a| a.keywords.iter()).into_iter().flatten();
                let seen = ClassSeen {
                    name: c.name.id.to_string(),
                    bases: bases.collect(),
                    keywords: keywords.filter_map(|k| k.arg.as_ref()).map(|k| k.id.to_string()).collect(),
                    methods: c
                        .body
                        .iter()
                        .filter_map(|s| match s {
                            Stmt::FunctionDef(f) => Some((f.name.id.to_string(), self.lines.of(s))),
                            Stmt::Assign(a) => match a.targets.first() {
                                Some(Expr::Name(n)) => Some((n.id.to_string(), self.lines.of(s))),
                                _ => None,
                            },
                            _ => None,
                        })
                        .collect(),
                    line,
                };
                if seen.name == "ModelNew" {
                    self.found.models.push(line);
                }
                self.found.classes.push(seen);
            }
            _ => {}
        }
        walk_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        let line = self.lines.of(expr);
        match expr {
            Expr::NumberLiteral(n) => self.found.complex |= matches!(n.value, Number::Complex { .. }),
            Expr::Name(n) => {
                let name = n.id.as_str();
                self.found.complex |= name == "complex";
                for path in self.aliases.resolve(expr) {
                    self.found.mentions.push(Mention { path, line });
                }
                // A name of the module may be bound later than it is read, or be deleted.
                if WATCHED.contains(&name) && !self.local.iter().any(|l| l.contains(name)) {
                    self.found.mentions.push(Mention { path: format!("builtins.{name}"), line });
                }
            }
            Expr::FString(f) => {
                if self.texts.of(expr).is_some_and(|t| t == DEPENDENT) {
                    self.found.mentions.push(Mention { path: format!("triton.{DEPENDENT}"), line });
                }
                for element in f.value.elements().filter_map(|e| e.as_interpolation()) {
                    if self.aliases.is_kernel(&element.expression) {
                        self.found.inspected.push(Mention { path: "a kernel's text".to_owned(), line });
                    }
                }
            }
            Expr::Attribute(a) => {
                let name = a.attr.id.as_str();
                if self.aliases.is_kernel(&a.value) && !KERNEL_ATTRIBUTES.contains(&name) {
                    self.found.inspected.push(Mention { path: format!("a kernel's .{name}"), line });
                }
                if self.in_kernel && name == "handle" {
                    self.found.inspected.push(Mention { path: ".handle in a kernel".to_owned(), line });
                }
                self.found.attributes.push(Mention { path: a.attr.id.to_string(), line });
                let paths = self.aliases.resolve(expr);
                let chain = !paths.is_empty();
                for path in paths {
                    self.found.mentions.push(Mention { path, line });
                }
                if chain {
                    // The parts of a chain are not mentions of their own; attribute names still count.
                    let mut inner = &*a.value;
                    while let Expr::Attribute(next) = inner {
                        self.found.attributes.push(Mention { path: next.attr.id.to_string(), line });
                        inner = &next.value;
                    }
                    if !matches!(inner, Expr::Name(_)) {
                        self.visit_expr(inner);
                    }
                    return;
                }
            }
            Expr::StringLiteral(s) if s.value.to_str() == DEPENDENT => {
                self.found.mentions.push(Mention { path: format!("triton.{DEPENDENT}"), line });
            }
            Expr::BinOp(_) if self.texts.of(expr).is_some_and(|t| t == DEPENDENT) => {
                self.found.mentions.push(Mention { path: format!("triton.{DEPENDENT}"), line });
            }
            Expr::Call(c) if is_logger(c) => return,
            Expr::Call(c) => {
                if self.texts.of(expr).is_some_and(|t| t == DEPENDENT) {
                    self.found.mentions.push(Mention { path: format!("triton.{DEPENDENT}"), line });
                }
                let dependent = |k: &ruff_python_ast::Keyword| {
                    k.arg.as_ref().is_some_and(|n| n.id.as_str() == DEPENDENT)
                        && !matches!(&k.value, Expr::BooleanLiteral(b) if !b.value)
                };
                if c.arguments.keywords.iter().any(dependent) {
                    self.found.mentions.push(Mention { path: format!("triton.{DEPENDENT}"), line });
                }
                let inline = |p: &String| p.ends_with(".inline_asm_elementwise");
                if self.aliases.resolve(&c.func).iter().any(inline) {
                    let text = c.arguments.find_argument_value("asm", 0).and_then(|text| self.texts.of(text));
                    self.found.assembly.push((text, line));
                }
                if let Expr::Name(n) = &*c.func {
                    let name = n.id.as_str();
                    if self.in_kernel && KERNEL_TELLING.contains(&name) {
                        self.found.inspected.push(Mention { path: format!("{name} in a kernel"), line });
                    }
                    if TELLING.contains(&name) && c.arguments.args.iter().any(|a| self.aliases.is_inside(a)) {
                        self.found
                            .inspected
                            .push(Mention { path: format!("{name} of a kernel or a part of triton"), line });
                    }
                    if matches!(name, "getattr" | "setattr" | "delattr" | "hasattr") {
                        let key = c.arguments.args.get(1);
                        match key.and_then(constant_text) {
                            Some(text) => self.found.attributes.push(Mention { path: text, line }),
                            None => self.found.dynamic.push(Mention { path: name.to_owned(), line }),
                        }
                        if name != "getattr"
                            && name != "hasattr"
                            && let Some(base) = c.arguments.args.first()
                        {
                            for path in self.aliases.resolve(base) {
                                self.found.patched.push(Mention { path, line });
                            }
                        }
                    }
                    for path in self.aliases.resolve(expr) {
                        self.found.mentions.push(Mention { path, line });
                    }
                    if matches!(name, "getattr" | "setattr") {
                        // Called openly; under any other name it is a mention of its own.
                        return self.visit_arguments(&c.arguments);
                    }
                }
            }
            _ => {}
        }
        walk_expr(self, expr);
    }
}
