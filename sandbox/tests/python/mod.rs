//! The interpreter for tests that run candidates; included by the tests of every room that has some.

use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

use sandbox::pyenv::{self, PyEnvConfig};

/// Set to 1, tests that need Python are skipped where there is none. Without it they fail: a green run has run
/// candidates.
const WITHOUT: &str = "TROUPE_TESTS_WITHOUT_PYTHON";

/// `TROUPE_PYTHON`, else the environment in Troupe's cache, which is made the first time. `None`: skip the test.
pub fn python() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND.get_or_init(find).clone()
}

fn find() -> Option<PathBuf> {
    let interpreter = std::env::var_os("TROUPE_PYTHON").map(PathBuf::from);
    // Past the test harness, which shows only what failing tests print.
    let mut say = |line: &str| drop(writeln!(std::io::stderr(), "{line}"));
    let made = pyenv::default_cache_dir()
        .and_then(|cache_dir| pyenv::ensure(&PyEnvConfig { interpreter, cache_dir }, &mut say));
    match made {
        Ok(python) => Some(python),
        Err(e) if std::env::var_os(WITHOUT).is_some_and(|v| v == "1") => {
            say(&format!("{WITHOUT}=1: a test that runs candidates is skipped: {e}"));
            None
        }
        Err(e) => panic!("no candidate can be run, so this test would prove nothing: {e}\n(skip with {WITHOUT}=1)"),
    }
}
