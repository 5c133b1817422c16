//! Text -> syntax tree, with limits checked before the parser runs: nothing a candidate contains may overflow the stack.
//!
//! The parser, the drop of its tree and every walk over it recurse, so depth is bounded beforehand on the token stream:
//! `MAX_BRACKETS` and `MAX_INDENTS` are CPython's own limits, `MAX_CHAIN` bounds how many operators, attributes, calls,
//! subscripts and lambdas one expression can pile up between two commas (each adds at most two levels to the tree).

use ruff_python_ast::token::TokenKind;
use ruff_python_ast::visitor::{Visitor, walk_stmt};
use ruff_python_ast::{Expr, ModModule, Stmt};
use ruff_python_parser::{Mode, Parsed, lexer, parse_module};

use crate::extract::MAX_SOURCE_BYTES;

/// Nested brackets, CPython's limit.
const MAX_BRACKETS: usize = 200;
/// Nested blocks, CPython's limit.
const MAX_INDENTS: usize = 100;
/// Depth of one statement's expression tree, estimated from above.
const MAX_CHAIN: usize = 400;

/// Why a text is not Python for us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxProblem {
    /// 1-based, 0 for the whole file.
    pub line: u32,
    pub message: String,
}

/// Parses a module.
///
/// # Errors
/// Too long or too deep, a NUL, a coding declaration other than UTF-8, or the parser's first error.
pub fn parse(source: &str) -> Result<Parsed<ModModule>, SyntaxProblem> {
    if source.len() > MAX_SOURCE_BYTES {
        let message = format!("{} bytes, the limit is {MAX_SOURCE_BYTES}", source.len());
        return Err(SyntaxProblem { line: 0, message });
    }
    if let Some(at) = source.find('\0') {
        return Err(SyntaxProblem { line: line_at(source, at), message: "a NUL character".to_owned() });
    }
    if let Some(problem) = foreign_coding(source) {
        return Err(problem);
    }
    check_depth(source)?;
    parse_module(source).map_err(|error| SyntaxProblem {
        line: line_at(source, error.location.start().to_usize()),
        message: error.error.to_string(),
    })
}

/// 1-based line of a byte offset.
fn line_at(source: &str, offset: usize) -> u32 {
    source.as_bytes()[..offset.min(source.len())].iter().filter(|b| **b == b'\n').count() as u32 + 1
}

/// A coding cookie (PEP 263) would make Python read another program than we do.
fn foreign_coding(source: &str) -> Option<SyntaxProblem> {
    for (index, line) in source.lines().take(2).enumerate() {
        let Some(comment) = line.trim_start_matches([' ', '\t', '\x0c']).strip_prefix('#') else {
            continue;
        };
        let Some(at) = comment.find("coding") else {
            continue;
        };
        let rest = &comment[at + "coding".len()..];
        let Some(rest) = rest.strip_prefix([':', '=']) else {
            continue;
        };
        let name: String = rest
            .trim_start_matches([' ', '\t'])
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
            .collect();
        let plain = name.to_ascii_lowercase().replace('_', "-");
        if !name.is_empty() && plain != "utf-8" && plain != "utf8" {
            let message = format!("the coding declaration '{name}' makes the file another program; only UTF-8 is read");
            return Some(SyntaxProblem { line: index as u32 + 1, message });
        }
    }
    None
}

/// Bounds the depth of the tree from its tokens, without recursion.
fn check_depth(source: &str) -> Result<(), SyntaxProblem> {
    let mut lexer = lexer::lex(source, Mode::Module);
    // Depth at the opening of each bracket and since; the last entry belongs to the innermost bracket.
    let mut open: Vec<(usize, usize)> = Vec::new();
    let (mut base, mut depth, mut indents) = (0usize, 0usize, 0usize);
    // Exact but for line breaks inside strings.
    let mut line = 1;
    loop {
        let kind = lexer.next_token();
        line += u32::from(matches!(kind, TokenKind::Newline | TokenKind::NonLogicalNewline));
        match kind {
            TokenKind::EndOfFile => return Ok(()),
            TokenKind::Indent => indents += 1,
            TokenKind::Dedent => indents = indents.saturating_sub(1),
            TokenKind::Newline => {
                open.clear();
                (base, depth) = (0, 0);
            }
            TokenKind::Lpar
            | TokenKind::Lsqb
            | TokenKind::Lbrace
            | TokenKind::FStringStart
            | TokenKind::TStringStart => {
                depth += 1;
                open.push((base, depth));
                base = depth;
            }
            TokenKind::Rpar | TokenKind::Rsqb | TokenKind::Rbrace | TokenKind::FStringEnd | TokenKind::TStringEnd => {
                if let Some((outer, at)) = open.pop() {
                    (base, depth) = (outer, at);
                }
            }
            TokenKind::Comma | TokenKind::Semi => depth = base,
            // A comma may stand among a lambda's parameters and does not end it.
            TokenKind::Lambda => {
                depth += 1;
                base += 1;
            }
            TokenKind::Name
            | TokenKind::Int
            | TokenKind::Float
            | TokenKind::Complex
            | TokenKind::String
            | TokenKind::Comment
            | TokenKind::NonLogicalNewline
            | TokenKind::FStringMiddle
            | TokenKind::TStringMiddle => {}
            _ => depth += 1,
        }
        let too = if open.len() > MAX_BRACKETS {
            Some("brackets nested too deeply")
        } else if indents > MAX_INDENTS {
            Some("blocks nested too deeply")
        } else if depth > MAX_CHAIN {
            Some("an expression that is too deep")
        } else {
            None
        };
        if let Some(what) = too {
            // A lone carriage return is a line to Python, not to us.
            let last = line_at(source, source.len());
            return Err(SyntaxProblem { line: line.min(last), message: what.to_owned() });
        }
    }
}

/// True when the text binds the name `ModelNew` by a class statement, an assignment or an import, at any depth. A text
/// that does not parse is searched line by line.
pub fn defines_model_new(source: &str) -> bool {
    match parse(source) {
        Ok(parsed) => {
            let mut finder = Finder(false);
            finder.visit_body(&parsed.syntax().body);
            finder.0
        }
        Err(_) => source.lines().any(|l| {
            let rest = l.trim_start().strip_prefix("class").map(str::trim_start);
            rest.is_some_and(|r| r.starts_with("ModelNew"))
        }),
    }
}

struct Finder(bool);

impl<'a> Visitor<'a> for Finder {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        let is_it = |e: &Expr| matches!(e, Expr::Name(n) if n.id.as_str() == "ModelNew");
        self.0 |= match stmt {
            Stmt::ClassDef(c) => c.name.id.as_str() == "ModelNew",
            Stmt::Assign(a) => a.targets.iter().any(is_it),
            Stmt::AnnAssign(a) => is_it(&a.target),
            Stmt::ImportFrom(i) => {
                i.names.iter().any(|n| n.asname.as_ref().unwrap_or(&n.name).id.as_str() == "ModelNew")
            }
            _ => false,
        };
        walk_stmt(self, stmt);
    }
}

/// Byte offsets of line starts, to name lines in findings.
#[derive(Debug)]
pub struct Lines(Vec<u32>);

impl Lines {
    /// Indexes a text.
    pub fn new(source: &str) -> Self {
        let mut starts = vec![0];
        starts.extend(source.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i as u32 + 1));
        Lines(starts)
    }

    /// 1-based line on which a node starts.
    pub fn of(&self, node: &impl ruff_text_size::Ranged) -> u32 {
        let offset = node.range().start().to_u32();
        self.0.partition_point(|start| *start <= offset) as u32
    }
}
