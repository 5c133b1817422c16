//! A tiny real run whose every answer is executed, and the processes that a launch of it has.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cli_common::{self, GOOD, Place, TASK, answer};

/// For a real run of seconds on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(580);

/// One launch at a time: each has several processes that want a core.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two tasks, and a policy that knows their answer by heart: all it says passes, once an executor has looked. The head has no executors,
/// so that every verdict is a node's.
pub fn place(more: &str) -> Option<Place> {
    let python = cli_common::python()?;
    let place = Place::new();
    std::fs::create_dir(place.path().join("tmp")).unwrap();
    place.put("tasks/train/level1/relu_a.py", TASK);
    place.put("tasks/train/level1/relu_b.py", TASK.replace("16, 64", "8, 32"));
    place.put("tasks/held_out/level2/relu_c.py", TASK.replace("16, 64", "4, 16"));
    place.put("examples/relu_a__1.md", answer(GOOD));
    place.put("examples/relu_b__1.md", answer(GOOD));
    place.put(
        "cluster.toml",
        format!(
            "tasks.dir = \"tasks\"\npython.interpreter = \"{}\"\neval.enabled = false\n\
             [model]\nhidden = 64\nlayers = 1\nheads = 2\nkv_heads = 1\nff = 128\nvocab = 400\n\
             [sft]\nexamples = \"examples\"\nepochs = 300\n\
             [sampling]\nmax_new_tokens = 512\ntemperature = 0.2\n\
             [rollout]\ngroup_size = 2\ngroups_per_step = 2\ncredits = 16\ndrop_zero_variance = false\n\
             [executor]\nworkers = 0\nreuse_verdicts = false\n\
             {more}\n",
            python.display()
        ),
    );
    Some(place)
}

/// `troupe` there, with everybody's temporary files inside, and the tools of the system.
pub fn command(place: &Place, args: &[&str]) -> Command {
    let mut command = place.command(args);
    command.env("TMPDIR", place.path().join("tmp")).env_remove("TROUPE_COOKIE");
    command.env("PATH", std::env::var_os("PATH").unwrap());
    command
}

/// How many rollouts passed: each was on an executor.
pub fn passed(place: &Place, run: &str) -> usize {
    let got = place.troupe(&["rollouts", run, "--json", "--filter", "verdict = passed"]);
    let rows: Vec<Value> = serde_json::from_str(&got.succeeds().out).unwrap();
    rows.len()
}

/// Steps and whether it was interrupted, as the summary says.
pub fn summary(place: &Place, run: &str) -> Option<(u64, bool)> {
    let text = std::fs::read_to_string(place.path().join(run).join("summary.json")).ok()?;
    let summary: Value = serde_json::from_str(&text).ok()?;
    Some((summary["steps"].as_u64()?, summary["interrupted"].as_bool()?))
}

/// Processes whose command line or environment holds `mark`, with their command lines; what is dead does not count.
pub fn processes(mark: &str) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let read = |name: &str| {
            let bytes = std::fs::read(entry.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let line = read("cmdline");
        // A zombie has neither.
        if pid as u32 != std::process::id() && (line.contains(mark) || read("environ").contains(mark)) {
            found.push((pid, line));
        }
    }
    found
}

/// Nothing with `mark` is left, soon.
#[track_caller]
pub fn gone(mark: &str) {
    wait_for("all processes to end", || match processes(mark) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
}

#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(found) => assert!(Instant::now() < until, "waited for {what}; {found}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// The one process of a launch with these words on its command line; `ssh` has those of the host's on its own.
#[track_caller]
pub fn process(mark: &str, words: &str) -> i32 {
    wait_for(words, || {
        let all: Vec<(i32, String)> =
            processes(mark).into_iter().filter(|(_, line)| line.contains(words) && !line.starts_with("ssh ")).collect();
        match &all[..] {
            [(pid, _)] => Ok(*pid),
            others => Err(format!("{others:?}")),
        }
    })
}

/// A program of the system's, or the reason why the test cannot be.
pub fn program(names: &[&str]) -> Result<std::path::PathBuf, String> {
    let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin", "/usr/local/sbin"];
    let here = |name: &&str| folders.iter().map(|f| Path::new(f).join(name)).find(|path| path.exists());
    names.iter().find_map(here).ok_or(format!("there is no {}", names.join(" or ")))
}
