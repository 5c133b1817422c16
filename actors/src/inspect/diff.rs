//! Two programs, line by line: of two rollouts, or a task's reference and its best kernel.

use std::time::Duration;

use rollout::outcome::Ruling;
use serde::Serialize;
use similar::{ChangeTag, TextDiff};

use super::Run;
use crate::store::StoreError;

/// After this long the rest is compared roughly.
const DEADLINE: Duration = Duration::from_millis(500);

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// `=` in both, `-` only in the first, `+` only in the second.
    pub tag: char,
    pub text: String,
}

/// The programs of two rollouts; `None` when one is not there or holds none.
pub fn compare(run: &Run, id: u64, other: u64) -> Result<Option<Vec<Line>>, StoreError> {
    let reader = run.reader()?;
    let mut sources = Vec::new();
    for id in [id, other] {
        let ruling = reader.rollout(id)?.and_then(|detail| detail.ruling);
        let candidate = match ruling {
            Some(Ruling::Admit { candidate, .. }) => Some(candidate),
            Some(Ruling::Reject { candidate, .. }) => candidate,
            None => None,
        };
        let Some(candidate) = candidate else { return Ok(None) };
        sources.push(candidate.source);
    }
    Ok(Some(lines(&sources[0], &sources[1])))
}

pub fn lines(old: &str, new: &str) -> Vec<Line> {
    let diff = TextDiff::configure().timeout(DEADLINE).diff_lines(old, new);
    diff.iter_all_changes()
        .map(|change| Line {
            tag: match change.tag() {
                ChangeTag::Equal => '=',
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
            },
            text: change.value().trim_end_matches('\n').to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_line_is_taken_out_and_put_in() {
        let found: Vec<(char, String)> = lines("a\nb\nc\n", "a\nB\nc\n").into_iter().map(|l| (l.tag, l.text)).collect();
        let expected = [('=', "a"), ('-', "b"), ('+', "B"), ('=', "c")];
        assert_eq!(found, expected.map(|(tag, text)| (tag, text.to_string())));
    }
}
