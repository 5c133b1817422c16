//! Answer -> the one candidate everybody downstream works on. Two readers of one answer must never see two programs.
//!
//! Decisions, each tested below:
//! - only text after the last `</think>` counts; an answer without the delimiter is an error of its own;
//! - fences follow CommonMark: a line of at most three spaces and at least three backticks opens, with the info string
//!   behind it; a line of at least as many backticks and nothing else closes. So a line of bare backticks inside a
//!   Python string ends the block, a longer outer fence may hold shorter ones, and a fence inside a block of another
//!   language is that block's text;
//! - a block is Python when the info string's first word is `python`, `py` or `python3`, in any case;
//! - the candidate is the last Python block, even if an earlier one looks better; if two define `ModelNew` the answer is
//!   ambiguous and fails;
//! - an unterminated fence of any language fails, since it may have swallowed the rest.

use sha2::{Digest as _, Sha256};

use rollout::id::Digest;
use rollout::outcome::Candidate;

use crate::lint::syntax;

/// The end of the plan.
pub const DELIMITER: &str = "</think>";

/// Longest candidate in bytes; an honest kernel file is a hundredth of it.
pub const MAX_SOURCE_BYTES: usize = 256 * 1024;

/// Why an answer holds no single candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtractError {
    #[error("no `</think>`: the plan has no end")]
    NoDelimiter,
    #[error("no Python code block after the last `</think>`")]
    NoBlock,
    #[error("the code block that opens on line {line} of the answer is never closed")]
    Unterminated { line: u32 },
    #[error("{blocks} code blocks define ModelNew")]
    Ambiguous { blocks: u32 },
    #[error("the last Python code block is empty")]
    Empty,
    #[error("the candidate has {bytes} bytes, the limit is {MAX_SOURCE_BYTES}")]
    TooLong { bytes: usize },
}

/// True when the answer has a plan delimiter.
pub fn has_delimiter(answer: &str) -> bool {
    answer.contains(DELIMITER)
}

/// The single candidate of a model's raw answer.
///
/// # Errors
/// `ExtractError`, see the decisions above.
pub fn extract(answer: &str) -> Result<Candidate, ExtractError> {
    let start = answer.rfind(DELIMITER).ok_or(ExtractError::NoDelimiter)? + DELIMITER.len();
    let first_line = answer[..start].matches('\n').count() as u32 + 1;
    let text = newlines(&answer[start..]);
    let blocks = python_blocks(&text, first_line)?;
    let last = blocks.last().ok_or(ExtractError::NoBlock)?;
    if blocks.len() > 1 {
        let defining = blocks.iter().filter(|b| syntax::defines_model_new(b)).count() as u32;
        if defining > 1 {
            return Err(ExtractError::Ambiguous { blocks: defining });
        }
    }
    canonical(last)
}

/// The candidate of a Python file given directly: the whole text.
///
/// # Errors
/// `Empty` or `TooLong`.
pub fn from_python(source: &str) -> Result<Candidate, ExtractError> {
    canonical(&newlines(source))
}

/// Canonical text: `\n` line ends, no byte-order mark, no blank lines around, one newline at the end.
fn canonical(text: &str) -> Result<Candidate, ExtractError> {
    let mut text = text;
    // Byte-order marks and blank lines in any order, so that canonical text is a fixed point.
    loop {
        let rest = text.trim_start_matches('\u{feff}');
        let first = rest.split('\n').next().unwrap_or_default();
        let blank = first.trim().is_empty() && first.len() < rest.len();
        let rest = if blank { &rest[first.len() + 1..] } else { rest };
        if rest.len() == text.len() {
            break;
        }
        text = rest;
    }
    let mut lines: Vec<&str> = text.split('\n').collect();
    while lines.last().is_some_and(|l| l.trim().is_empty()) {
        lines.pop();
    }
    if lines.is_empty() {
        return Err(ExtractError::Empty);
    }
    let mut source = lines.join("\n");
    source.push('\n');
    if source.len() > MAX_SOURCE_BYTES {
        return Err(ExtractError::TooLong { bytes: source.len() });
    }
    let digest = digest(source.as_bytes());
    Ok(Candidate { source, digest })
}

/// SHA-256 in lower-case hex.
pub fn digest(bytes: &[u8]) -> Digest {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        for nibble in [byte >> 4, byte & 15] {
            hex.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    Digest(hex)
}

/// `\r\n` and lone `\r` become `\n`, as Python's own universal newlines do.
fn newlines(text: &str) -> String {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text.to_owned() }
}

struct Fence<'a> {
    ticks: usize,
    python: bool,
    line: u32,
    body: Vec<&'a str>,
}

/// Bodies of all closed Python blocks, in order.
fn python_blocks(text: &str, first_line: u32) -> Result<Vec<String>, ExtractError> {
    let mut blocks = Vec::new();
    let mut open: Option<Fence<'_>> = None;
    for (index, line) in text.split('\n').enumerate() {
        let (ticks, info) = fence_line(line);
        match &mut open {
            Some(fence) if ticks >= fence.ticks && info.is_empty() => {
                if fence.python {
                    blocks.push(fence.body.join("\n"));
                }
                open = None;
            }
            Some(fence) => fence.body.push(line),
            // An info string with a backtick is inline code, not a fence.
            None if ticks >= 3 && !info.contains('`') => {
                let word = info.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
                let python = matches!(word.as_str(), "python" | "py" | "python3");
                open = Some(Fence { ticks, python, line: first_line + index as u32, body: Vec::new() });
            }
            None => {}
        }
    }
    match open {
        Some(fence) => Err(ExtractError::Unterminated { line: fence.line }),
        None => Ok(blocks),
    }
}

/// Leading backticks of a line (after at most three spaces) and the trimmed rest; 0 when there are none.
fn fence_line(line: &str) -> (usize, &str) {
    let rest = line.trim_start_matches(' ');
    if line.len() - rest.len() > 3 {
        return (0, rest);
    }
    let info = rest.trim_start_matches('`');
    (rest.len() - info.len(), info.trim())
}
