//! Texts that are constants although they are put together: sums, joins, replacements, f-strings of constants.

use std::collections::HashMap;

use ruff_python_ast::visitor::{Visitor, walk_stmt};
use ruff_python_ast::{Expr, ExprCall, FStringPart, InterpolatedStringElement, Operator, Stmt};

use super::bindings::Bindings;

/// Longest text that is put together.
const MAX_TEXT: usize = 4096;
/// Deepest expression that is looked at.
const MAX_DEPTH: u32 = 64;

/// Names that stand for one constant text.
#[derive(Default)]
pub(super) struct Texts<'a>(HashMap<&'a str, String>);

impl<'a> Texts<'a> {
    /// Of the assignments of a file to names that are bound once.
    pub(super) fn of_file(body: &'a [Stmt], file: &Bindings<'a>) -> Self {
        struct Assigned<'a, 'f>(Texts<'a>, &'f Bindings<'a>);
        impl<'a> Visitor<'a> for Assigned<'a, '_> {
            fn visit_stmt(&mut self, stmt: &'a Stmt) {
                self.0.add(stmt, self.1);
                walk_stmt(self, stmt);
            }
            fn visit_expr(&mut self, _expr: &'a Expr) {}
        }
        let mut assigned = Assigned(Texts::default(), file);
        assigned.visit_body(body);
        assigned.0
    }

    fn add(&mut self, stmt: &'a Stmt, file: &Bindings<'a>) {
        let (target, value) = match stmt {
            Stmt::Assign(a) if a.targets.len() == 1 => (&a.targets[0], &*a.value),
            Stmt::AnnAssign(a) => match a.value.as_deref() {
                Some(value) => (&*a.target, value),
                None => return,
            },
            _ => return,
        };
        if let Expr::Name(n) = target
            && file.counts.get(n.id.as_str()) == Some(&1)
            && let Some(text) = self.of(value)
        {
            self.0.insert(n.id.as_str(), text);
        }
    }

    /// The text an expression stands for, if that is known.
    pub(super) fn of(&self, expr: &Expr) -> Option<String> {
        self.fold(expr, 0).filter(|text| text.len() <= MAX_TEXT)
    }

    fn fold(&self, expr: &Expr, depth: u32) -> Option<String> {
        if depth > MAX_DEPTH {
            return None;
        }
        let fold = |e: &Expr| self.fold(e, depth + 1).filter(|text| text.len() <= MAX_TEXT);
        match expr {
            Expr::StringLiteral(s) => Some(s.value.to_str().to_owned()),
            Expr::Name(n) => self.0.get(n.id.as_str()).cloned(),
            Expr::BinOp(b) if b.op == Operator::Add => Some(fold(&b.left)? + &fold(&b.right)?),
            Expr::FString(f) => {
                let mut text = String::new();
                for part in &f.value {
                    match part {
                        FStringPart::Literal(literal) => text.push_str(literal.as_str()),
                        FStringPart::FString(f) => {
                            for element in &f.elements {
                                match element {
                                    InterpolatedStringElement::Literal(literal) => text.push_str(&literal.value),
                                    InterpolatedStringElement::Interpolation(i) if i.format_spec.is_none() => {
                                        text.push_str(&fold(&i.expression)?);
                                    }
                                    InterpolatedStringElement::Interpolation(_) => return None,
                                }
                                if text.len() > MAX_TEXT {
                                    return None;
                                }
                            }
                        }
                    }
                }
                Some(text)
            }
            Expr::Call(c) => self.call(c, depth),
            _ => None,
        }
    }

    fn call(&self, call: &ExprCall, depth: u32) -> Option<String> {
        let fold = |e: &Expr| self.fold(e, depth + 1).filter(|text| text.len() <= MAX_TEXT);
        let args = &*call.arguments.args;
        let Expr::Attribute(a) = &*call.func else {
            return None;
        };
        match (a.attr.id.as_str(), args) {
            // `tl.constexpr("..")`
            ("constexpr", [text]) => fold(text),
            ("join", [Expr::List(l)]) => joined(&fold(&a.value)?, l.elts.iter().map(fold)),
            ("join", [Expr::Tuple(t)]) => joined(&fold(&a.value)?, t.elts.iter().map(fold)),
            ("replace", [from, to]) => {
                let (text, from, to) = (fold(&a.value)?, fold(from)?, fold(to)?);
                let fits = !from.is_empty() && text.matches(&from).count() * to.len() <= MAX_TEXT;
                fits.then(|| text.replace(&from, &to))
            }
            ("lower" | "casefold", []) => Some(fold(&a.value)?.to_lowercase()),
            ("upper", []) => Some(fold(&a.value)?.to_uppercase()),
            ("strip", []) => Some(fold(&a.value)?.trim().to_owned()),
            _ => None,
        }
    }

    /// Can this be `word`, put together so that nobody can read it here?
    pub(super) fn may_be(&self, expr: &Expr, word: &str) -> bool {
        let letters = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
        if let Expr::StringLiteral(s) = expr {
            let text = s.value.to_str();
            return text.len() < 2 * word.len() && letters(text) == letters(word);
        }
        let part = |e: &Expr| self.of(e).is_none_or(|text| word.contains(&text));
        let possible = match expr {
            Expr::BinOp(b) if b.op == Operator::Add => {
                let known = [&b.left, &b.right].map(|side| self.of(side));
                known.iter().flatten().any(|text| !text.is_empty() && word.contains(text.as_str()))
            }
            Expr::BinOp(b) if b.op == Operator::Mod => {
                self.of(&b.left).is_some_and(|text| text.split('%').next().is_some_and(|start| word.starts_with(start)))
            }
            Expr::FString(f) => f.value.elements().filter_map(|e| e.as_literal()).all(|l| word.contains(&*l.value)),
            Expr::Subscript(s) => s.slice.is_slice_expr() && self.of(&s.value).is_some(),
            Expr::Call(c) => match &*c.func {
                Expr::Name(n) => n.id.as_str() == "chr",
                Expr::Attribute(a) => match a.attr.id.as_str() {
                    "decode" | "translate" => true,
                    "join" => part(&a.value),
                    "replace" => c.arguments.args.get(1).is_some_and(part),
                    _ => false,
                },
                _ => false,
            },
            _ => false,
        };
        possible && self.of(expr).is_none_or(|text| text == word)
    }
}

fn joined(between: &str, parts: impl Iterator<Item = Option<String>>) -> Option<String> {
    let mut text = String::new();
    for (index, part) in parts.enumerate() {
        if index > 0 {
            text.push_str(between);
        }
        text.push_str(&part?);
        if text.len() > MAX_TEXT {
            return None;
        }
    }
    Some(text)
}
