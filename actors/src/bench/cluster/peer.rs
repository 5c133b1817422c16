//! Runs the peer's program with the interpreter that the user names, and reads what it found.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use super::memory;
use super::versus::{PeerPlan, Reached};
use crate::errors::UserError;

const PROGRAM: &str = include_str!("ray_peer.py");

/// One measurement of the peer.
///
/// # Errors
/// It cannot be started, says nothing in time, or something that is no result.
pub async fn ray(python: &Path, plan: &PeerPlan) -> Result<Reached, UserError> {
    let broken = |found: String| {
        UserError::new("the peer cannot be measured")
            .at(format!("--peer-python {}", python.display()))
            .found(found)
            .expected("a Python with ray and numpy")
            .hint("python3 -m venv ray && ray/bin/pip install ray==2.60.0 numpy, then --peer-python ray/bin/python")
    };
    let mut command = Command::new(python);
    command.args(["-c", PROGRAM]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().map_err(|e| broken(e.to_string()))?;
    let (Some(mut to), Some(from), Some(mut log)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(broken("no pipes".into()));
    };
    // Read all the time, so that it never waits for us; the end of it is told.
    let log = tokio::spawn(async move {
        let mut text = Vec::new();
        let _ = log.read_to_end(&mut text).await;
        String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned()
    });
    let watch = child.id().map(memory::Watch::start);
    let talk = async {
        let mut line = serde_json::to_string(plan).map_err(|e| e.to_string())?;
        line.push('\n');
        to.write_all(line.as_bytes()).await.map_err(|e| e.to_string())?;
        let mut lines = BufReader::new(from).lines();
        while let Some(line) = lines.next_line().await.map_err(|e| e.to_string())? {
            if let Ok(found) = serde_json::from_str::<Reached>(&line) {
                return Ok(found);
            }
        }
        Err("it ended without a result".to_string())
    };
    let found = tokio::time::timeout(plan.limit(), talk).await.unwrap_or_else(|_| Err("silence".into()));
    let (pss_mib, processes) = watch.map(memory::Watch::end).unwrap_or_default();
    // "Go": it ends its processes.
    drop(to);
    if tokio::time::timeout(std::time::Duration::from_secs(60), child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
    match found {
        Ok(found) => Ok(Reached { pss_mib, processes, ..found }),
        Err(why) => Err(broken(format!("{why}: {}", log.await.unwrap_or_default()))),
    }
}
