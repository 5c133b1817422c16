//! Reading an answer: strictly. What does not fit the schema, or quotes what nobody wrote, is malformed and counts for
//! nothing, in neither direction.

use serde::Deserialize;

use super::{Objection, Opinion, Question};

/// Longest answer that is read, bytes.
const MAX_BYTES: usize = 64 * 1024;
/// Longest sentence and quotation that are kept, characters.
const MAX_CHARS: usize = 300;
/// A quotation of less than a whole line must have this many characters.
const MIN_PART: usize = 8;

/// Why an answer says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("{bytes} bytes, the limit is {MAX_BYTES}")]
    Long { bytes: usize },
    #[error("it is not the JSON object that was asked for: {0}")]
    Form(String),
    #[error("an objection without a sentence that says why")]
    NoWhy,
    #[error("the quoted evidence is in no line of the {place}")]
    Evidence { place: &'static str },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    why: String,
    evidence: String,
    objection: Word,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    None,
    Delegation,
    Trivial,
    HardCoded,
    Omission,
}

/// What this answer to the question means.
///
/// # Errors
/// `Malformed`.
pub fn read(answer: &str, question: &Question<'_>) -> Result<Opinion, Malformed> {
    if answer.len() > MAX_BYTES {
        return Err(Malformed::Long { bytes: answer.len() });
    }
    // serde would read a list of three texts as well.
    if !answer.trim_start().starts_with('{') {
        return Err(Malformed::Form("it does not begin with a brace".into()));
    }
    let answer: Answer = serde_json::from_str(answer).map_err(|e| Malformed::Form(e.to_string()))?;
    let objection = match answer.objection {
        Word::None => return Ok(Opinion::NoObjection),
        Word::Delegation => Objection::Delegation,
        Word::Trivial => Objection::Trivial,
        Word::HardCoded => Objection::HardCoded,
        Word::Omission => Objection::Omission,
    };
    let (why, evidence) = (words(&answer.why), words(&answer.evidence));
    if why.is_empty() {
        return Err(Malformed::NoWhy);
    }
    // What is missing has no line of its own in the program.
    let (line, quoted) = if objection == Objection::Omission {
        let found = question.task_source.lines().map(words).find(|line| holds(line, &evidence));
        (0, found.ok_or(Malformed::Evidence { place: "task" })?)
    } else {
        let found = question.program.lines().map(|(n, line)| (n, words(line))).find(|(_, line)| holds(line, &evidence));
        found.ok_or(Malformed::Evidence { place: "program" })?
    };
    Ok(Opinion::Objects { objection, line, message: format!("{} (`{}`)", cut(&why), cut(&quoted)) })
}

/// The words of a text with one space between them.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn holds(line: &str, evidence: &str) -> bool {
    !evidence.is_empty() && (line == evidence || evidence.chars().count() >= MIN_PART && line.contains(evidence))
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::super::strip;
    use super::*;

    const TASK: &str = "class Model:\n    def forward(self, x):\n        return self.norm(x) * self.scale\n";

    fn ask(answer: &str) -> Result<Opinion, Malformed> {
        let program = strip("# note\nimport torch\ny = torch.matmul(a, b)\n").unwrap();
        read(answer, &Question { task_source: TASK, program: &program })
    }

    fn json(objection: &str, evidence: &str, why: &str) -> String {
        format!(r#"{{"why": "{why}", "evidence": "{evidence}", "objection": "{objection}"}}"#)
    }

    #[test]
    fn each_objection_has_its_code_and_its_line() {
        assert_eq!(ask(&json("none", "", "")), Ok(Opinion::NoObjection));
        let cases = [("delegation", "J001"), ("trivial", "J002"), ("hard_coded", "J003")];
        for (word, code) in cases {
            let opinion = ask(&json(word, "  y  = torch.matmul(a, b)", "calls a library")).unwrap();
            let Opinion::Objects { objection, line, message } = opinion else { panic!("{opinion:?}") };
            assert_eq!((objection.code(), line), (code, 3), "the line of the file as it was submitted");
            assert_eq!(message, "calls a library (`y = torch.matmul(a, b)`)");
        }
        let opinion = ask(&json("omission", "self.norm(x) * self.scale", "no scale")).unwrap();
        let Opinion::Objects { objection: Objection::Omission, line: 0, message } = opinion else {
            panic!("{opinion:?}")
        };
        assert_eq!(message, "no scale (`return self.norm(x) * self.scale`)");
    }

    /// Planted: no `deny_unknown_fields`. Seen: the answer with a reward is read.
    #[test]
    fn an_answer_that_grants_or_does_not_fit_is_malformed() {
        let form = |answer: &str| assert!(matches!(ask(answer), Err(Malformed::Form(_))), "{answer}");
        form(r#"{"why": "", "evidence": "", "objection": "none", "reward": 1.0}"#);
        form(r#"{"why": "", "evidence": "", "objection": "none", "objection": "none"}"#);
        form(&json("accept", "", ""));
        form(&json("passed", "", ""));
        form(r#"{"evidence": "", "objection": "none"}"#);
        form(r#"{"why": "", "evidence": null, "objection": "none"}"#);
        form(r#"[{"why": "", "evidence": "", "objection": "none"}]"#);
        form(r#"["", "", "none"]"#);
        form("there is no objection");
        form(&format!("```json\n{}\n```", json("none", "", "")));
        form(&format!("{} and it is certified", json("none", "", "")));
        let long = json("none", "", &"x".repeat(MAX_BYTES));
        assert!(matches!(ask(&long), Err(Malformed::Long { .. })));
    }

    /// Planted: any evidence will do. Seen: an objection with a line that is not there.
    #[test]
    fn an_objection_needs_a_reason_and_a_line_that_is_there() {
        let evidence = |place| Err(Malformed::Evidence { place });
        assert_eq!(ask(&json("delegation", "y = torch.mm(a, b)", "w")), evidence("program"));
        assert_eq!(ask(&json("delegation", "", "w")), evidence("program"));
        assert_eq!(ask(&json("delegation", "torch", "w")), evidence("program"), "five characters are not a line");
        assert_eq!(ask(&json("delegation", "self.norm(x) * self.scale", "w")), evidence("program"));
        assert_eq!(ask(&json("omission", "y = torch.matmul(a, b)", "w")), evidence("task"));
        assert_eq!(ask(&json("trivial", "import torch", " ")), Err(Malformed::NoWhy));
    }
}
