//! The end of an answer by its text: the line that closes its Python block, where that is asked for.
//!
//! What a block is, `reward::extract` defines (fences of CommonMark, only text after the last `</think>`); this is the same read
//! byte by byte, so that generation can stop there. The answer ends with the first token that completes the closing line.

use std::sync::Arc;

use crate::Tokenizer;

const DELIMITER: &[u8] = b"</think>";

/// Whether, and by which tokens' text, answers end at a closed block. The default: they do not.
#[derive(Clone, Debug, Default)]
pub struct StopRule {
    code: Option<Arc<Tokenizer>>,
}

impl StopRule {
    /// Answers end where their first Python block after the plan is closed. Their text has no end-of-sequence token then: not for
    /// training that teaches the policy to end its answers itself.
    pub fn closed_code(tokenizer: Arc<Tokenizer>) -> Self {
        Self { code: Some(tokenizer) }
    }

    /// True where `token` ends the answer that `scanner` has read so far.
    pub fn ends(&self, scanner: &mut Scanner, token: u32) -> bool {
        self.code.as_ref().is_some_and(|tokenizer| scanner.feed(tokenizer.token_bytes(token)))
    }
}

/// What has been read of one answer.
#[derive(Clone, Debug, Default)]
pub struct Scanner {
    /// Bytes of `</think>` matched; it begins with the only `<` in it.
    matched: usize,
    planned: bool,
    line: Vec<u8>,
    /// Ticks of the fence that is open, and whether it is Python's.
    open: Option<(usize, bool)>,
}

/// Of a line only the start matters to a fence.
const LONGEST: usize = 256;

impl Scanner {
    /// Reads on; true once a Python block after the plan is closed (the rest of `bytes` is not read).
    pub fn feed(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            self.matched = match byte {
                b if *b == DELIMITER[self.matched] => self.matched + 1,
                b'<' => 1,
                _ => 0,
            };
            if self.matched == DELIMITER.len() {
                // Text after the last delimiter counts; what was open is not.
                *self = Self { planned: true, ..Self::default() };
                continue;
            }
            match byte {
                b'\n' | b'\r' => {
                    let closed = self.planned && self.end_of_line();
                    self.line.clear();
                    if closed {
                        return true;
                    }
                }
                // One past the longest marks a line that goes on.
                _ if self.line.len() <= LONGEST => self.line.push(*byte),
                _ => {}
            }
        }
        false
    }

    fn end_of_line(&mut self) -> bool {
        let indent = self.line.iter().take_while(|b| **b == b' ').count();
        let rest = &self.line[indent..];
        let ticks = rest.iter().take_while(|b| **b == b'`').count();
        if indent > 3 || ticks < 3 {
            return false;
        }
        let info = String::from_utf8_lossy(&rest[ticks..]).trim().to_ascii_lowercase();
        match self.open {
            Some((opened, python)) if ticks >= opened && info.is_empty() => {
                self.open = None;
                python
            }
            Some(_) => false,
            // An info string with a backtick is code within a line.
            None if info.contains('`') => false,
            None => {
                let word = info.split_whitespace().next().unwrap_or_default();
                self.open = Some((ticks, matches!(word, "python" | "py" | "python3")));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes read when the scanner says stop; by one, two, .. bytes at a time it must say so within the same piece.
    fn stops(text: &str) -> Option<usize> {
        let at = |size: usize| {
            let mut scanner = Scanner::default();
            text.as_bytes().chunks(size).position(|piece| scanner.feed(piece)).map(|n| n * size)
        };
        let exact = at(1);
        for size in 2..9 {
            assert_eq!(at(size), exact.map(|n| n / size * size), "{text:?} in pieces of {size}");
        }
        exact.map(|n| n + 1)
    }

    #[test]
    fn an_answer_ends_with_the_line_that_closes_its_python_block() {
        let cases = [
            ("p</think>\n```python\nx = 1\n```\n", " and more"),
            ("p</think>```py\r\nx\r\n````  \r", "\n"),
            ("```python\nplan\n```\n</think>\n```text\n```python\n```\n   ```Python3 title\nx\n```\n", "more"),
            ("a</think>b\n~\n</think>\n````python\n```\nx\n`````\n", "\n"),
        ];
        for (until, after) in cases {
            assert_eq!(stops(&format!("{until}{after}")), Some(until.len()), "{until:?}");
        }
        let never = [
            "```python\nx\n```\n",
            "p</think>\n```python\nx\n``` \u{e9}\n",
            "p</think>\n```python\nx\n    ```\n",
            "p</think>\n```python\nx\n```",
            "p</think>\n```cuda\nx\n```\n",
            "p</think>\n``` `python`\nx\n```\n",
            "p</think>\n```python\nx\n</think>\n```\nx\n",
        ];
        for text in never {
            assert_eq!(stops(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_rule_ends_an_answer_with_the_token_that_completes_the_line() -> Result<(), crate::ModelError> {
        let tokenizer = Arc::new(crate::train_bpe(&[], 263)?);
        let text = "</think>\n```py\nx\n```\n";
        let tokens = tokenizer.encode(&format!("{text}more"))?;
        let rule = StopRule::closed_code(tokenizer.clone());
        let mut scanner = Scanner::default();
        let last = tokens.iter().position(|token| rule.ends(&mut scanner, *token));
        assert_eq!(last.map(|n| tokenizer.decode(&tokens[..=n])).transpose()?, Some(text.to_string()));
        let mut scanner = Scanner::default();
        assert!(!tokens.iter().any(|token| StopRule::default().ends(&mut scanner, *token)));
        Ok(())
    }
}
