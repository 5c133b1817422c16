//! The Python environment for commands that execute candidates: found or made, its errors in our one shape.

use std::path::PathBuf;

use sandbox::pyenv::{PyEnvConfig, PyEnvError, default_cache_dir, ensure};

use super::{Failure, output};
use crate::config::Config;
use crate::errors::UserError;

/// The interpreter that candidates run under.
pub fn interpreter(config: &Config) -> Result<PathBuf, Failure> {
    let cache_dir = default_cache_dir().map_err(failure)?;
    let own = config.python.path().map(PathBuf::from);
    ensure(&PyEnvConfig { interpreter: own, cache_dir }, &mut |line| output::say(line)).map_err(failure)
}

/// What the user can set right is an error of configuration; a network or disk that fails is not.
pub fn failure(error: PyEnvError) -> Failure {
    let text = error.to_string();
    let (what, rest) = text.split_once("\n  hint: ").unwrap_or((text.as_str(), ""));
    let (place, found) = match &error {
        PyEnvError::Interpreter { interpreter, reason } => {
            ("python.interpreter", format!("{}: {reason}", interpreter.display()))
        }
        PyEnvError::NoPython { tried } => ("the Python environment", tried.clone()),
        PyEnvError::NoVenv { python, detail } => ("the Python environment", format!("{}: {detail}", python.display())),
        PyEnvError::NoCacheDir => ("the Python environment", "none of these variables".to_string()),
        _ => ("the Python environment", String::new()),
    };
    let placed = UserError::new(what.trim_end_matches('.')).at(place);
    let placed = if found.is_empty() { placed } else { placed.found(found) };
    let hinted = if rest.is_empty() { placed } else { placed.hint(rest) };
    match error {
        PyEnvError::NoPython { .. }
        | PyEnvError::Interpreter { .. }
        | PyEnvError::NoVenv { .. }
        | PyEnvError::NoCacheDir => Failure::User(hinted.expected("a Python interpreter that Troupe can use")),
        _ => Failure::Broken(hinted.to_string()),
    }
}
