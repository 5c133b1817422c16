//! Ways to an attribute, a class or a setting that are no plain Python: fields of format texts, class patterns, `type` as
//! a maker of classes, annotations that are evaluated, options whose names are put together.

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_parameters, walk_pattern, walk_stmt};
use ruff_python_ast::{Expr, ExprCall, Parameters, Pattern, Stmt};
use ruff_python_parser::parse_expression;

use super::aliases::Aliases;
use super::bindings::Bindings;
use super::syntax::Lines;
use super::texts::Texts;
use super::walk::Mention;

/// Longest annotation in a string that is read.
const MAX_ANNOTATION: usize = 200;

/// The option of a launch that no candidate may name, however its text is made.
const OPTION: &str = "launch_pdl";

/// What was found.
#[derive(Debug, Default)]
pub struct Protocols {
    /// Attributes and classes reached in a way that hides them.
    pub reflected: Vec<Mention>,
    /// Lines of annotations in strings that are more than a type.
    pub evaluated: Vec<u32>,
    /// Lines of texts that nobody can read in a file that hands on options by `**`.
    pub made_up: Vec<u32>,
    /// Warning filters that do more than silence.
    pub filters: Vec<Mention>,
    /// Special methods, by whatever binds the name.
    pub special: Vec<Mention>,
}

struct Walker<'a, 'b> {
    lines: &'b Lines,
    aliases: &'b Aliases,
    file: &'b Bindings<'a>,
    texts: &'b Texts<'a>,
    /// Names of the variadic parameters around.
    variadic: Vec<Option<&'a str>>,
    /// What the functions around bind.
    functions: Vec<Bindings<'a>>,
    spreads: bool,
    /// In a message that is raised.
    raised: bool,
    found: Protocols,
}

/// Looks through a file.
pub(super) fn protocols<'a>(
    body: &'a [Stmt],
    lines: &Lines,
    aliases: &Aliases,
    file: &Bindings<'a>,
    texts: &Texts<'a>,
) -> Protocols {
    let found = Protocols::default();
    let mut walker = Walker {
        lines,
        aliases,
        file,
        texts,
        variadic: Vec::new(),
        functions: Vec::new(),
        spreads: false,
        raised: false,
        found,
    };
    walker.visit_body(body);
    if !walker.spreads {
        walker.found.made_up.clear();
    }
    walker.found
}

/// Does a format text look into what it is given?
fn looks_inside(format: &str) -> bool {
    let plain = format.replace("{{", "").replace("}}", "");
    plain.split('{').skip(1).any(|field| field.split(['}', ':', '!']).next().is_some_and(|f| f.contains(['.', '['])))
}

/// Does an annotation only name types?
fn is_type(expr: &Expr) -> bool {
    match expr {
        Expr::Name(_) | Expr::NoneLiteral(_) | Expr::EllipsisLiteral(_) | Expr::NumberLiteral(_) => true,
        Expr::StringLiteral(s) => !s.value.to_str().contains('('),
        Expr::Attribute(a) => is_type(&a.value),
        Expr::Subscript(s) => is_type(&s.value) && is_type(&s.slice),
        Expr::BinOp(b) => is_type(&b.left) && is_type(&b.right),
        Expr::Tuple(t) => t.elts.iter().all(is_type),
        Expr::List(l) => l.elts.iter().all(is_type),
        _ => false,
    }
}

impl<'a> Walker<'a, '_> {
    fn reflect(&mut self, what: impl Into<String>, line: u32) {
        self.found.reflected.push(Mention { path: what.into(), line });
    }

    fn special(&mut self, name: &str, line: u32) {
        if name.starts_with("__") {
            self.found.special.push(Mention { path: name.to_owned(), line });
        }
        if name == "__match_args__" {
            self.reflect(name, line);
        }
    }

    /// `type`, unless a function around has something else by this name.
    fn is_type_itself(&self, expr: &Expr) -> bool {
        let bound = || self.functions.iter().any(|own| own.has("type"));
        matches!(expr, Expr::Name(n) if n.id.as_str() == "type") && !bound()
    }

    fn made_up(&mut self, expr: &Expr) {
        if !self.raised && self.texts.may_be(expr, OPTION) {
            self.found.made_up.push(self.lines.of(expr));
        }
    }

    fn annotation(&mut self, expr: &'a Expr) {
        struct Strings<'t>(Vec<&'t str>);
        impl<'t> Visitor<'t> for Strings<'t> {
            fn visit_expr(&mut self, expr: &'t Expr) {
                match expr {
                    Expr::StringLiteral(s) => self.0.push(s.value.to_str()),
                    _ => walk_expr(self, expr),
                }
            }
        }
        let mut strings = Strings(Vec::new());
        strings.visit_expr(expr);
        let named = |text: &&str| {
            text.len() <= MAX_ANNOTATION && parse_expression(text.trim()).is_ok_and(|parsed| is_type(parsed.expr()))
        };
        // The words of `Literal` and the like are no code, and whoever evaluates them gets a name or an error.
        let harmless = |text: &&str| named(text) || !text.contains(['(', ':', '[', '{', '@', '`']);
        if !strings.0.iter().all(harmless) {
            self.found.evaluated.push(self.lines.of(expr));
        }
        if !is_type(expr) {
            self.visit_expr(expr);
        }
    }

    /// True when the call's callee needs no look of its own.
    fn call(&mut self, call: &'a ExprCall) -> bool {
        let line = self.lines.of(call);
        let args = &call.arguments;
        for keyword in args.keywords.iter().filter(|k| k.arg.is_none()) {
            let handed =
                matches!(&keyword.value, Expr::Name(n) if self.variadic.iter().flatten().any(|v| *v == n.id.as_str()));
            self.spreads |= !handed;
        }
        if let Expr::Attribute(a) = &*call.func
            && a.attr.id.as_str() == "format"
            && let Some(text) = self.texts.of(&a.value)
            && !looks_inside(&text)
        {
            self.visit_expr(&a.value);
            return true;
        }
        if self.is_type_itself(&call.func) {
            if args.args.len() != 1 || args.args[0].is_starred_expr() || !args.keywords.is_empty() {
                self.reflect("type as a maker of classes", line);
            }
            return true;
        }
        let filter = |p: &String| matches!(p.as_str(), "warnings.filterwarnings" | "warnings.simplefilter");
        if let Some(path) = self.aliases.resolve(&call.func).into_iter().find(filter) {
            let action = args.find_argument_value("action", 0).and_then(|action| self.texts.of(action));
            if !action.is_some_and(|action| matches!(action.as_str(), "ignore" | "default" | "once")) {
                self.found.filters.push(Mention { path, line });
            }
        }
        false
    }
}

impl<'a> Visitor<'a> for Walker<'a, '_> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        let line = self.lines.of(stmt);
        match stmt {
            Stmt::FunctionDef(f) => {
                self.special(f.name.id.as_str(), line);
                f.decorator_list.iter().for_each(|d| self.visit_decorator(d));
                self.visit_parameters(&f.parameters);
                if let Some(returns) = f.returns.as_deref() {
                    self.annotation(returns);
                }
                self.variadic.push(f.parameters.kwarg.as_ref().map(|p| p.name.id.as_str()));
                self.functions.push(Bindings::of_function(&f.parameters, &f.body));
                self.visit_body(&f.body);
                self.functions.pop();
                self.variadic.pop();
            }
            Stmt::ClassDef(c) => {
                self.special(c.name.id.as_str(), line);
                walk_stmt(self, stmt);
            }
            Stmt::Import(i) => {
                i.names.iter().filter_map(|n| n.asname.as_ref()).for_each(|n| self.special(n.id.as_str(), line));
            }
            Stmt::ImportFrom(i) => {
                i.names.iter().for_each(|n| self.special(n.asname.as_ref().unwrap_or(&n.name).id.as_str(), line));
            }
            Stmt::Raise(_) | Stmt::Assert(_) => {
                let around = std::mem::replace(&mut self.raised, true);
                walk_stmt(self, stmt);
                self.raised = around;
            }
            _ => walk_stmt(self, stmt),
        }
    }

    fn visit_annotation(&mut self, expr: &'a Expr) {
        self.annotation(expr);
    }

    fn visit_parameters(&mut self, parameters: &'a Parameters) {
        walk_parameters(self, parameters);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        let line = self.lines.of(expr);
        match expr {
            Expr::Name(n) if n.ctx.is_store() => self.special(n.id.as_str(), line),
            Expr::Name(_) if self.is_type_itself(expr) => self.reflect("type as a value", line),
            Expr::Attribute(a) if matches!(a.attr.id.as_str(), "format" | "format_map") => {
                self.reflect("a format text that looks into its values", line);
            }
            Expr::Call(c) => {
                self.made_up(expr);
                if self.call(c) {
                    return self.visit_arguments(&c.arguments);
                }
                let asked = matches!(&*c.func, Expr::Name(n) if matches!(n.id.as_str(), "isinstance" | "issubclass"));
                if asked && c.arguments.args.len() == 2 && self.is_type_itself(&c.arguments.args[1]) {
                    return self.visit_expr(&c.arguments.args[0]);
                }
            }
            Expr::BinOp(_) | Expr::FString(_) | Expr::StringLiteral(_) => self.made_up(expr),
            Expr::Subscript(s) => {
                self.made_up(expr);
                if self.is_type_itself(&s.value) {
                    return self.visit_expr(&s.slice);
                }
            }
            _ => {}
        }
        walk_expr(self, expr);
    }

    fn visit_pattern(&mut self, pattern: &'a Pattern) {
        if let Pattern::MatchClass(p) = pattern {
            let own = matches!(&*p.cls, Expr::Name(n) if self.file.is_own(n.id.as_str()));
            let line = self.lines.of(pattern);
            for keyword in &p.arguments.keywords {
                let name = keyword.attr.id.as_str();
                if !own || name.starts_with('_') {
                    self.reflect(format!("{name} in a class pattern"), line);
                }
            }
        }
        walk_pattern(self, pattern);
    }
}

#[cfg(test)]
mod tests {
    use super::looks_inside;

    #[test]
    fn fields_with_dots_look_inside() {
        for plain in ["{} {0} {name!r:>{width}}", "{{0.x}}", "a.b [c]", "{:.3f}"] {
            assert!(!looks_inside(plain), "{plain}");
        }
        for deep in ["{0.os}", "{x[0]}", "a {0.__class__!r}", "{:{0.a}}"] {
            assert!(looks_inside(deep), "{deep}");
        }
    }
}
