//! The Python environment with torch and Triton: one the user names, or one made once in the cache folder and reused.

mod build;
mod probe;

use std::path::{Path, PathBuf};

pub use crate::harness::{TORCH, TRITON};

/// Oldest and newest Python that torch 2.11.0 and Triton 3.6.0 have packages for.
pub const PYTHON: ((u32, u32), (u32, u32)) = ((3, 11), (3, 14));
/// NumPy 2.4 breaks `range(0, tl.cdiv(..))` in Triton 3.6's interpreter.
pub const NUMPY_BELOW: (u32, u32) = (2, 4);
/// Free space that making an environment needs, bytes: 4.7 GB installed, and the packages while they are unpacked.
pub const SPACE_BYTES: u64 = 8 << 30;

/// Where the environment comes from.
#[derive(Clone, Debug)]
pub struct PyEnvConfig {
    /// The user's own interpreter; it must have the right versions. `None`: Troupe makes an environment.
    pub interpreter: Option<PathBuf>,
    /// Troupe's cache folder (`default_cache_dir`).
    pub cache_dir: PathBuf,
}

/// Why there is no environment. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PyEnvError {
    #[error(
        "no Python between 3.{} and 3.{} was found (tried {tried}).\n  hint: install one (for example `apt install \
         python3 python3-venv`), or name an interpreter with torch {TORCH} in `python.interpreter`",
        PYTHON.0.1, PYTHON.1.1
    )]
    NoPython { tried: String },
    #[error(
        "{interpreter} cannot be used: {reason}.\n  hint: correct `python.interpreter`, or empty it and Troupe makes \
         an environment of its own"
    )]
    Interpreter { interpreter: PathBuf, reason: String },
    #[error("{0} has no free space of {need_gb} GB ({found_gb} GB are free).\n  hint: free some, or point TROUPE_CACHE at another disk", dir.display())]
    NoSpace { dir: PathBuf, need_gb: u64, found_gb: u64 },
    #[error(
        "the disk filled up while packages were installed into {0}.\n  hint: free about 8 GB, or point TROUPE_CACHE at \
         another disk; the next start begins anew", dir.display()
    )]
    DiskFull { dir: PathBuf },
    #[error(
        "the package index cannot be reached.\n  hint: connect to the network (or set PIP_INDEX_URL or a proxy), or \
         name an interpreter that has torch {TORCH} in `python.interpreter`\n  {detail}"
    )]
    NoNetwork { detail: String },
    #[error("{python} cannot make virtual environments.\n  hint: `apt install python3-venv` or its like\n  {detail}")]
    NoVenv { python: PathBuf, detail: String },
    #[error("installing packages failed.\n  hint: the last lines below say why; the log is {}\n{detail}", log.display())]
    Install { log: PathBuf, detail: String },
    #[error("another process has been making the environment for {minutes} minutes.\n  hint: look at who holds {}", lock.display())]
    Locked { lock: PathBuf, minutes: u64 },
    #[error("no cache folder: neither TROUPE_CACHE, XDG_CACHE_HOME nor HOME is set.\n  hint: set TROUPE_CACHE")]
    NoCacheDir,
    #[error("{}: {source}.\n  hint: check the permissions, or point TROUPE_CACHE at a folder of your own", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

/// `$TROUPE_CACHE`, else `$XDG_CACHE_HOME/troupe`, else `~/.cache/troupe`.
pub fn default_cache_dir() -> Result<PathBuf, PyEnvError> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("TROUPE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|d| d.join("troupe")))
        .or_else(|| set("HOME").map(|d| d.join(".cache/troupe")))
        .ok_or(PyEnvError::NoCacheDir)
}

/// The interpreter of a working environment. Blocks; making one takes minutes, and `report` gets a line at every
/// stage. Safe to call from several processes at once.
pub fn ensure(config: &PyEnvConfig, report: &mut dyn FnMut(&str)) -> Result<PathBuf, PyEnvError> {
    match &config.interpreter {
        Some(own) => check_own(own, &config.cache_dir),
        None => build::ensure(&config.cache_dir, report),
    }
}

/// The interpreter that `ensure` would return, without making one: `None` when it would have to be made.
pub fn find(config: &PyEnvConfig) -> Result<Option<PathBuf>, PyEnvError> {
    match &config.interpreter {
        Some(own) => check_own(own, &config.cache_dir).map(Some),
        None => build::ready(&config.cache_dir),
    }
}

/// Whether an environment can be made where there is none: on Debian `venv` works only with a package of its own.
pub fn can_make() -> Result<(), PyEnvError> {
    build::can_make()
}

/// Checks the versions of the user's interpreter, once per state of its packages folder.
fn check_own(own: &Path, cache_dir: &Path) -> Result<PathBuf, PyEnvError> {
    let bad = |reason: String| PyEnvError::Interpreter { interpreter: own.to_owned(), reason };
    let path = std::path::absolute(own).map_err(|e| bad(e.to_string()))?;
    if probe::was_checked(&path, cache_dir) {
        return Ok(path);
    }
    let found = probe::packages(&path).map_err(bad)?;
    found.acceptable().map_err(|reason| PyEnvError::Interpreter { interpreter: own.to_owned(), reason })?;
    probe::remember(&path, &found, cache_dir);
    Ok(path)
}
