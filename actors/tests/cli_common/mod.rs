//! Shared by the tests of the command line: the built binary in a clean folder.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

#[path = "../../../sandbox/tests/python/mod.rs"]
pub mod environment;

/// Longest life of a command: far above what any takes on a busy machine, far below what CI waits.
const LIMIT: Duration = Duration::from_secs(300);

/// As for every room's tests: `None` where tests that need Python are to be skipped.
pub fn python() -> Option<PathBuf> {
    environment::python()
}

/// A folder of its own to run `troupe` in.
pub struct Place {
    pub dir: tempfile::TempDir,
}

/// What came of a command.
pub struct Got {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Place {
    pub fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn put(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// `troupe` with these arguments; the cache is empty and there is no Python to be found.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_troupe"));
        command
            .args(args)
            .current_dir(self.path())
            .env("TROUPE_CACHE", self.path().join("cache"))
            .env("PATH", self.path().join("empty"))
            .env_remove("RUST_LOG");
        command
    }

    #[track_caller]
    pub fn troupe(&self, args: &[&str]) -> Got {
        got(self.command(args))
    }
}

/// Runs a command to its end, within `LIMIT`.
#[track_caller]
pub fn got(command: Command) -> Got {
    Running::start(command, LIMIT).end()
}

/// A command with a deadline: past it the command is killed and the test fails with what had been said.
pub struct Running {
    child: Child,
    until: Instant,
    lines: Receiver<String>,
    /// All of stdout, when it has ended.
    out: Receiver<String>,
    err: String,
}

impl Running {
    pub fn start(mut command: Command, limit: Duration) -> Running {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut stdout, stderr) = (child.stdout.take().unwrap(), BufReader::new(child.stderr.take().unwrap()));
        // Threads of their own: a read cannot be given a deadline. They end when the pipes do.
        let (to, out) = channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stdout.read_to_end(&mut text);
            let _ = to.send(String::from_utf8(text).unwrap());
        });
        let (to, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.split(b'\n').map_while(Result::ok) {
                let _ = to.send(String::from_utf8(line).unwrap());
            }
        });
        Running { child, until: Instant::now() + limit, lines, out, err: String::new() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of stderr that starts with `start`.
    #[track_caller]
    pub fn wait_for(&mut self, start: &str) {
        loop {
            match self.lines.recv_timeout(self.left()) {
                Ok(line) => {
                    let found = line.starts_with(start);
                    self.err += &(line + "\n");
                    if found {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.give_up(&format!("no line `{start}`")),
                Err(RecvTimeoutError::Disconnected) => panic!("it ended before `{start}`:\n{}", self.err),
            }
        }
    }

    #[track_caller]
    pub fn end(mut self) -> Got {
        let code = self.status().code();
        // A process that it left behind could hold the pipes open.
        let Ok(out) = self.out.recv_timeout(self.left()) else { self.give_up("stdout did not end") };
        loop {
            match self.lines.recv_timeout(self.left()) {
                Ok(line) => self.err += &(line + "\n"),
                Err(RecvTimeoutError::Disconnected) => return Got { code, out, err: self.err },
                Err(RecvTimeoutError::Timeout) => self.give_up("stderr did not end"),
            }
        }
    }

    #[track_caller]
    fn status(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            if self.left().is_zero() {
                self.give_up("it did not end");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    #[track_caller]
    fn give_up(&mut self, what: &str) -> ! {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.err.extend(self.lines.try_iter().map(|line| line + "\n"));
        panic!("{what} in time; stderr so far:\n{}", self.err);
    }
}

impl Got {
    /// Ended with this code; stderr holds all of these.
    #[track_caller]
    pub fn fails(&self, code: i32, texts: &[&str]) -> &Got {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        for text in texts {
            assert!(self.err.contains(text), "`{text}` is missing in:\n{}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    #[track_caller]
    pub fn succeeds(&self) -> &Got {
        self.fails(0, &[])
    }
}

/// All four parts of an error are there.
pub const PARTS: &[&str] = &["error: ", "where:", "found:", "expected:", "hint:"];

pub const TASK: &str = "# tags: elementwise
import torch


class Model(torch.nn.Module):
    def forward(self, x):
        return torch.relu(x)


def get_inputs():
    return [torch.randn(16, 64)]


def get_init_inputs():
    return []
";

pub const GOOD: &str = "import torch
import triton
import triton.language as tl


@triton.jit
def relu_kernel(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    value = tl.load(x + at, mask=mask)
    tl.store(out + at, tl.where(value > 0, value, 0.0), mask=mask)


class ModelNew(torch.nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        n = x.numel()
        relu_kernel[(triton.cdiv(n, 256),)](x, out, n, BLOCK=256)
        return out
";

/// Delegates to torch: no kernel at all.
pub const CHEAT: &str = "import torch


class ModelNew(torch.nn.Module):
    def forward(self, x):
        return torch.relu(x)
";

pub fn answer(code: &str) -> String {
    format!("<think>one kernel, one block a program</think>\n\n```python\n{code}```\n")
}
