//! Shared by the tests of the command line: the built binary in a clean folder.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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

    pub fn troupe(&self, args: &[&str]) -> Got {
        got(self.command(args).output().unwrap())
    }
}

pub fn got(output: Output) -> Got {
    Got {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
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

/// The interpreter: `TROUPE_PYTHON`, else the environment in Troupe's cache. `None` (and a line that says why) where
/// there is none: then the tests that need it are skipped.
pub fn python() -> Option<PathBuf> {
    use sandbox::pyenv::{PyEnvConfig, default_cache_dir, ensure};
    let interpreter = std::env::var_os("TROUPE_PYTHON").map(PathBuf::from);
    let cache_dir = default_cache_dir().ok()?;
    match ensure(&PyEnvConfig { interpreter, cache_dir }, &mut |line| eprintln!("{line}")) {
        Ok(python) => Some(python),
        Err(e) => {
            eprintln!("skipped: {e}");
            None
        }
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
