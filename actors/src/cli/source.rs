//! Candidate files of `troupe verify` and `troupe lint`: a Python file, or a raw answer to extract from.

use std::path::Path;

use reward::extract::{ExtractError, extract, from_python};
use rollout::outcome::Candidate;

use crate::errors::UserError;

/// A candidate file as it was read.
pub struct Read {
    /// The one program in it, or why there is none.
    pub candidate: Result<Candidate, ExtractError>,
}

/// Reads a candidate file; its extension says what it is.
pub fn read(path: &Path) -> Result<Read, UserError> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    let is_python = match extension.as_str() {
        "py" => true,
        "md" | "txt" => false,
        _ => {
            return Err(UserError::new("a candidate file of this kind is not known")
                .at(path.display())
                .found(if extension.is_empty() { "no extension".to_string() } else { format!("`.{extension}`") })
                .expected("a Python file (`.py`), or a model's raw answer (`.md`, `.txt`)")
                .hint("rename the file to say which of the two it is"));
        }
    };
    let bytes = std::fs::read(path).map_err(|e| UserError::io("read the candidate", path, &e))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        UserError::new("the candidate is not UTF-8 text")
            .at(path.display())
            .found(format!("an invalid byte at offset {}", e.utf8_error().valid_up_to()))
            .expected("UTF-8")
            .hint("save the file as UTF-8")
    })?;
    Ok(Read { candidate: if is_python { from_python(&text) } else { extract(&text) } })
}

/// Source lines around `line` (1-based), that line marked; empty for line 0.
pub fn excerpt(source: &str, line: u32) -> String {
    let line = line as usize;
    if line == 0 {
        return String::new();
    }
    let first = line.saturating_sub(1).max(1);
    let shown = source.lines().enumerate().skip(first - 1).take(line + 1 - (first - 1));
    let text: Vec<String> = shown
        .map(|(at, text)| {
            let mark = if at + 1 == line { ">" } else { " " };
            format!("    {mark} {:>4} | {text}", at + 1).trim_end().to_string()
        })
        .collect();
    text.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_marked_between_its_neighbours() {
        let text = excerpt("a\nb\nc\nd\n", 2);
        assert_eq!(text, "         1 | a\n    >    2 | b\n         3 | c");
        assert_eq!(excerpt("a\nb\n", 1), "    >    1 | a\n         2 | b");
        assert_eq!(excerpt("a\n", 0), "");
        assert_eq!(excerpt("a\n", 9), "");
    }
}
