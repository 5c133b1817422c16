//! How candidates are kept apart on this machine: the parts, which of them hold, and what to do about one that does not.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rollout::outcome::Fault;
use serde_json::Value;

use crate::fault::{ISOLATION, SCRATCH, SPAWN, ZYGOTE_START, fault};
use crate::harness;
use crate::zygote::python;

/// Starting Python and entering namespaces, on a busy machine. Neither torch nor Triton is imported.
const PROBE: Duration = Duration::from_secs(60);

/// One part of the isolation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// As `executor.require_isolation` and `troupe doctor` name it.
    pub name: &'static str,
    /// What it gives, in words.
    pub shown: &'static str,
    /// What to do where it does not hold.
    pub hint: &'static str,
}

const NAMESPACES: &str = "allow user namespaces: `sysctl user.max_user_namespaces`, `kernel.unprivileged_userns_clone` \
                          or `kernel.apparmor_restrict_unprivileged_userns`; in a container, a profile that permits \
                          `unshare` and `mount`";

const fn part(name: &'static str, shown: &'static str, hint: &'static str) -> Part {
    Part { name, shown, hint }
}

/// Every part, the weightier first.
pub const PARTS: [Part; 10] = [
    part("landlock", "Landlock", "a kernel of 5.13 or newer with `landlock` among its security modules (`lsm=`)"),
    part("seccomp", "system call filter", "a kernel with seccomp filters, on x86-64 or aarch64"),
    part(
        "root",
        "own read-only root",
        "Linux 5.12 or newer, a root that is no initial RAM disk, and permission to mount",
    ),
    part("pid", "own process ids", NAMESPACES),
    part("net", "own network", NAMESPACES),
    part("ipc", "own IPC", NAMESPACES),
    part("mount", "own mounts", NAMESPACES),
    part("proc", "own /proc", "a /proc without anything mounted over parts of it, as containers have it"),
    part("user", "own user namespace", NAMESPACES),
    part(
        "own_user",
        "a user of their own",
        "only the superuser can give one away, and that user must be able to read the Python environment: move the \
         cache (TROUPE_CACHE) out of folders that are root's alone",
    ),
];

/// How candidates are kept apart on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Isolation {
    /// Of `user`, `pid`, `net`, `ipc`, `mount`, `root` (a read-only root that holds only what they need) and `proc` (a
    /// process table of their own).
    pub namespaces: Vec<String>,
    /// The Landlock version in force; 0 when the kernel has none.
    pub landlock: u64,
    /// The system call filter is in force.
    pub seccomp: bool,
    /// Candidates of the superuser run as a user that owns nothing.
    pub spare_user: bool,
}

impl Isolation {
    /// What the zygote said of itself.
    pub(crate) fn of(report: &Value) -> Isolation {
        Isolation {
            namespaces: serde_json::from_value(report["cage"].clone()).unwrap_or_default(),
            landlock: report["landlock"].as_u64().unwrap_or(0),
            seccomp: report["seccomp"] == true,
            spare_user: report["uid"].is_u64(),
        }
    }

    pub fn holds(&self, part: &Part) -> bool {
        match part.name {
            "landlock" => self.landlock > 0,
            "seccomp" => self.seccomp,
            "own_user" => self.spare_user,
            name => self.namespaces.iter().any(|n| n == name),
        }
    }

    /// Whether `part` can be had on this machine by whoever runs Troupe: only the superuser has other users to give.
    pub fn concerns(part: &Part) -> bool {
        part.name != "own_user" || rustix::process::geteuid().is_root()
    }

    /// What is not in force, in one line; empty when everything is.
    pub fn missing(&self) -> String {
        let missing = PARTS.iter().filter(|p| Isolation::concerns(p) && !self.holds(p));
        missing.map(|p| p.shown).collect::<Vec<_>>().join(", ")
    }

    /// Which of the required parts do not hold. A name that is no part never holds.
    pub fn lacking<'a>(&self, require: &'a [String]) -> Vec<&'a str> {
        let holds = |name: &str| PARTS.iter().any(|p| p.name == name && self.holds(p));
        require.iter().map(String::as_str).filter(|name| !holds(name)).collect()
    }

    /// The fault of starting where a required part does not hold.
    pub(crate) fn demand(&self, require: &[String]) -> Result<(), Fault> {
        match self.lacking(require)[..] {
            [] => Ok(()),
            ref lacking => Err(fault(ISOLATION, format!("required, and not in force here: {}", lacking.join(", ")))),
        }
    }
}

/// What holds here, asked without starting an executor. Blocks for a fraction of a second.
pub fn probe(interpreter: &Path, scratch: &Path) -> Result<Isolation, Fault> {
    let shown = scratch.display();
    let unusable = |e: std::io::Error| fault(SCRATCH, format!("{shown} cannot be used: {e}"));
    std::fs::create_dir_all(scratch).map_err(unusable)?;
    let scratch = std::path::absolute(scratch).map_err(unusable)?;
    let dir = tempfile::Builder::new().prefix("probe-").tempdir_in(scratch).map_err(unusable)?;
    harness::unpack(dir.path()).map_err(unusable)?;
    let mut command = python(interpreter, &dir.path().join("zygote.py"), dir.path());
    let command = command.arg("--probe").as_std_mut();
    // Both are a few lines at most, so that they fit into their pipes.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let spawn = |e: std::io::Error| fault(SPAWN, format!("{} could not be started: {e}", interpreter.display()));
    let mut child = command.spawn().map_err(spawn)?;
    let deadline = Instant::now() + PROBE;
    while child.try_wait().map_err(spawn)?.is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(fault(ZYGOTE_START, format!("no answer within {} s", PROBE.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().map_err(spawn)?;
    match serde_json::from_slice(&output.stdout) {
        Ok(report) if output.status.success() => Ok(Isolation::of(&report)),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(fault(ZYGOTE_START, format!("the isolation could not be tried ({}): {}", output.status, said.trim())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Isolation {
        let namespaces = ["user", "pid", "net", "ipc", "mount", "root", "proc"].map(str::to_owned).to_vec();
        Isolation { namespaces, landlock: 6, seccomp: true, spare_user: true }
    }

    #[test]
    fn what_is_missing_is_named_and_nothing_else() {
        assert_eq!(all().missing(), "");
        assert_eq!(Isolation { seccomp: false, ..all() }.missing(), "system call filter");
        let one = Isolation { namespaces: vec!["pid".into(), "net".into(), "ipc".into()], landlock: 0, ..all() };
        assert_eq!(one.missing(), "Landlock, own read-only root, own mounts, own /proc, own user namespace");
    }

    #[test]
    fn what_is_required_and_does_not_hold_is_a_fault_that_names_it() {
        let every: Vec<String> = PARTS.iter().map(|p| p.name.to_owned()).collect();
        assert!(all().demand(&every).is_ok());
        assert!(Isolation::default().demand(&[]).is_ok());
        assert_eq!(Isolation::default().lacking(&every), every);
        let fault = Isolation { landlock: 0, ..all() }.demand(&every).unwrap_err();
        assert_eq!((fault.code.as_str(), fault.message.ends_with(": landlock")), (ISOLATION, true));
        assert_eq!(all().lacking(&["no such part".to_owned()]), ["no such part"]);
    }
}
