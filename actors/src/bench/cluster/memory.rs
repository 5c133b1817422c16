//! Memory of a process and all that it has started: each shared page counted once (PSS), at its highest.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often it is read.
const PERIOD: Duration = Duration::from_millis(250);

/// Reads on a thread of its own until it is ended.
pub struct Watch {
    over: Arc<AtomicBool>,
    thread: JoinHandle<(f64, usize)>,
}

impl Watch {
    pub fn start(root: u32) -> Watch {
        let over = Arc::new(AtomicBool::new(false));
        let flag = over.clone();
        let thread = std::thread::spawn(move || {
            let mut most = (0.0, 0);
            loop {
                let now = tree(root);
                if now.0 > most.0 {
                    most = now;
                }
                if flag.load(Ordering::Relaxed) {
                    return most;
                }
                std::thread::park_timeout(PERIOD);
            }
        });
        Watch { over, thread }
    }

    /// MiB, and the number of processes then.
    pub fn end(self) -> (f64, usize) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or_default()
    }
}

/// A process and its descendants: MiB, and how many they are. 0 where `/proc` does not tell.
pub fn tree(root: u32) -> (f64, usize) {
    let members = members(root);
    let kib: f64 = members.iter().map(|pid| pss_kib(*pid)).sum();
    (kib / 1024.0, members.len())
}

/// The process and its descendants.
fn members(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name in parentheses may hold spaces.
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        children.entry(parent.unwrap_or(0)).or_default().push(pid);
    }
    let mut all = vec![root];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        all.extend(children.get(pid).cloned().unwrap_or_default());
        next += 1;
    }
    all
}

fn pss_kib(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("Pss:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell that holds 32 MiB, and a child of it. Planted: children are not followed. Seen: one process where two are.
    #[test]
    fn children_count_and_memory_that_is_used_shows() {
        let script = "held=$(head -c 33554432 /dev/zero | tr '\\0' x); sleep 300; echo ${#held}";
        let mut shell = std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
        let until = std::time::Instant::now() + Duration::from_secs(120);
        let seen = loop {
            let seen = tree(shell.id());
            if (seen.0 >= 32.0 && seen.1 == 2) || std::time::Instant::now() > until {
                break seen;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let sleeper = members(shell.id())[1..].to_vec();
        shell.kill().unwrap();
        shell.wait().unwrap();
        for pid in sleeper {
            let _ = std::process::Command::new("kill").arg(pid.to_string()).status();
        }
        assert!(seen.0 >= 32.0 && seen.1 == 2, "{seen:?}");
    }
}
