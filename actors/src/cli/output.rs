//! Writing to stdout and stderr: a reader that goes away is not an error, a full disk is.

use std::io::{self, Write as _};

use serde::Serialize;

use super::Failure;

/// A line to stdout.
pub fn line(text: impl AsRef<str>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.as_ref()).map_err(closed)
}

/// A JSON document on one line to stdout.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|e| Failure::Broken(format!("no JSON: {e}")))?;
    line(text)
}

/// A JSON document over several lines to stdout.
pub fn pretty_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::Broken(format!("no JSON: {e}")))?;
    line(text)
}

/// Talk: to stderr, and never an error.
pub fn say(text: impl AsRef<str>) {
    let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
}

/// The failure of the whole command, to stderr.
pub fn complain(failure: &Failure) {
    match failure {
        Failure::User(e) => say(format!("error: {e}")),
        Failure::Fault { code, message } => {
            say(format!("fault {code}: {message}"));
            if super::explain::page(code).is_some() {
                say(format!("  more:     `troupe explain {code}`"));
            }
        }
        Failure::Broken(text) => say(format!("error: {text}")),
        Failure::Interrupted => say("interrupted"),
        Failure::Told(_) | Failure::Closed => {}
    }
}

pub fn closed(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Failure::Closed
    } else {
        Failure::Broken(format!("stdout cannot be written: {error}"))
    }
}
