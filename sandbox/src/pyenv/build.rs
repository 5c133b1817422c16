//! Makes the environment: `python -m venv`, then pip, in place (a venv cannot be moved), with a marker written last.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock, statvfs};

use super::probe::{self, python_in_range};
use super::{NUMPY_BELOW, PyEnvError, SPACE_BYTES, TORCH, TRITON};

const NAMES: [&str; 5] = ["python3", "python3.13", "python3.12", "python3.11", "python3.14"];
/// Written when everything is in place; a folder without it is thrown away.
const MARKER: &str = "troupe-ready";
/// Raise it when the way environments are made changes.
const RECIPE: u32 = 1;
/// Installing 4.7 GB over a slow line.
const INSTALL: Duration = Duration::from_secs(2 * 60 * 60);
const VENV: Duration = Duration::from_secs(300);
const KEPT_LINES: usize = 12;

pub(super) fn ensure(cache_dir: &Path, report: &mut dyn FnMut(&str)) -> Result<PathBuf, PyEnvError> {
    let cache_dir =
        &std::path::absolute(cache_dir).map_err(|source| PyEnvError::Io { path: cache_dir.to_owned(), source })?;
    let home = cache_dir.join("python");
    std::fs::create_dir_all(&home).map_err(|source| PyEnvError::Io { path: home.clone(), source })?;
    let (python, version) = find()?;
    let key = key(version);
    let dir = home.join(&key);
    if is_ready(&dir, cache_dir) {
        return Ok(interpreter(&dir));
    }
    let _lock = lock(&home.join(format!("{key}.lock")), report)?;
    if is_ready(&dir, cache_dir) {
        return Ok(interpreter(&dir));
    }
    make(&python, &dir, &home.join(format!("{key}.log")), report)?;
    let made = interpreter(&dir);
    let broken = |detail| PyEnvError::Install { log: home.join(format!("{key}.log")), detail };
    let found = probe::packages(&made).map_err(broken)?;
    found.acceptable().map_err(broken)?;
    let marker = dir.join(MARKER);
    std::fs::write(&marker, &key).map_err(|source| PyEnvError::Io { path: marker, source })?;
    probe::remember(&made, &found, cache_dir);
    report("the Python environment is ready");
    Ok(made)
}

/// The environment's interpreter when it has been made.
pub(super) fn ready(cache_dir: &Path) -> Result<Option<PathBuf>, PyEnvError> {
    let dir = cache_dir.join("python").join(key(find()?.1));
    Ok(is_ready(&dir, cache_dir).then(|| interpreter(&dir)))
}

/// Asks the interpreter that would make the environment for what `venv` needs.
pub(super) fn can_make() -> Result<(), PyEnvError> {
    let (python, _) = find()?;
    probe::imports(&python, "venv, ensurepip").map_err(|detail| PyEnvError::NoVenv { python, detail })
}

fn key((major, minor): (u32, u32)) -> String {
    format!("py{major}.{minor}-torch{TORCH}-triton{TRITON}-r{RECIPE}")
}

fn interpreter(dir: &Path) -> PathBuf {
    dir.join("bin").join("python")
}

/// Made completely, and still the right versions (checked once per state of its packages folder).
fn is_ready(dir: &Path, cache_dir: &Path) -> bool {
    let made = interpreter(dir);
    if !dir.join(MARKER).is_file() {
        return false;
    }
    if probe::was_checked(&made, cache_dir) {
        return true;
    }
    let Ok(found) = probe::packages(&made) else { return false };
    if found.acceptable().is_err() {
        return false;
    }
    probe::remember(&made, &found, cache_dir);
    true
}

/// The first interpreter on the path that runs and is of a version we can use.
fn find() -> Result<(PathBuf, (u32, u32)), PyEnvError> {
    let mut tried = Vec::new();
    for name in NAMES {
        match probe::packages(Path::new(name)) {
            Ok(found) => match python_in_range(found.python) {
                Ok(()) => return Ok((PathBuf::from(name), found.python)),
                Err(why) => tried.push(format!("{name}: {why}")),
            },
            Err(why) => tried.push(format!("{name}: {why}")),
        }
    }
    Err(PyEnvError::NoPython { tried: tried.join("; ") })
}

fn lock(path: &Path, report: &mut dyn FnMut(&str)) -> Result<File, PyEnvError> {
    let io = |source| PyEnvError::Io { path: path.to_owned(), source };
    let file = File::create(path).map_err(io)?;
    let began = Instant::now();
    let mut told = false;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(e) if e == rustix::io::Errno::WOULDBLOCK => {}
            Err(e) => return Err(io(e.into())),
        }
        if !told {
            report("another process is making the Python environment; waiting for it");
            told = true;
        }
        if began.elapsed() > INSTALL {
            return Err(PyEnvError::Locked { lock: path.to_owned(), minutes: began.elapsed().as_secs() / 60 });
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn make(python: &Path, dir: &Path, log: &Path, report: &mut dyn FnMut(&str)) -> Result<(), PyEnvError> {
    let io = |source| PyEnvError::Io { path: dir.to_owned(), source };
    if dir.exists() {
        std::fs::remove_dir_all(dir).map_err(io)?;
    }
    let parent = dir.parent().unwrap_or(dir);
    let space = statvfs(parent).map_err(|e| io(e.into()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free < SPACE_BYTES {
        let (need_gb, found_gb) = (SPACE_BYTES >> 30, free >> 30);
        return Err(PyEnvError::NoSpace { dir: parent.to_owned(), need_gb, found_gb });
    }
    let mut log_file = File::create(log).map_err(|source| PyEnvError::Io { path: log.to_owned(), source })?;
    report(&format!("making a Python environment in {} (once; about 5 GB)", dir.display()));
    let mut venv = Command::new(python);
    venv.args(["-I", "-m", "venv"]).arg(dir);
    if let Err(detail) = stream(&mut venv, VENV, &mut log_file, &mut |_| {}) {
        let _ = std::fs::remove_dir_all(dir);
        return Err(classify(dir, log, detail, |detail| PyEnvError::NoVenv { python: python.to_owned(), detail }));
    }
    let mut pip = Command::new(interpreter(dir));
    pip.args(["-I", "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]);
    pip.arg(format!("torch=={TORCH}")).arg(format!("numpy<{}.{}", NUMPY_BELOW.0, NUMPY_BELOW.1));
    let mut told = |line: &str| {
        let line = line.trim();
        let wanted = ["Downloading ", "Installing collected packages", "Successfully installed"];
        if wanted.iter().any(|w| line.starts_with(w)) {
            report(&line.chars().take(120).collect::<String>());
        }
    };
    if let Err(detail) = stream(&mut pip, INSTALL, &mut log_file, &mut told) {
        let _ = std::fs::remove_dir_all(dir);
        return Err(classify(dir, log, detail, |detail| PyEnvError::Install { log: log.to_owned(), detail }));
    }
    Ok(())
}

/// The two failures that a user meets most often have errors of their own.
fn classify(dir: &Path, log: &Path, detail: String, other: impl FnOnce(String) -> PyEnvError) -> PyEnvError {
    let whole = std::fs::read_to_string(log).unwrap_or_default();
    const NETWORK: [&str; 5] = [
        "NewConnectionError",
        "Temporary failure in name resolution",
        "Network is unreachable",
        "Max retries exceeded",
        "Connection refused",
    ];
    if whole.contains("No space left on device") || whole.contains("Disk quota exceeded") {
        PyEnvError::DiskFull { dir: dir.to_owned() }
    } else if NETWORK.iter().any(|n| whole.contains(n)) {
        PyEnvError::NoNetwork { detail }
    } else {
        other(detail)
    }
}

/// Runs a command, copies its lines to the log and to `told`. `Err` holds its last lines.
fn stream(command: &mut Command, limit: Duration, log: &mut File, told: &mut dyn FnMut(&str)) -> Result<(), String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("it does not start: {e}"))?;
    let (to, lines) = mpsc::sync_channel::<String>(64);
    if let Some(out) = child.stdout.take() {
        forward(out, to.clone());
    }
    if let Some(err) = child.stderr.take() {
        forward(err, to.clone());
    }
    drop(to);
    let began = Instant::now();
    let mut last = VecDeque::new();
    loop {
        match lines.recv_timeout(limit.saturating_sub(began.elapsed())) {
            Ok(line) => {
                let _ = writeln!(log, "{line}");
                told(&line);
                if last.len() == KEPT_LINES {
                    last.pop_front();
                }
                last.push_back(line);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it did not end within {} s", limit.as_secs()));
            }
        }
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    if status.success() {
        return Ok(());
    }
    last.push_back(format!("({status})"));
    Err(last.into_iter().map(|l| format!("  {l}")).collect::<Vec<_>>().join("\n"))
}

fn forward(from: impl Read + Send + 'static, to: mpsc::SyncSender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            if to.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
}
