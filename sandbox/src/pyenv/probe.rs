//! Asks an interpreter for its version and packages: their metadata only, nothing is imported.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{NUMPY_BELOW, PYTHON, TORCH, TRITON};

/// An interpreter that takes longer than this to print a line does not work.
const LIMIT: Duration = Duration::from_secs(60);

const SCRIPT: &str = "
import json, sys, sysconfig
from importlib.metadata import version, PackageNotFoundError
def get(name):
    try: return version(name)
    except PackageNotFoundError: return None
print(json.dumps({'python': list(sys.version_info[:2]), 'site': sysconfig.get_paths()['purelib'],
    'torch': get('torch'), 'triton': get('triton'), 'numpy': get('numpy')}))
";

/// What an interpreter has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Packages {
    pub python: (u32, u32),
    pub site: PathBuf,
    pub torch: Option<String>,
    pub triton: Option<String>,
    pub numpy: Option<String>,
}

impl Packages {
    /// `Err` says what is wrong.
    pub fn acceptable(&self) -> Result<(), String> {
        python_in_range(self.python)?;
        for (name, found, expected) in [("torch", &self.torch, TORCH), ("triton", &self.triton, TRITON)] {
            match found.as_deref().map(|v| v.split('+').next().unwrap_or(v)) {
                Some(v) if v == expected => {}
                Some(v) => return Err(format!("it has {name} {v}, expected {expected}")),
                None => return Err(format!("it has no {name}, expected {expected}")),
            }
        }
        let (major, minor) = NUMPY_BELOW;
        match self.numpy.as_deref() {
            None => Err(format!("it has no numpy, expected one below {major}.{minor}")),
            Some(v) if parse_version(v).is_some_and(|v| v < NUMPY_BELOW) => Ok(()),
            Some(v) => Err(format!("it has numpy {v}, expected one below {major}.{minor}")),
        }
    }
}

pub(super) fn python_in_range((major, minor): (u32, u32)) -> Result<(), String> {
    let (low, high) = PYTHON;
    if (major, minor) < low || (major, minor) > high {
        return Err(format!("it is Python {major}.{minor}, expected {}.{} to {}.{}", low.0, low.1, high.0, high.1));
    }
    Ok(())
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub(super) fn packages(interpreter: &Path) -> Result<Packages, String> {
    let out = output(Command::new(interpreter).args(["-I", "-B", "-c", SCRIPT]))?;
    serde_json::from_str(out.trim()).map_err(|e| format!("it does not behave like Python ({e})"))
}

/// `Err` says why these modules cannot be imported.
pub(super) fn imports(interpreter: &Path, modules: &str) -> Result<(), String> {
    let said = output(Command::new(interpreter).args(["-I", "-B", "-c", &format!("import {modules}")]));
    // The last line of a traceback is the exception.
    said.map(|_| ()).map_err(|e| e.lines().last().unwrap_or_default().trim().to_owned())
}

/// Standard output of a short command that must succeed within `LIMIT`.
fn output(command: &mut Command) -> Result<String, String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("it does not start ({e})"))?;
    let began = Instant::now();
    // Its answer is a few hundred bytes: it fits in the pipe, so waiting first cannot block it.
    loop {
        match child.try_wait() {
            Ok(Some(_)) => break,
            Ok(None) if began.elapsed() < LIMIT => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it did not answer within {} s", LIMIT.as_secs()));
            }
        }
    }
    let done = child.wait_with_output().map_err(|e| e.to_string())?;
    if !done.status.success() {
        let text = String::from_utf8_lossy(&done.stderr);
        return Err(format!("it fails ({}): {}", done.status, text.trim()));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// A passed check of one interpreter, valid until its packages folder changes.
#[derive(Serialize, Deserialize)]
struct Check {
    interpreter: PathBuf,
    packages: Packages,
    /// When the packages folder and the interpreter last changed, nanoseconds since 1970.
    changed: [u128; 2],
}

fn changed(packages: &Packages, interpreter: &Path) -> Option<[u128; 2]> {
    let at = |p: &Path| Some(p.metadata().ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos());
    Some([at(&packages.site)?, at(interpreter)?])
}

fn check_file(interpreter: &Path, cache_dir: &Path) -> PathBuf {
    let name = crate::harness::hex(&Sha256::digest(interpreter.as_os_str().as_encoded_bytes())[..16]);
    cache_dir.join("python").join("checked").join(format!("{name}.json"))
}

pub(super) fn was_checked(interpreter: &Path, cache_dir: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(check_file(interpreter, cache_dir)) else { return false };
    let Ok(check) = serde_json::from_str::<Check>(&text) else { return false };
    check.interpreter == interpreter
        && check.packages.acceptable().is_ok()
        && changed(&check.packages, interpreter) == Some(check.changed)
}

/// Best effort: a check that cannot be remembered is made again.
pub(super) fn remember(interpreter: &Path, packages: &Packages, cache_dir: &Path) {
    let file = check_file(interpreter, cache_dir);
    let (Some(changed), Some(dir)) = (changed(packages, interpreter), file.parent()) else { return };
    let check = Check { interpreter: interpreter.to_owned(), packages: packages.clone(), changed };
    let Ok(text) = serde_json::to_string(&check) else { return };
    let stored = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&file, text));
    if let Err(e) = stored {
        tracing::debug!("the check of {} is not remembered: {e}", interpreter.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(torch: &str, triton: &str, numpy: &str) -> Packages {
        Packages {
            python: (3, 12),
            site: PathBuf::new(),
            torch: Some(torch.into()),
            triton: Some(triton.into()),
            numpy: Some(numpy.into()),
        }
    }

    #[test]
    fn versions_are_exact_and_numpy_is_bounded() {
        assert_eq!(packages("2.11.0+cu130", "3.6.0", "2.3.5").acceptable(), Ok(()));
        assert!(packages("2.10.0", "3.6.0", "2.3.5").acceptable().unwrap_err().contains("torch 2.10.0"));
        assert!(packages("2.11.0", "3.5.1", "2.3.5").acceptable().unwrap_err().contains("triton 3.5.1"));
        assert!(packages("2.11.0", "3.6.0", "2.4.0").acceptable().unwrap_err().contains("numpy 2.4.0"));
        let old = Packages { python: (3, 10), ..packages("2.11.0", "3.6.0", "2.3.5") };
        assert!(old.acceptable().unwrap_err().contains("Python 3.10"));
        let none = Packages { torch: None, ..packages("", "3.6.0", "2.3.5") };
        assert!(none.acceptable().unwrap_err().contains("no torch"));
    }
}
