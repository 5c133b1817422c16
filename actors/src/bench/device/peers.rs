//! The peers: KernelBench's protocol in a fresh Python process for each candidate, and in one that stays, without isolation.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::Item;

/// What a peer did with the set, or part of it.
#[derive(Clone, Debug, Serialize)]
pub struct Peer {
    pub candidates: usize,
    pub seconds: f64,
    pub per_minute: f64,
    /// Verdicts other than the set's: name, expected, found. The peer is not to blame for all: it has no lint.
    pub other: Vec<(String, String, String)>,
    /// Name to speed-up.
    pub speedups: std::collections::BTreeMap<String, f64>,
}

/// A process for each of `items`, one after the other, `deadline` for each.
///
/// # Errors
/// A process that cannot be started.
pub async fn fresh(python: &Path, dir: &Path, items: &[Item], deadline: Duration) -> std::io::Result<Peer> {
    let began = Instant::now();
    let mut found = Vec::new();
    for item in items {
        let mut command = Command::new(python);
        command.arg(dir.join("fresh_peer.py")).arg(&item.task_path).arg(&item.path);
        command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let output = timeout(deadline, command.output()).await;
        found.push(match output {
            Err(_) => json!({"verdict": "timed_out"}),
            Ok(output) => last_line(&output?.stdout),
        });
    }
    Ok(peer(items, &found, began.elapsed()))
}

fn last_line(out: &[u8]) -> Value {
    let text = String::from_utf8_lossy(out);
    let line = text.lines().rev().find(|l| l.starts_with('{')).unwrap_or("{}");
    serde_json::from_str(line).unwrap_or(Value::Null)
}

struct Process {
    child: Child,
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(python: &Path, dir: &Path) -> std::io::Result<Process> {
        let mut command = Command::new(python);
        command.arg(dir.join("persistent_peer.py")).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(std::io::Error::other("no pipes to the peer"));
        };
        Ok(Process { child, to, from: BufReader::new(from).lines() })
    }

    async fn ask(&mut self, item: &Item) -> std::io::Result<Option<Value>> {
        let line = json!({"task": item.task_path, "candidate": item.path}).to_string() + "\n";
        self.to.write_all(line.as_bytes()).await?;
        loop {
            match self.from.next_line().await? {
                // It also says when it is up.
                Some(line) if line.contains("\"verdict\"") => return Ok(serde_json::from_str(&line).ok()),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }
}

/// One process for all of `items`, started again after a hang or a fault of the device. Its first start is not counted.
///
/// # Errors
/// A process that cannot be started.
pub async fn persistent(python: &Path, dir: &Path, items: &[Item], deadline: Duration) -> std::io::Result<Peer> {
    let mut process = Process::start(python, dir)?;
    // Imports, the first context and what each task needs once, before the clock starts.
    let mut tasks = std::collections::BTreeSet::new();
    for first in items.iter().filter(|i| i.expect.verdict == "passed" && tasks.insert(&i.task_path)) {
        let _ = timeout(Duration::from_secs(120), process.ask(first)).await;
    }
    let began = Instant::now();
    let mut found = Vec::new();
    for item in items {
        let answer = timeout(deadline, process.ask(item)).await;
        let answer = match answer {
            Ok(Ok(Some(answer))) => answer,
            Ok(_) => json!({"verdict": "error"}),
            Err(_) => json!({"verdict": "timed_out"}),
        };
        let broken = answer["verdict"] == "timed_out" || !matches!(process.child.try_wait(), Ok(None));
        if broken {
            let _ = process.child.kill().await;
            process = Process::start(python, dir)?;
        }
        found.push(answer);
    }
    let peer = peer(items, &found, began.elapsed());
    let _ = process.child.kill().await;
    Ok(peer)
}

fn peer(items: &[Item], found: &[Value], took: Duration) -> Peer {
    let mut other = Vec::new();
    let mut speedups = std::collections::BTreeMap::new();
    for (item, answer) in items.iter().zip(found) {
        let verdict = match answer["verdict"].as_str().unwrap_or("none") {
            "wrong" => "wrong_answer",
            other => other,
        };
        if let Some(x) = answer["speedup"].as_f64() {
            speedups.insert(item.name.clone(), x);
        }
        if verdict != item.expect.verdict {
            other.push((item.name.clone(), item.expect.verdict.clone(), verdict.to_owned()));
        }
    }
    let seconds = took.as_secs_f64();
    Peer { candidates: items.len(), seconds, per_minute: 60.0 * items.len() as f64 / seconds, other, speedups }
}
