//! One process of a launch: in a process group of its own, its lines told under its name, its stdin the tie to us. Dropping it kills the
//! group.

use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child as Process, ChildStdin, Command};
use tokio::task::JoinSet;

/// A longer line is told in pieces.
const LINE_BYTES: u64 = 64 * 1024;
/// For the first line, to a process that does not read.
const FIRST_LINE: Duration = Duration::from_secs(10);
/// For the last lines of a process that has ended; what it left could hold its pipes open.
const LAST_LINES: Duration = Duration::from_secs(2);

/// A line that one of them said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Data of the head's, for our stdout.
    Out(String),
    /// Talk, for our stderr.
    Err(String),
}

pub type Tell = Arc<dyn Fn(Told) + Send + Sync>;

pub struct Child {
    process: Process,
    group: Option<Pid>,
    stdin: Option<ChildStdin>,
    lines: JoinSet<()>,
}

impl Child {
    /// Starts it under `name`. `first_line` goes to its stdin, which stays open until [`Child::untie`]. `data`: its stdout is ours.
    ///
    /// # Errors
    /// No such program, no process to be had, or it does not read.
    pub async fn start(
        command: std::process::Command,
        name: &str,
        first_line: Option<&str>,
        data: bool,
        tell: &Tell,
    ) -> std::io::Result<Child> {
        let mut command = Command::from(command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C in a terminal reaches the launcher alone, which ends the others in order.
        command.process_group(0).kill_on_drop(true);
        let mut process = command.spawn()?;
        let group = process.id().and_then(|id| Pid::from_raw(id as i32));
        let mut lines = JoinSet::new();
        if let Some(out) = process.stdout.take() {
            lines.spawn(relay(out, (!data).then(|| name.to_string()), tell.clone()));
        }
        if let Some(err) = process.stderr.take() {
            lines.spawn(relay(err, Some(name.to_string()), tell.clone()));
        }
        let mut child = Child { stdin: process.stdin.take(), process, group, lines };
        if let (Some(line), Some(stdin)) = (first_line, child.stdin.as_mut()) {
            let line = format!("{line}\n");
            // A process that is gone already is told by its exit code.
            let written = tokio::time::timeout(FIRST_LINE, stdin.write_all(line.as_bytes())).await;
            written.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?.ok();
        }
        Ok(child)
    }

    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// To the process alone: it ends what it started itself.
    pub fn signal(&self, signal: Signal) {
        if let (Some(pid), Some(_)) = (self.group, self.process.id()) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Ends its stdin: a process that is tied to it ends in order.
    pub fn untie(&mut self) {
        self.stdin = None;
    }

    /// Until it has ended, its last lines have been told, and nothing of its group is left.
    ///
    /// # Errors
    /// It is not ours to wait for.
    pub async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.process.wait().await?;
        self.kill_group();
        let _ = tokio::time::timeout(LAST_LINES, async { while self.lines.join_next().await.is_some() {} }).await;
        Ok(status)
    }

    /// Waits for so long. `None`: it still lives.
    pub async fn wait_for(&mut self, limit: Duration) -> Option<ExitStatus> {
        tokio::time::timeout(limit, self.wait()).await.ok().and_then(Result::ok)
    }

    /// Without mercy, all of its group.
    pub fn kill_group(&self) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.process.id().is_some() {
            self.kill_group();
        }
    }
}

/// Tells each line, under the name where there is one.
async fn relay(from: impl AsyncRead + Unpin, name: Option<String>, tell: Tell) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut from).take(LINE_BYTES).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = crate::cli::printable(text.trim_end_matches(['\n', '\r']));
        tell(match &name {
            Some(name) => Told::Err(format!("{name:<12} | {text}")),
            None => Told::Out(text.to_string()),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn sh(script: &str) -> std::process::Command {
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    fn ear() -> (Tell, Arc<Mutex<Vec<Told>>>) {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let to = heard.clone();
        (Arc::new(move |told| to.lock().unwrap().push(told)), heard)
    }

    #[tokio::test]
    async fn lines_have_names_and_stdin_is_the_tie() {
        let (tell, heard) = ear();
        let script = "read first; echo \"got $first\" >&2; cat; printf 'data\\nlast'";
        let mut child = Child::start(sh(script), "executor-1", Some("secret"), true, &tell).await.unwrap();
        assert!(child.wait_for(Duration::from_millis(100)).await.is_none(), "it ends with its stdin");
        child.untie();
        assert_eq!(child.wait_for(Duration::from_secs(60)).await.unwrap().code(), Some(0));
        let mut heard = heard.lock().unwrap().clone();
        heard.sort_by_key(|told| matches!(told, Told::Out(_)));
        let named = Told::Err("executor-1   | got secret".into());
        assert_eq!(heard, [named, Told::Out("data".into()), Told::Out("last".into())]);
    }

    /// What it started in its group ends with it, even when it does not end in order. Planted: no `kill_group` in `wait`.
    #[tokio::test]
    async fn nothing_of_its_group_is_left() {
        let (tell, heard) = ear();
        let mut child = Child::start(sh("sleep 1000 & echo $!; kill -9 $$"), "n", None, true, &tell).await.unwrap();
        let status = child.wait_for(Duration::from_secs(60)).await.unwrap();
        assert_eq!(status.code(), None);
        let Told::Out(pid) = heard.lock().unwrap()[0].clone() else { panic!() };
        let alive = |pid: &str| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while alive(&pid) {
            assert!(std::time::Instant::now() < until, "it still sleeps");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
