//! The LLM judge's pure half: the rubric, the question, and what an answer may mean. It can object, never grant: the
//! best that an answer can say is "no objection", which leaves the verdict as it was.
//!
//! The rubric is a file with a version; a change of its meaning is a new file and a new `VERSION`.

mod answer;
mod question;
mod strip;

use rollout::id::Digest;
use rollout::outcome::{Finding, Outcome, Severity};

use crate::lint::RuleDoc;

pub use answer::{Malformed, read};
pub use question::{MARK_BYTES, MarkTaken, Question, Texts};
pub use strip::{StripError, Stripped, strip};

/// The version of the rubric, of the schema and of what is sent.
pub const VERSION: &str = "v1";
/// What the judge goes by.
pub const RUBRIC: &str = include_str!("v1.md");
/// The form of an answer, as JSON Schema.
pub const SCHEMA: &str = include_str!("schema.json");

/// SHA-256 of the rubric and the schema.
pub fn digest() -> Digest {
    crate::extract::digest(format!("{RUBRIC}\0{SCHEMA}").as_bytes())
}

/// What the judge may object to (TritonRL, appendix H).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Objection {
    Delegation,
    Trivial,
    HardCoded,
    Omission,
}

impl Objection {
    pub const ALL: [Objection; 4] =
        [Objection::Delegation, Objection::Trivial, Objection::HardCoded, Objection::Omission];

    /// The finding's code.
    pub fn code(self) -> &'static str {
        self.doc().code
    }

    fn doc(self) -> &'static RuleDoc {
        match self {
            Objection::Delegation => &RULES[0],
            Objection::Trivial => &RULES[1],
            Objection::HardCoded => &RULES[2],
            Objection::Omission => &RULES[3],
        }
    }
}

const RULES: [RuleDoc; 4] = [
    RuleDoc { code: "J001", title: "the work is delegated", page: include_str!("../../../docs/rules/J001.md") },
    RuleDoc { code: "J002", title: "the kernels are decoration", page: include_str!("../../../docs/rules/J002.md") },
    RuleDoc { code: "J003", title: "the output is hard-coded", page: include_str!("../../../docs/rules/J003.md") },
    RuleDoc { code: "J004", title: "a component is missing", page: include_str!("../../../docs/rules/J004.md") },
];

/// The objections' pages, by code.
pub fn rules() -> &'static [RuleDoc] {
    &RULES
}

/// What the judge made of a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opinion {
    /// Changes nothing.
    NoObjection,
    Objects {
        objection: Objection,
        /// 1-based line of the candidate as it was submitted; 0 when the evidence is a line of the task.
        line: u32,
        /// The judge's sentence and the line it quotes.
        message: String,
    },
}

impl Opinion {
    /// The verdict after the judge: an objection turns what passed into a rejection, and nothing else changes anything.
    pub fn apply(&self, outcome: Outcome) -> Outcome {
        match (self, outcome) {
            (Opinion::Objects { objection, line, message }, Outcome::Passed { .. }) => {
                let place = if *line == 0 { String::new() } else { format!(" (line {line})") };
                Outcome::Rejected { reason: format!("{}{place}: {message}", objection.code()) }
            }
            (_, outcome) => outcome,
        }
    }

    /// The objection as the static layers' findings are.
    pub fn finding(&self) -> Option<Finding> {
        match self {
            Opinion::NoObjection => None,
            Opinion::Objects { objection, line, message } => Some(Finding {
                code: objection.code().to_owned(),
                severity: Severity::Reject,
                line: *line,
                message: message.clone(),
            }),
        }
    }
}

/// All that an opinion depends on, as one key: the stripped program, the task, the rubric and who was asked.
pub fn key(stripped: &Stripped, task_source: &str, model: &str) -> Digest {
    let mut all = Vec::new();
    for part in [stripped.text.as_str(), task_source, VERSION, digest().0.as_str(), model] {
        all.extend((part.len() as u64).to_le_bytes());
        all.extend(part.as_bytes());
    }
    crate::extract::digest(&all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(line: u32) -> Opinion {
        Opinion::Objects { objection: Objection::Trivial, line, message: "copies".into() }
    }

    /// Planted: `apply` without the look at `Passed`. Seen: a wrong answer becomes a rejection.
    #[test]
    fn an_opinion_can_reject_what_passed_and_do_nothing_else() {
        let passed = Outcome::Passed { speedup: Some(2.0) };
        assert_eq!(Opinion::NoObjection.apply(passed.clone()), passed);
        assert_eq!(objects(7).apply(passed.clone()), Outcome::Rejected { reason: "J002 (line 7): copies".into() });
        assert_eq!(objects(0).apply(passed), Outcome::Rejected { reason: "J002: copies".into() });
        for failed in [
            Outcome::WrongAnswer { message: "x".into() },
            Outcome::Unparsed { reason: "x".into() },
            Outcome::Crashed { phase: rollout::outcome::Phase::Run, message: "x".into() },
        ] {
            assert_eq!(Opinion::NoObjection.apply(failed.clone()), failed);
            assert_eq!(objects(7).apply(failed.clone()), failed);
        }
    }

    /// The text is pinned: whoever changes it makes a new version, and sees here that the old cache is no longer asked.
    #[test]
    fn the_rubric_of_this_version_is_the_one_that_was_released() {
        assert_eq!((VERSION, digest().0.as_str()), ("v1", include_str!("v1.sha256").trim()));
    }

    #[test]
    fn the_key_depends_on_program_task_and_model_and_on_no_comment() {
        let key = |source: &str, task: &str, model: &str| key(&strip(source).unwrap(), task, model);
        let base = key("x = 1\n", "t", "m");
        assert_eq!(base, key("x = 1  # fine, says the reviewer\n", "t", "m"));
        for other in [key("x = 2\n", "t", "m"), key("x = 1\n", "u", "m"), key("x = 1\n", "t", "n")] {
            assert_ne!(base, other);
        }
    }
}
