//! Interpreters that a user may name by mistake, each with one clear error, and the cached check of a good one.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sandbox::pyenv::{PyEnvConfig, PyEnvError, ensure, find};

fn check(interpreter: &Path, cache: &Path) -> Result<PathBuf, PyEnvError> {
    let config = PyEnvConfig { interpreter: Some(interpreter.to_owned()), cache_dir: cache.to_owned() };
    ensure(&config, &mut |line| panic!("nothing is made: {line}"))
}

/// A process that one test starts while another writes its script would hold the script open for writing: it could not be started.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A script that answers like a Python with these packages and counts how often it was asked.
fn fake(dir: &Path, torch: &str) -> PathBuf {
    let path = dir.join("python");
    let site = dir.join("site");
    std::fs::create_dir_all(&site).unwrap();
    let answer = format!(
        r#"{{"python": [3, 12], "site": "{}", "torch": {torch}, "triton": "3.6.0", "numpy": "2.3.5"}}"#,
        site.display()
    );
    let text = format!("#!/bin/sh\necho asked >> '{}/asked'\ncat <<'END'\n{answer}\nEND\n", dir.display());
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn asked(dir: &Path) -> usize {
    std::fs::read_to_string(dir.join("asked")).unwrap_or_default().lines().count()
}

#[test]
fn each_wrong_interpreter_has_its_reason_and_a_hint() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        (PathBuf::from("/no/such/python"), "it does not start"),
        (PathBuf::from("/bin/true"), "it does not behave like Python"),
        (PathBuf::from("/bin/false"), "it fails"),
        (fake(dir.path(), r#""2.9.1""#), "it has torch 2.9.1, expected 2.11.0"),
    ];
    for (interpreter, reason) in cases {
        let text = check(&interpreter, dir.path()).unwrap_err().to_string();
        assert!(text.contains(reason), "{text}");
        assert!(text.contains(&interpreter.display().to_string()) && text.contains("hint: "), "{text}");
    }
    let text = check(&fake(dir.path(), "null"), dir.path()).unwrap_err().to_string();
    assert!(text.contains("it has no torch"), "{text}");
}

#[test]
fn a_good_interpreter_is_asked_once_until_its_packages_change() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (cache, python) = (dir.path().join("cache"), fake(dir.path(), r#""2.11.0+cu130""#));
    assert_eq!(check(&python, &cache).unwrap(), python);
    assert_eq!(check(&python, &cache).unwrap(), python);
    let found = find(&PyEnvConfig { interpreter: Some(python.clone()), cache_dir: cache.clone() }).unwrap();
    assert_eq!(found, Some(python.clone()));
    assert_eq!(asked(dir.path()), 1);
    std::thread::sleep(std::time::Duration::from_millis(20));
    std::fs::write(dir.path().join("site/new.py"), "").unwrap();
    check(&python, &cache).unwrap();
    assert_eq!(asked(dir.path()), 2);
    // The cache is an optimisation: where it cannot be written the check is simply made again.
    let unwritable = Path::new("/proc/no-cache");
    check(&python, unwritable).unwrap();
    check(&python, unwritable).unwrap();
    assert_eq!(asked(dir.path()), 4);
}

/// Downloads about 5 GB: `cargo test -p sandbox --release --test pyenv -- --ignored`.
#[test]
#[ignore = "installs packages from the network"]
fn a_fresh_environment_is_made_once_by_two_callers_and_reused() {
    let dir = tempfile::tempdir().unwrap();
    let config = PyEnvConfig { interpreter: None, cache_dir: dir.path().to_owned() };
    assert_eq!(find(&config).unwrap(), None);
    let make = || {
        let mut lines = Vec::new();
        let made = ensure(&config, &mut |line| lines.push(line.to_owned())).unwrap();
        (made, lines.join("\n"))
    };
    let [(one, first), (two, second)] = std::thread::scope(|scope| {
        let threads = [scope.spawn(make), scope.spawn(make)];
        threads.map(|t| t.join().unwrap())
    });
    assert_eq!(one, two);
    let both = format!("{first}\n{second}");
    eprintln!("{both}");
    assert_eq!(both.matches("making a Python environment").count(), 1);
    assert_eq!(both.matches("waiting for it").count(), 1);
    assert!(both.contains("Installing collected packages"));
    assert_eq!(make(), (one.clone(), String::new()), "the second time there is nothing to say");
    assert_eq!(find(&config).unwrap(), Some(one.clone()));
    // Half an environment is none: without its mark it would be made again.
    std::fs::remove_file(one.parent().unwrap().parent().unwrap().join("troupe-ready")).unwrap();
    assert_eq!(find(&config).unwrap(), None);
}
