//! Viewers as processes: each in a session of its own, in a terminal of its own where it needs one; gone with their owner.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Longest wait for a viewer's first words.
const SPEAKS: Duration = Duration::from_secs(60);
/// Of the terminals.
const SIZE: Winsize = Winsize { ws_row: 50, ws_col: 160, ws_xpixel: 0, ws_ypixel: 0 };
/// Ticks of a second in `/proc`, as Linux has them everywhere.
const TICKS: f64 = 100.0;

/// A viewer; killed when it is dropped.
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.0.id())
    }

    /// Stops it where it is, or lets it go on.
    pub fn let_go_on(&self, go: bool) -> std::io::Result<()> {
        let signal = if go { Signal::CONT } else { Signal::STOP };
        let pid = Pid::from_raw(self.0.id().cast_signed()).ok_or(std::io::ErrorKind::NotFound)?;
        Ok(kill_process(pid, signal)?)
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn is_alive(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

/// Processor time of a process so far; 0 where `/proc` does not tell.
pub fn cpu_seconds(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it may hold anything.
    let rest = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    rest.split(' ').skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / TICKS
}

/// Whether a process is within a read of the store with this index: SQLite holds a lock on one of five bytes of it then (123 to 127, by the
/// format of its index). False where `/proc` does not tell.
pub fn reads(pid: u32, index: &Path) -> bool {
    let Ok(inode) = std::fs::metadata(index).map(|m| m.ino()) else { return false };
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    locks.lines().any(|line| is_read(line, pid, inode))
}

/// A line such as `1: POSIX  ADVISORY  READ 1234 fe:00:5678 123 123`.
fn is_read(line: &str, pid: u32, inode: u64) -> bool {
    let words: Vec<&str> = line.split_whitespace().filter(|word| *word != "->").collect();
    let [_, "POSIX", _, _, owner, file, first, last] = words[..] else { return false };
    let same = file.rsplit(':').next().and_then(|n| n.parse().ok()) == Some(inode) && owner.parse() == Ok(pid);
    let (first, last): (u64, u64) = (first.parse().unwrap_or(u64::MAX), last.parse().unwrap_or(0));
    same && first <= 127 && last >= 123
}

fn setsid() -> Option<PathBuf> {
    ["/usr/bin/setsid", "/bin/setsid"].map(PathBuf::from).into_iter().find(|path| path.exists())
}

/// True when viewers get sessions of their own. The kernel's fair share may be one for each session.
pub fn own_sessions() -> bool {
    setsid().is_some()
}

/// `program`, else this one, in a session of its own.
fn troupe(program: Option<&Path>, terminal: bool) -> std::io::Result<Command> {
    let own = program.map_or_else(std::env::current_exe, |path| Ok(path.to_path_buf()))?;
    let Some(setsid) = setsid() else { return Ok(Command::new(own)) };
    let mut command = Command::new(setsid);
    if terminal {
        command.arg("--ctty");
    }
    command.arg(own);
    Ok(command)
}

/// A dashboard of a run directory, and its address.
pub fn dashboard(program: Option<&Path>, run_dir: &Path) -> std::io::Result<(Process, String)> {
    let mut command = troupe(program, false)?;
    command.arg("dashboard").arg(run_dir).args(["--listen", "127.0.0.1:0"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let stdout = child.stdout.take();
    let process = Process(child);
    let (to, first) = channel();
    std::thread::Builder::new().name("dashboard".into()).spawn(move || {
        let mut line = String::new();
        if let Some(stdout) = stdout {
            let mut lines = BufReader::new(stdout);
            let _ = lines.read_line(&mut line);
            let _ = to.send(line.trim().to_string());
            let _ = std::io::copy(&mut lines, &mut std::io::sink());
        }
    })?;
    let address = first.recv_timeout(SPEAKS).map_err(|_| std::io::ErrorKind::TimedOut)?;
    Ok((process, address))
}

/// `troupe watch` in a terminal; it is there when the run's numbers are on its screen.
pub fn watch(program: Option<&Path>, run_dir: &Path) -> std::io::Result<Process> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let name = name.to_str().map_err(std::io::Error::other)?;
    tcsetwinsize(&master, SIZE)?;
    let open = || std::fs::File::options().read(true).write(true).open(name);
    let mut command = troupe(program, true)?;
    command.arg("watch").arg(run_dir).stdin(open()?).stdout(open()?).stderr(Stdio::null());
    command.env("TERM", "xterm-256color");
    let process = Process(command.spawn()?);
    drop(command);
    screen(master.into())?.recv_timeout(SPEAKS).map_err(|_| std::io::ErrorKind::TimedOut)?;
    Ok(process)
}

/// Reads what is drawn, so that the terminal never fills; tells once when the overview is there.
fn screen(mut master: std::fs::File) -> std::io::Result<Receiver<()>> {
    let (to, there) = channel();
    std::thread::Builder::new().name("terminal".into()).spawn(move || {
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        // Fails when the other end is closed.
        while let Ok(read @ 1..) = master.read(&mut buffer) {
            if seen.len() < 1 << 20 {
                seen.extend_from_slice(&buffer[..read]);
                if seen.windows(6).any(|w| w == b"ledger") {
                    let _ = to.send(());
                    seen = vec![0; 1 << 20];
                }
            }
        }
    })?;
    Ok(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_on_one_of_the_five_bytes_is_a_read() {
        let found = |line: &str| is_read(line, 1234, 5678);
        assert!(found("1: POSIX  ADVISORY  READ 1234 fe:00:5678 123 123"));
        assert!(found("27: POSIX  ADVISORY  READ  1234 08:01:5678 127 127"));
        assert!(!found("1: POSIX  ADVISORY  READ 1234 fe:00:5678 128 128"), "every connection has this one");
        assert!(!found("1: POSIX  ADVISORY  WRITE 1234 fe:00:5678 120 120"), "a writer");
        assert!(!found("1: POSIX  ADVISORY  READ 1235 fe:00:5678 123 123"), "somebody else");
        assert!(!found("1: POSIX  ADVISORY  READ 1234 fe:00:5679 123 123"), "another file");
        assert!(!found("1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF") && !found(""));
    }

    /// The bytes are SQLite's own: a connection of this process that reads is seen, and no longer once it has read.
    #[test]
    fn a_connection_that_reads_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sqlite");
        let db = rusqlite::Connection::open(&path).unwrap();
        db.pragma_update(None, "journal_mode", "wal").unwrap();
        db.execute_batch("CREATE TABLE t (n); INSERT INTO t VALUES (1)").unwrap();
        let index = dir.path().join("x.sqlite-shm");
        assert!(!reads(std::process::id(), &index));
        db.execute_batch("BEGIN; SELECT * FROM t").unwrap();
        assert!(reads(std::process::id(), &index));
        db.execute_batch("END").unwrap();
        assert!(!reads(std::process::id(), &index));
    }
}
