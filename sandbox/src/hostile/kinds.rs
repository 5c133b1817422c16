//! The kinds of hostile candidates, as Python that runs inside the sandbox and nowhere else.

use rollout::id::TaskId;
use rollout::outcome::Phase;
use rollout::task::{Split, TaskSpec};

/// One attack: the body of a function that is called in one of the three phases.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub name: &'static str,
    /// `MARK` stands for a text that shows whose a file or process is.
    pub body: &'static str,
    /// It goes on honestly afterwards, so that it may pass.
    pub harmless: bool,
}

const fn fatal(name: &'static str, body: &'static str) -> Kind {
    Kind { name, body, harmless: false }
}

const fn harmless(name: &'static str, body: &'static str) -> Kind {
    Kind { name, body, harmless: true }
}

pub const KINDS: &[Kind] = &[
    fatal(
        "fork bomb",
        "while True:\n    try:\n        if os.fork() == 0: os.setsid()\n    except OSError: time.sleep(0.01)",
    ),
    fatal("64 GiB at once", "keep = bytearray(64 << 30)"),
    fatal("64 GiB piece by piece", "keep = []\nfor _ in range(1024): keep.append(b'x' * (64 << 20))"),
    fatal(
        "64 GiB by mmap",
        "keep = []\nfor _ in range(64):\n    m = mmap.mmap(-1, 1 << 30)\n    for at in range(0, 1 << 30, 4096): m[at] = 1\n    keep.append(m)",
    ),
    fatal(
        "shared memory in many processes",
        "for _ in range(16):\n    if os.fork() == 0:\n        m = mmap.mmap(-1, 400 << 20)\n        for at in range(0, 400 << 20, 4096): m[at] = 1\n        time.sleep(600)\ntime.sleep(600)",
    ),
    fatal("endless output", "while True: os.write(1, b'x' * 65536)"),
    fatal(
        "endless output from children",
        "for _ in range(4):\n    if os.fork() == 0:\n        while True: os.write(2, b'y' * 65536)\ntime.sleep(600)",
    ),
    fatal("SIGSTOP to itself", "os.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(600)"),
    fatal("SIGSTOP to its group", "if os.fork() == 0: time.sleep(600)\nos.killpg(0, signal.SIGSTOP)\ntime.sleep(600)"),
    harmless(
        "setsid grandchildren",
        "for _ in range(3):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0: time.sleep(600)\n        os._exit(0)",
    ),
    harmless(
        "daemon that ignores SIGTERM",
        "subprocess.Popen(['sh', '-c', 'trap \"\" TERM HUP INT; sleep 600; : MARK'], start_new_session=True)",
    ),
    fatal(
        "writing to every descriptor",
        "for fd in range(256):\n    try: os.write(fd, b'\\xff' * 4096)\n    except OSError: pass\ntime.sleep(600)",
    ),
    fatal(
        "garbage frames",
        "for fd in range(3, 256):\n    try: os.write(fd, struct.pack('<I', 2) + b'{}' + struct.pack('<Q', 1 << 60))\n    except OSError: pass\ntime.sleep(600)",
    ),
    fatal(
        "killing its parent's group",
        "for pid in (os.getppid(), 1):\n    try: os.killpg(os.getpgid(pid), signal.SIGKILL)\n    except OSError: pass\nos.killpg(0, signal.SIGKILL)",
    ),
    fatal("killing -1", "os.kill(-1, signal.SIGKILL)\nos._exit(3)"),
    fatal("killing itself", "os.kill(os.getpid(), signal.SIGKILL)"),
    fatal(
        "filling its temporary directory",
        "with open('/tmp/MARK' if os.access('/tmp', os.W_OK) else 'MARK', 'wb') as f:\n    while True: f.write(bytes(1 << 20))",
    ),
    fatal("100,000 files", "for n in range(100000): open(f'MARK-{n}', 'w').close()\nos._exit(0)"),
    harmless(
        "locking its directory",
        "name = f'd{time.monotonic_ns()}'\nos.makedirs(f'{name}/b')\nos.chmod(f'{name}/b', 0)\nos.chmod(name, 0)",
    ),
    harmless(
        "writing everywhere",
        "for place in ('/', '/tmp', '/var/tmp', '/dev/shm', '/dev/mqueue', '/run', '/home', '/harness', sys.prefix, '/proc/1'):\n    try: open(os.path.join(place, 'MARK'), 'w').write('x')\n    except OSError: pass",
    ),
    fatal(
        "ignoring SIGTERM",
        "for n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\ntime.sleep(600)",
    ),
    fatal("blocking every signal", "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass"),
    fatal("closing every descriptor", "os.closerange(0, 256)\ntime.sleep(600)"),
    fatal("leaving a child with the pipe", "if os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\nos._exit(0)"),
    fatal("fork and exit, for ever", "while True:\n    if os.fork(): os._exit(0)"),
    harmless(
        "memory of its parent",
        "for pid in (os.getppid(), 1):\n    for name in ('mem', 'maps', 'environ', 'fd/0'):\n        try: open(f'/proc/{pid}/{name}', 'r+b').write(b'x')\n        except OSError: continue\n        os._exit(9)\nctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)",
    ),
    fatal("deep recursion", "sys.setrecursionlimit(1 << 30)\ndef f(_): return sorted([0], key=f)\nf(0)"),
    fatal(
        "exec of a shell",
        "os.execv('/bin/sh', ['sh', '-c', 'trap \"\" TERM HUP INT; while :; do :; done; : MARK'])",
    ),
    fatal("thread bomb", "while True: threading.Thread(target=time.sleep, args=(600,), daemon=True).start()"),
    fatal("exit code 0", "os._exit(0)"),
];

const HEAD: &str = "\
import ctypes, mmap, os, signal, struct, subprocess, sys, threading, time
import torch
import triton
import triton.language as tl


@triton.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    tl.store(out + at, tl.load(x + at, mask=mask) + 2 * tl.load(y + at, mask=mask), mask=mask)


def add(x, y):
    out = torch.empty_like(x)
    add_kernel[(triton.cdiv(x.numel(), 256),)](x, y, out, x.numel(), BLOCK=256)
    return out
";

const TASK: &str = "\
import torch


class Model(torch.nn.Module):
    def forward(self, x, y):
        return x + 2 * y


def get_inputs():
    return [torch.randn(8, 128), torch.randn(8, 128)]


def get_init_inputs():
    return []
";

pub fn task() -> TaskSpec {
    TaskSpec {
        id: TaskId("hostile_mix".into()),
        level: 1,
        split: Split::Validation,
        tags: Vec::new(),
        source: TASK.into(),
    }
}

/// A candidate that is right.
pub fn honest() -> String {
    format!("{HEAD}\n\nclass ModelNew(torch.nn.Module):\n    def forward(self, x, y):\n        return add(x, y)\n")
}

/// A candidate that is right but for what it does in `phase`.
pub fn source(kind: &Kind, phase: Phase, mark: &str) -> String {
    let body: String = kind.body.replace("MARK", mark).lines().map(|l| format!("    {l}\n")).collect();
    let (top, first) = match phase {
        Phase::Import => ("act()", "pass"),
        Phase::Compile => ("pass", "act()"),
        // The program asks where it runs; so would a hostile one.
        Phase::Run => ("pass", "triton.knobs.runtime.interpret and act()"),
    };
    format!(
        "{HEAD}\n\ndef act():\n{body}\n{top}\n\n\nclass ModelNew(torch.nn.Module):\n    def forward(self, x, y):\n        \
         {first}\n        return add(x, y)\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_name_and_is_called_in_each_phase() {
        let names: std::collections::BTreeSet<_> = KINDS.iter().map(|k| k.name).collect();
        assert_eq!(names.len(), KINDS.len());
        for phase in [Phase::Import, Phase::Compile, Phase::Run] {
            let source = source(&KINDS[16], phase, "the-mark");
            assert!(source.contains("the-mark") && !source.contains("MARK"), "{source}");
            assert_eq!(source.matches("act()").count(), 2, "the definition and one call: {source}");
        }
    }
}
