//! The faults of this room: ours, never the candidate's, each with a page that says what to do.

use std::fmt::Display;

use rollout::outcome::Fault;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal),* $(,)?) => {
        $($(#[$doc])* pub const $name: &str = $code;)*

        const PAGES: &[(&str, &str)] =
            &[$(($code, include_str!(concat!("../../docs/faults/", $code, ".md")))),*];
    };
}

codes! {
    /// The Python interpreter could not be started.
    SPAWN = "F001",
    /// The zygote did not become ready (torch or Triton missing, too slow, or it died).
    ZYGOTE_START = "F002",
    /// The referee did not become ready.
    REFEREE_START = "F003",
    /// The zygote died or fell silent during an evaluation.
    ZYGOTE_LOST = "F004",
    /// The referee died or fell silent during an evaluation.
    REFEREE_LOST = "F005",
    /// The task's own reference does not work, or nothing can be told from its outputs.
    TASK = "F006",
    /// The scratch directory cannot be used (permissions, disk full).
    SCRATCH = "F007",
    /// The system refused a pipe, a memory file or a process.
    SYSTEM = "F008",
    /// A child's processes could not be ended.
    STRAYS = "F009",
    /// The harness contradicted its own protocol.
    PROTOCOL = "F010",
    /// A candidate was killed from outside its own code, for all that is known: the kernel, most likely, out of memory.
    KILLED = "F011",
    /// A part of the isolation that the configuration requires does not hold on this machine.
    ISOLATION = "F012",
    /// A device cannot be used: no driver, no such GPU, it answers wrongly or does not become free.
    DEVICE = "F013",
    /// A measurement was disturbed each time it was tried.
    DISTURBED = "F014",
}

/// Every fault's code with its page.
pub fn faults() -> &'static [(&'static str, &'static str)] {
    PAGES
}

/// A fault with this code.
pub(crate) fn fault(code: &str, message: impl Display) -> Fault {
    Fault { code: code.to_owned(), message: message.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_starts_with_its_code_and_says_what_to_do() {
        for (code, page) in faults() {
            assert!(page.starts_with(&format!("# {code}: ")), "{code}");
            assert!(page.contains("## What to do"), "{code}");
        }
    }
}
