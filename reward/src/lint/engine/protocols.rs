//! Code that Python runs where the text has no call: special methods, property setters, coroutines. Few of them are
//! followed; a definition of any other is shown.

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{Alias, Decorator, Expr, Stmt};

use super::Engine;
use super::trace::Fact;
use super::value::Value;
use crate::lint::syntax::Lines;

/// Special methods and names of a class that the interpreter runs where Python does, or that run nothing.
const FOLLOWED: &[&str] = &[
    "__init__",
    "__call__",
    "__enter__",
    "__exit__",
    "__getitem__",
    "__iter__",
    "__next__",
    "__post_init__",
    "__init_subclass__",
    "__repr__",
    "__doc__",
    "__slots__",
    "__module__",
    "__name__",
    "__qualname__",
    "__version__",
    "__author__",
    "__all__",
    "__constants__",
    "__annotations__",
];

/// Library classes that run a subclass's methods only where they are called, apart from those of `torch.nn`.
const BASES: &[&str] = &[
    "abc.ABC",
    "builtins.object",
    "enum.Enum",
    "enum.Flag",
    "enum.IntEnum",
    "enum.IntFlag",
    "enum.StrEnum",
    "torch.autograd.Function",
    "typing.Generic",
    "typing.NamedTuple",
    "typing.Protocol",
    "typing.TypedDict",
    "typing_extensions.Protocol",
    "typing_extensions.TypedDict",
];

/// `__x__` that is not followed, and the single-underscore hooks of enumerations.
fn is_hook(name: &str) -> bool {
    let special = name.len() > 4 && name.starts_with("__") && name.ends_with("__");
    let hook = matches!(name, "_missing_" | "_generate_next_value_" | "_ignore_" | "_order_" | "_numeric_repr_");
    special && !FOLLOWED.contains(&name) || hook
}

/// A library class that a candidate's class may inherit from.
fn is_plain_base(path: &str) -> bool {
    let error = |name: &str| name.ends_with("Error") || name.ends_with("Exception") || name.ends_with("Warning");
    BASES.contains(&path) || path.starts_with("torch.nn.") || path.strip_prefix("builtins.").is_some_and(error)
}

/// What in a module runs unseen, by line.
pub(super) fn unseen(body: &[Stmt], lines: &Lines) -> Vec<(u32, String)> {
    let mut search = Search { lines, found: Vec::new(), in_class: false, tries: 0 };
    search.visit_body(body);
    search.found
}

struct Search<'b> {
    lines: &'b Lines,
    found: Vec<(u32, String)>,
    /// Directly in a class's body.
    in_class: bool,
    /// `try` statements around, in the function.
    tries: u32,
}

impl Search<'_> {
    fn binds(&mut self, name: &str, line: u32) {
        if self.in_class && is_hook(name) {
            self.found.push((line, format!("{name} of a class")));
        }
    }
}

impl<'a> Visitor<'a> for Search<'_> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        let line = self.lines.of(stmt);
        match stmt {
            Stmt::FunctionDef(f) => {
                self.binds(f.name.id.as_str(), line);
                if f.is_async {
                    self.found.push((line, "a coroutine".to_owned()));
                }
                let around = std::mem::replace(&mut self.in_class, false);
                let tries = std::mem::take(&mut self.tries);
                walk_stmt(self, stmt);
                self.tries = tries;
                self.in_class = around;
            }
            Stmt::ClassDef(c) => {
                self.binds(c.name.id.as_str(), line);
                let around = std::mem::replace(&mut self.in_class, true);
                walk_stmt(self, stmt);
                self.in_class = around;
            }
            // A yield as a statement gives what it is sent to nobody.
            Stmt::Expr(e) => match &*e.value {
                Expr::Yield(y) => {
                    if self.tries > 0 {
                        self.found.push((line, "the end of a generator".to_owned()));
                    }
                    y.value.iter().for_each(|v| self.visit_expr(v));
                }
                other => self.visit_expr(other),
            },
            // What follows a yield there runs when nobody asks any more.
            Stmt::Try(_) => {
                self.tries += 1;
                walk_stmt(self, stmt);
                self.tries -= 1;
            }
            Stmt::For(f) if f.is_async => self.found.push((line, "async for".to_owned())),
            Stmt::With(w) if w.is_async => self.found.push((line, "async with".to_owned())),
            _ => walk_stmt(self, stmt),
        }
    }

    fn visit_alias(&mut self, alias: &'a Alias) {
        let bound = alias.asname.as_ref().unwrap_or(&alias.name);
        let line = self.lines.of(alias);
        self.binds(bound.id.as_str(), line);
    }

    fn visit_decorator(&mut self, decorator: &'a Decorator) {
        match &decorator.expression {
            Expr::Name(n) if n.id.as_str() == "property" => {}
            Expr::Attribute(a) if matches!(a.attr.id.as_str(), "setter" | "getter" | "deleter") => {
                let line = self.lines.of(decorator);
                self.found.push((line, format!("a property's {}", a.attr.id)));
            }
            other => self.visit_expr(other),
        }
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        let line = self.lines.of(expr);
        match expr {
            Expr::Name(n) if n.ctx.is_store() => self.binds(n.id.as_str(), line),
            Expr::Name(n) if n.id.as_str() == "property" => {
                self.found.push((line, "a property that is made by a call".to_owned()));
            }
            Expr::Attribute(a) if !a.ctx.is_load() && is_hook(a.attr.id.as_str()) => {
                self.found.push((line, format!("{} of an object", a.attr.id)));
            }
            Expr::Attribute(a) if matches!(a.attr.id.as_str(), "send" | "throw" | "asend" | "athrow") => {
                self.found.push((line, format!("a generator by .{}", a.attr.id)));
            }
            Expr::YieldFrom(_) if self.tries > 0 => self.found.push((line, "the end of a generator".to_owned())),
            Expr::Yield(_) => self.found.push((line, "what a generator is sent".to_owned())),
            Expr::Await(_) => self.found.push((line, "await".to_owned())),
            _ => {}
        }
        walk_expr(self, expr);
    }
}

impl<'a> Engine<'a> {
    /// Shows what runs unseen in the whole file.
    pub(super) fn show_unseen(&mut self, body: &'a [Stmt]) {
        for (line, what) in unseen(body, self.lines) {
            self.line = line;
            self.note(Fact::Unseen { what });
        }
    }

    /// Shows the library classes among a new class's bases that may call its methods by themselves.
    pub(super) fn show_bases(&mut self, name: &str, bases: &[Value<'a>]) {
        for base in bases.iter().flat_map(Value::each) {
            match base {
                Value::Class(_) => {}
                Value::Path(path) if is_plain_base(path) => {}
                Value::Path(path) => {
                    let what = format!("methods of {name}, which {path} may call");
                    self.note(Fact::Unseen { what });
                }
                _ => self.note(Fact::Unseen { what: format!("methods of {name}, whose base is not known") }),
            }
        }
    }
}
