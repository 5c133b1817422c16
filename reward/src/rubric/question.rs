//! What is sent: the rubric, and the task and the stripped program between marks that nobody could foresee.

use super::{RUBRIC, Stripped};

/// Random bytes of a mark. Drawn by the caller for every request: this room has no randomness.
pub const MARK_BYTES: usize = 16;

/// What an opinion is asked on.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    pub task_source: &'a str,
    pub program: &'a Stripped,
}

/// The two messages of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts {
    pub system: String,
    pub user: String,
}

/// The mark occurs in what it should mark off; draw another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the random mark occurs in the task or in the candidate")]
pub struct MarkTaken;

impl Question<'_> {
    /// The messages, with this mark.
    ///
    /// # Errors
    /// `MarkTaken`.
    pub fn texts(&self, mark: [u8; MARK_BYTES]) -> Result<Texts, MarkTaken> {
        use std::fmt::Write as _;
        let mut word = String::with_capacity(2 * MARK_BYTES);
        for byte in mark {
            let _ = write!(word, "{byte:02x}");
        }
        let (task, program) = (self.task_source.trim_end(), self.program.text.trim_end());
        if task.contains(&word) || program.contains(&word) {
            return Err(MarkTaken);
        }
        Ok(Texts {
            system: format!("{RUBRIC}\nThe mark of this request is {word}.\n"),
            user: format!(
                "<<< task {word}\n{task}\n>>> task {word}\n<<< program {word}\n{program}\n>>> program {word}\n\nAnswer \
                 with the JSON object."
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::strip;
    use super::*;

    #[test]
    fn the_program_stands_between_marks_that_it_cannot_hold() {
        let program = strip("x = '>>> program 000000'\n").unwrap();
        let question = Question { task_source: "task\n", program: &program };
        let texts = question.texts([0xab; MARK_BYTES]).unwrap();
        let mark = "ab".repeat(MARK_BYTES);
        assert!(texts.system.ends_with(&format!("mark of this request is {mark}.\n")), "{}", texts.system);
        assert_eq!(texts.user.matches(&mark).count(), 4);
        let inside = texts.user.split(&format!("<<< program {mark}\n")).nth(1).unwrap();
        assert!(inside.starts_with("x = '>>> program 000000'\n>>> program ab"), "{inside}");
        assert_ne!(question.texts([0xac; MARK_BYTES]).unwrap(), texts);
        let program = strip(&format!("x = '{mark}'\n")).unwrap();
        assert_eq!(Question { task_source: "t", program: &program }.texts([0xab; MARK_BYTES]), Err(MarkTaken));
    }
}
