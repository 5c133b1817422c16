//! A program without its comments and docstrings: what the judge may read of a candidate. Words for a reader are where a
//! candidate talks its judge over; what the machine executes stays as it is.
//!
//! Cuts are made by the tokens and the syntax tree. Every statement that is nothing but text goes, wherever it stands,
//! not only the docstrings in first place. Texts that are values stay: they are code.

use ruff_python_ast::token::TokenKind;
use ruff_python_ast::visitor::{Visitor, walk_body};
use ruff_python_ast::{Expr, FStringPart, InterpolatedStringElement, Stmt};
use ruff_text_size::Ranged;

use crate::lint::syntax;

/// A stripped program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stripped {
    pub text: String,
    /// For each line of `text`, the 1-based line it was.
    lines: Vec<u32>,
}

impl Stripped {
    /// Lines with the numbers they had.
    pub fn lines(&self) -> impl Iterator<Item = (u32, &str)> {
        self.lines.iter().copied().zip(self.text.lines())
    }
}

/// The text is not Python, or what is left of it is not. Candidates that come this far are Python, so it is our fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StripError {
    #[error("the candidate is not Python: {0}")]
    Source(syntax::SyntaxProblem),
    #[error("stripping broke the candidate: {0}")]
    Result(String),
}

/// One cut: this range of bytes becomes `instead`.
struct Cut {
    start: usize,
    end: usize,
    instead: &'static str,
}

/// Takes comments and docstrings out of a candidate's canonical source.
///
/// # Errors
/// `StripError`.
pub fn strip(source: &str) -> Result<Stripped, StripError> {
    let parsed = syntax::parse(source).map_err(StripError::Source)?;
    let mut finder = Finder { source, cuts: Vec::new() };
    finder.visit_body(&parsed.syntax().body);
    let mut cuts = finder.cuts;
    for token in parsed.tokens().iter().filter(|t| t.kind() == TokenKind::Comment) {
        cuts.push(comment(source, token.start().to_usize(), token.end().to_usize()));
    }
    // A statement's cut comes before that of a comment within it, which is then skipped.
    cuts.sort_by_key(|cut| (cut.start, std::cmp::Reverse(cut.end)));
    let stripped = apply(source, &cuts);
    let again = syntax::parse(&stripped.text).map_err(|e| StripError::Result(e.to_string()))?;
    if again.tokens().iter().any(|t| t.kind() == TokenKind::Comment) {
        return Err(StripError::Result("a comment is left".into()));
    }
    Ok(stripped)
}

/// Collects statements that are nothing but text.
struct Finder<'a> {
    source: &'a str,
    cuts: Vec<Cut>,
}

impl<'a> Visitor<'a> for Finder<'_> {
    fn visit_body(&mut self, body: &'a [Stmt]) {
        let mut empty = body.iter().all(is_text);
        for stmt in body.iter().filter(|s| is_text(s)) {
            let (start, end) = (stmt.start().to_usize(), stmt.end().to_usize());
            let (from, to) = line_around(self.source, start, end);
            let alone = blank(&self.source[from..start]) && {
                let after = self.source[end..to].trim_start();
                after.is_empty() || after.starts_with('#')
            };
            // A block needs a statement, and so does a line that goes on after a semicolon.
            self.cuts.push(if alone && !empty {
                Cut { start: from, end: to, instead: "" }
            } else {
                Cut { start, end, instead: "pass" }
            });
            empty = false;
        }
        walk_body(self, body);
    }
}

/// Text that nobody reads: a statement of literals without anything to compute.
fn is_text(stmt: &Stmt) -> bool {
    matches!(stmt, Stmt::Expr(s) if inert(&s.value))
}

fn inert(expr: &Expr) -> bool {
    match expr {
        Expr::StringLiteral(_) | Expr::BytesLiteral(_) => true,
        Expr::FString(f) => f.value.iter().all(|part| match part {
            FStringPart::Literal(_) => true,
            FStringPart::FString(f) => f.elements.iter().all(|e| matches!(e, InterpolatedStringElement::Literal(_))),
        }),
        Expr::Tuple(t) => t.elts.iter().all(inert),
        Expr::List(l) => l.elts.iter().all(inert),
        Expr::Set(s) => s.elts.iter().all(inert),
        Expr::Dict(d) => d.items.iter().all(|item| item.key.as_ref().is_some_and(inert) && inert(&item.value)),
        _ => false,
    }
}

/// A comment alone on its line takes the line along, unless a backslash before it makes the line end part of the code.
fn comment(source: &str, start: usize, end: usize) -> Cut {
    let (from, to) = line_around(source, start, end);
    if blank(&source[from..start]) && !source[..from].ends_with("\\\n") {
        return Cut { start: from, end: to, instead: "" };
    }
    Cut { start: source[..start].trim_end_matches([' ', '\t']).len().max(from), end, instead: "" }
}

/// From the start of the line of `start` to behind the end of the line of `end`.
fn line_around(source: &str, start: usize, end: usize) -> (usize, usize) {
    let from = source[..start].rfind('\n').map_or(0, |at| at + 1);
    let to = source[end..].find('\n').map_or(source.len(), |at| end + at + 1);
    (from, to)
}

fn blank(text: &str) -> bool {
    text.chars().all(|c| matches!(c, ' ' | '\t' | '\x0c'))
}

fn apply(source: &str, cuts: &[Cut]) -> Stripped {
    let mut out = Stripped { text: String::with_capacity(source.len()), lines: Vec::new() };
    let (mut at, mut line) = (0, 1);
    for cut in cuts {
        if cut.end <= at {
            continue;
        }
        keep(&mut out, &source[at..cut.start.max(at)], &mut line);
        keep(&mut out, cut.instead, &mut line.clone());
        line += source[cut.start.max(at)..cut.end].matches('\n').count() as u32;
        at = cut.end;
    }
    keep(&mut out, &source[at..], &mut line);
    out
}

/// Appends text that begins on `line`.
fn keep(out: &mut Stripped, text: &str, line: &mut u32) {
    for piece in text.split_inclusive('\n') {
        if out.text.is_empty() || out.text.ends_with('\n') {
            out.lines.push(*line);
        }
        out.text.push_str(piece);
        *line += u32::from(piece.ends_with('\n'));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(source: &str) -> String {
        strip(source).unwrap_or_else(|e| panic!("{e}\n{source}")).text
    }

    /// Planted: only the first statement of a body is looked at. Seen: `"also a note"` is left.
    #[test]
    fn comments_and_texts_go_and_code_stays() {
        let source = "#!/usr/bin/env python\n\"\"\"certified\nby me\"\"\"\nimport torch  # yes\n\n\nclass A:\n    \
                      \"doc\"\n    # inner\n    x = '# not a comment'\n    \"also a note\"\n    f\"and this\"\n    \
                      (\"one\",  # c\n     \"two\")\n\n    def f(self):\n        r'''only'''\n\n    def g(self): 'g'\n";
        let wanted = "import torch\n\n\nclass A:\n    x = '# not a comment'\n\n    def f(self):\n        pass\n\n    \
                      def g(self): pass\n";
        assert_eq!(text(source), wanted);
        assert_eq!(text(wanted), wanted, "nothing left to take");
        assert_eq!(text("\"a\"; x = 1\n"), "pass; x = 1\n");
        assert_eq!(text("\"\"\"a\"\"\" # b\n'c'\n"), "pass\n");
        // What computes is code, whatever it looks like.
        for code in ["f\"{launch()}\"\n", "'a'.join(x)\n", "x = 'a'\n", "'a' + y\n", "f(\"\"\"\n# in a text\n\"\"\")\n"]
        {
            assert_eq!(text(code), code);
        }
    }

    /// Planted: the whole line goes after a backslash too. Seen: "stripping broke the candidate".
    #[test]
    fn a_line_that_is_continued_keeps_its_end() {
        assert_eq!(text("x = 1 \\\n  # note\ny = 2\n"), "x = 1 \\\n\ny = 2\n");
        assert_eq!(text("f(\n    1,  # one\n    # two\n    2,\n)\n"), "f(\n    1,\n    2,\n)\n");
    }

    #[test]
    fn lines_keep_their_numbers() {
        let stripped = strip("# a\n\nx = '''\n# kept\n'''  # b\n# c\ny = 1\n'd'; z = 2\n").unwrap();
        let lines: Vec<(u32, &str)> = stripped.lines().collect();
        assert_eq!(lines, [(2, ""), (3, "x = '''"), (4, "# kept"), (5, "'''"), (7, "y = 1"), (8, "pass; z = 2")]);
    }

    #[test]
    fn what_is_not_python_is_an_error() {
        assert!(matches!(strip("def f(:\n"), Err(StripError::Source(_))));
    }
}
