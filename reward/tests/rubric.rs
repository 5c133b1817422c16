//! Stripping over everything at hand: tasks, honest programs and cheats lose their words and none of their code.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use reward::lint::syntax;
use reward::rubric::strip;
use ruff_python_ast::token::TokenKind;
use ruff_text_size::Ranged;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "py") {
            found.push(path);
        }
    }
}

/// Tokens that are code, with their texts.
fn code(source: &str) -> Vec<(TokenKind, String)> {
    let parsed = syntax::parse(source).unwrap();
    let layout = |k: TokenKind| matches!(k, TokenKind::Comment | TokenKind::NonLogicalNewline);
    let tokens = parsed.tokens().iter().filter(|t| !layout(t.kind()));
    // An indent's text may hold the comment lines before it.
    let text = |t: &ruff_python_ast::token::Token| source[t.range()].trim().to_string();
    tokens.map(|t| (t.kind(), if t.kind() == TokenKind::Indent { String::new() } else { text(t) })).collect()
}

/// What a statement that is nothing but text is made of.
fn may_go(kind: TokenKind) -> bool {
    use TokenKind::{Comma, FStringEnd, FStringMiddle, FStringStart, Lpar, Newline, Rpar, String};
    matches!(kind, String | FStringStart | FStringMiddle | FStringEnd | Newline | Lpar | Rpar | Comma)
}

/// Planted: a comment's cut takes the line end along. Seen: an accepted fixture is no Python any more.
#[test]
fn everything_at_hand_keeps_its_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("tests/fixtures"), &mut files);
    sources(&root.join("../tasks"), &mut files);
    sources(&root.join("../sandbox/python"), &mut files);
    let (mut looked_at, mut changed) = (0, 0);
    for path in files {
        let source = std::fs::read_to_string(&path).unwrap();
        if syntax::parse(&source).is_err() {
            continue;
        }
        let stripped = strip(&source).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (before, after) = (code(&source), code(&stripped.text));
        let mut rest = after.iter().peekable();
        for token in &before {
            if rest.peek() == Some(&token) {
                rest.next();
            } else if rest.peek().is_some_and(|t| t.0 == TokenKind::Pass) {
                rest.next();
                assert!(may_go(token.0), "{}: {token:?} is gone", path.display());
            } else {
                assert!(may_go(token.0), "{}: {token:?} is gone", path.display());
            }
        }
        assert_eq!(rest.next(), None, "{}: something was added", path.display());
        assert_eq!(strip(&stripped.text).unwrap().text, stripped.text, "{}", path.display());
        for (number, line) in stripped.lines() {
            let was = source.lines().nth(number as usize - 1).unwrap_or_default();
            let same = was.trim().starts_with(line.trim()) || line.contains("pass");
            assert!(same, "{}: line {number} was '{was}' and is '{line}'", path.display());
        }
        looked_at += 1;
        changed += u32::from(stripped.text != source);
    }
    assert!(looked_at > 200 && changed > 20, "{looked_at} files, {changed} of them changed");
}
