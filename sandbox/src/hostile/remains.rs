//! What a candidate leaves behind: processes, files, descriptors.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Looks for a mark that every hostile candidate puts on its files and on the command lines of what it starts.
pub struct Remains {
    mark: String,
}

impl Remains {
    /// A mark that no other process of this machine uses.
    pub fn new() -> Remains {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (process, n) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Remains { mark: format!("troupe-mix-{process}-{n}") }
    }

    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Marked processes of the whole machine, and marked files where anybody may write.
    pub fn of_all(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in list("/proc") {
            let command = std::fs::read(entry.join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&command).contains(&self.mark) {
                found.push(format!("process {}", entry.display()));
            }
        }
        for place in ["/", "/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue"] {
            found.extend(list(place).iter().map(|e| e.display().to_string()).filter(|e| e.contains(&self.mark)));
        }
        found
    }
}

fn list(dir: impl AsRef<Path>) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(dir).map(|d| d.flatten().map(|e| e.path()).collect()).unwrap_or_default()
}

/// Processes below the zygote. Where it has a pid namespace, `zygote` is the stub and its one child is the zygote.
pub fn below(zygote: Option<u32>, stub: bool) -> u64 {
    let all = zygote.map_or(0, descendants);
    all.saturating_sub(u64::from(stub))
}

fn descendants(pid: u32) -> u64 {
    let mut count = 0;
    for thread in list(format!("/proc/{pid}/task")) {
        let children = std::fs::read_to_string(thread.join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|n| n.parse().ok()) {
            count += 1 + descendants(child);
        }
    }
    count
}

/// Private directories that are still in the scratch folder, and anything else in it that is not the harness.
pub fn trials(scratch: &Path) -> u64 {
    let foreign = |p: &std::path::PathBuf| !p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("harness-"));
    list(scratch).iter().filter(|p| foreign(p)).count() as u64
}

/// Open descriptors of this process.
pub fn descriptors() -> u64 {
    // Reading the folder opens one.
    list("/proc/self/fd").len().saturating_sub(1) as u64
}
