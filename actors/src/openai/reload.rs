//! New weights for the server: written as a Hugging Face folder that both see, loaded through its API, counted only after
//! the server has said so.
//!
//! The server is paused around the load, and keeps its requests meanwhile: tokens that arrive before it is told to go on are of
//! the old version, later ones of the new. Its cache is computed anew, so that a log-prob is what the new weights alone say.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use rollout::id::PolicyVersion;
use rollout::outcome::Fault;
use serde_json::{Value, json};

use super::line::Line;
use super::setup::Reload;
use crate::config::ServerKind;
use crate::crew::Weights;
use crate::http::{backoff, chain, limited, may_pass};
use crate::supervise::{SERVER_RELOAD, fault};

/// Writes weights as a Hugging Face folder with this path, whole or not at all.
pub type Publish = Arc<dyn Fn(&Weights, &Path) -> Result<(), Fault> + Send + Sync>;

/// What SGLang is told to call a version; it says so of every token.
const LABEL: &str = "troupe-";
/// After a pause, so long without a chunk means that none is on its way; and how long that is waited for.
const SETTLE: Duration = Duration::from_millis(50);
const SETTLE_MAX: Duration = Duration::from_secs(2);
/// For telling a server to go on after a reload that failed.
const RELEASE: Duration = Duration::from_secs(5);

/// The version in a label of ours.
pub fn version_of(label: &str) -> Option<PolicyVersion> {
    label.strip_prefix(LABEL)?.parse().ok().map(PolicyVersion)
}

/// Makes the server sample from `weights` as `policy`.
///
/// # Errors
/// The folder cannot be written, the server refuses, or `generator.reload_timeout_s` is over. What the server samples from is then
/// unknown: answers that are under way are of no use, and the gate stays closed.
pub async fn take_over(line: &Line, publish: &Publish, weights: Weights, policy: PolicyVersion) -> Result<(), Fault> {
    let Some(reload) = &line.setup.reload else {
        let why = format!("version {policy} cannot reach the server: generator.reload = \"none\"");
        return Err(fault(SERVER_RELOAD, why));
    };
    let work = async {
        let turn = line.setup.turn.clone().lock_owned().await;
        let folder = reload.dir.join(name(policy));
        let _turn = if line.wrote(policy) && folder.is_dir() {
            // A server that was away loads what is there.
            turn
        } else {
            let (publish, path) = (publish.clone(), folder.clone());
            // Writing goes on when nobody waits for it any more, and keeps the turn: whoever came next would write the same folder.
            let written = tokio::task::spawn_blocking(move || (publish(&weights, &path), turn)).await;
            let (written, turn) = written.map_err(|e| fault(SERVER_RELOAD, e))?;
            written?;
            line.note_written(policy);
            turn
        };
        let before = line.counting();
        line.close();
        loop {
            // What was found lost before is given its weights now; one that is lost meanwhile forgets what it was told.
            line.take_lost();
            load(line, &folder, policy).await.map_err(|why| fault(SERVER_RELOAD, line.setup.blot(&why)))?;
            if !line.take_lost() {
                break;
            }
        }
        line.open();
        if let Err(error) = reload.prune(&[before, policy]) {
            tracing::warn!(%error, "old versions of the server's weights were not removed");
        }
        Ok(())
    };
    let limit = reload.timeout;
    line.note_failure(None);
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let last = line.last_failure().map(|why| format!("; last, {why}")).unwrap_or_default();
        let seconds = limit.as_secs_f64();
        let why = format!("version {policy} was not loaded within generator.reload_timeout_s = {seconds}{last}");
        Err(fault(SERVER_RELOAD, line.setup.blot(&why)))
    })
}

/// Lets a server go on whose reload failed, as far as it listens: others may wait for it.
pub async fn release(line: &Line) {
    let (path, body) = go_on(line.setup.server);
    let _ = tokio::time::timeout(RELEASE, post(line, path, &body)).await;
}

fn go_on(server: ServerKind) -> (&'static str, Value) {
    match server {
        ServerKind::Vllm => ("resume", Value::Null),
        ServerKind::Sglang => ("continue_generation", json!({})),
    }
}

async fn load(line: &Line, folder: &Path, policy: PolicyVersion) -> Result<(), String> {
    match line.setup.server {
        ServerKind::Vllm => {
            tell(line, "pause?mode=keep", &Value::Null).await?;
            met(line);
            settle(line, Instant::now()).await;
            let call = json!({ "method": "reload_weights", "kwargs": { "weights_path": folder } });
            tell(line, "collective_rpc", &call).await?;
            tell(line, "reset_prefix_cache?reset_running_requests=true", &Value::Null).await?;
        }
        ServerKind::Sglang => {
            tell(line, "pause_generation", &json!({ "mode": "retract" })).await?;
            met(line);
            settle(line, Instant::now()).await;
            let call = json!({
                "model_path": folder,
                "weight_version": format!("{LABEL}{}", policy.0),
                "flush_cache": true,
                "abort_all_requests": false,
            });
            tell(line, "update_weights_from_disk", &call).await?;
        }
    }
    // Before the server hears that it may go on: no token of the new weights can have arrived.
    line.count(policy);
    let (path, body) = go_on(line.setup.server);
    tell(line, path, &body).await
}

/// Who has paused is told everything: what was lost before is of no account.
fn met(line: &Line) {
    line.take_lost();
}

/// Chunks that were on their way when the server paused are read before the version changes: slow tokens are quiet for long before that, too.
async fn settle(line: &Line, paused: Instant) {
    let _ = tokio::time::timeout(SETTLE_MAX, async {
        while paused.elapsed().min(line.quiet_for()) < SETTLE {
            tokio::time::sleep(SETTLE / 5).await;
        }
    })
    .await;
}

/// A control request, repeated within bounds.
async fn tell(line: &Line, path: &str, body: &Value) -> Result<(), String> {
    let setup = &line.setup;
    let mut tries = 0;
    loop {
        tries += 1;
        let failed = match post(line, path, body).await {
            Ok(()) => return Ok(()),
            Err(failed) => failed,
        };
        let why = format!("POST /{path}: {}", failed.why);
        tracing::debug!(tries, why = setup.blot(&why), "the generation server did not do as it was told");
        if failed.lost {
            line.lose();
        }
        line.note_failure(Some(why.clone()));
        // One that is away may be starting anew: it has all of `generator.reload_timeout_s`.
        if !failed.away && (!failed.again || tries > setup.retries) {
            return Err(format!("{why} (tries: {tries})"));
        }
        tokio::time::sleep(backoff(setup.backoff, tries)).await;
    }
}

/// Why a control request failed.
struct Failed {
    why: String,
    /// The same may do better.
    again: bool,
    /// Nobody listens, or a gateway says so.
    away: bool,
    /// Whoever answers next may have other weights.
    lost: bool,
}

/// One control request.
async fn post(line: &Line, path: &str, body: &Value) -> Result<(), Failed> {
    let setup = &line.setup;
    let mut request = setup.http.post(setup.url(path));
    if !body.is_null() {
        request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
    }
    let failed = |why: String, again: bool| Failed { why, again, away: false, lost: false };
    let response = request.send().await.map_err(|e| {
        let away = e.is_connect();
        Failed { why: chain(&e.without_url()), again: true, away, lost: away }
    })?;
    let status = response.status();
    let said = limited(response).await.map_err(|e| failed(e, true))?;
    if !status.is_success() {
        let hint = match (status.as_u16(), setup.server) {
            (404, ServerKind::Vllm) => " (VLLM_SERVER_DEV_MODE=1 makes vLLM's control endpoints)",
            (401 | 403, _) => " (is the key that generator.api_key_env names allowed to do this?)",
            _ => "",
        };
        let why = format!("HTTP status {status}{hint}: {}", String::from_utf8_lossy(&said));
        // Neither server says the first two to a control request: what stands before it does. The last may be a load that takes long.
        let away = matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE);
        let lost = away || status == StatusCode::GATEWAY_TIMEOUT;
        return Err(Failed { why, again: away || may_pass(status), away, lost });
    }
    // Both servers also say in words that something did not work, one of them with status 200.
    let said: Value = serde_json::from_slice(&said).unwrap_or(Value::Null);
    if said.get("success") == Some(&Value::Bool(false)) {
        return Err(failed(format!("the server answers {said}"), true));
    }
    Ok(())
}

fn name(policy: PolicyVersion) -> String {
    format!("v{:06}", policy.0)
}

impl Reload {
    /// Removes versions other than `keep`, and what a killed process was writing.
    fn prune(&self, keep: &[PolicyVersion]) -> std::io::Result<()> {
        let keep: Vec<PathBuf> = keep.iter().map(|policy| self.dir.join(name(*policy))).collect();
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let file = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let version = file.strip_prefix('v').is_some_and(|n| n.len() >= 6 && n.bytes().all(|b| b.is_ascii_digit()));
            if (version || file.starts_with(".v")) && path.is_dir() && !keep.contains(&path) {
                std::fs::remove_dir_all(&path)?;
            }
        }
        Ok(())
    }
}
