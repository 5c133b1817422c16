//! The one shape of an error that a user can do something about: what, where, found, expected, hint.

use std::fmt;
use std::path::Path;

/// An error of usage or configuration (exit code 2). Every part but `what` may be missing where it would say
/// nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct UserError {
    /// One sentence, no full stop.
    pub what: Box<str>,
    /// File and line, key, or id.
    pub place: Option<String>,
    pub found: Option<String>,
    pub expected: Option<String>,
    pub hint: Option<String>,
    /// The disk is full: not the user's slip, exit code 3.
    pub disk_full: bool,
}

/// True when the disk is full, or its quota is used up.
pub fn disk_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

impl UserError {
    pub fn new(what: impl Into<String>) -> Self {
        UserError {
            what: what.into().into_boxed_str(),
            place: None,
            found: None,
            expected: None,
            hint: None,
            disk_full: false,
        }
    }

    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.place = Some(place.to_string());
        self
    }

    pub fn found(mut self, found: impl fmt::Display) -> Self {
        self.found = Some(found.to_string());
        self
    }

    pub fn expected(mut self, expected: impl fmt::Display) -> Self {
        self.expected = Some(expected.to_string());
        self
    }

    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// A file or folder could not be read or written; `doing` is a verb phrase such as "read the task file".
    pub fn io(doing: &str, path: &Path, error: &std::io::Error) -> Self {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => Some("check the path; relative paths start at the current folder"),
            std::io::ErrorKind::PermissionDenied => Some("check the permissions of this path and of its folders"),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Some("free some space, then do it again (`troupe resume` for a run that has begun)")
            }
            std::io::ErrorKind::ReadOnlyFilesystem => Some("the file system is read-only; choose another folder"),
            _ => None,
        };
        let mut e = UserError::new(format!("cannot {doing}")).at(path.display()).found(error);
        e.disk_full = disk_full(error);
        match hint {
            Some(h) => e.hint(h),
            None => e,
        }
    }
}

impl fmt::Display for UserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        let parts =
            [("where", &self.place), ("found", &self.found), ("expected", &self.expected), ("hint", &self.hint)];
        for (name, part) in parts {
            if let Some(text) = part {
                let mut lines = text.lines();
                write!(f, "\n  {:<9} {}", format!("{name}:"), lines.next().unwrap_or(""))?;
                for line in lines {
                    write!(f, "\n            {line}")?;
                }
            }
        }
        Ok(())
    }
}

/// The candidate nearest to `word`, when it is near enough to be a likely slip.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|c| (strsim::normalized_damerau_levenshtein(word, c), c))
        .filter(|(similarity, _)| *similarity >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_are_rendered_in_order_and_aligned() {
        let e = UserError::new("unknown key `a.b`").at("x.toml, line 3").found("`b`").expected("c\nd").hint("h");
        assert_eq!(
            e.to_string(),
            "unknown key `a.b`\n  where:    x.toml, line 3\n  found:    `b`\n  expected: c\n            d\n  hint:     h"
        );
    }

    #[test]
    fn only_a_near_word_is_suggested() {
        assert_eq!(nearest("group_sise", ["group_size", "credits"]), Some("group_size"));
        assert_eq!(nearest("zzz", ["group_size", "credits"]), None);
    }
}
