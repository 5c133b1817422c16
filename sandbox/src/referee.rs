//! The referee's process: the trusted side of an evaluation. It alone holds the secret and the expected outputs.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rollout::outcome::Fault;
use serde_json::{Value, json};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::timeout;

use crate::fault::{PROTOCOL, REFEREE_LOST, REFEREE_START, SPAWN, TASK, fault};
use crate::frames::{Frame, FrameLimits, read_frame, write_frame};
use crate::zygote::{Tail, python};

/// Importing torch on a busy machine.
const START: Duration = Duration::from_secs(300);
/// One reference, over all draws, in float32 and float64.
pub(crate) const PREPARE: Duration = Duration::from_secs(120);
pub(crate) const COMPARE: Duration = Duration::from_secs(60);
/// The referee is trusted; the limit only keeps a runaway task from taking the machine's memory.
const LIMITS: FrameLimits = FrameLimits { header: 64 << 20, blob: 8 << 30 };

pub(crate) struct Referee {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    log: Tail,
}

/// What the child needs to know, and what Rust needs to bound its answer.
pub(crate) struct Prepared {
    pub job: Value,
    pub blob: Vec<u8>,
    pub output_bytes: u64,
    pub notes: Vec<String>,
    pub ms: f64,
}

/// The referee's finding on a candidate's outputs.
#[derive(Debug)]
pub(crate) struct Compared {
    /// `Err` when the bytes do not even describe tensors.
    pub wrong: Result<Option<String>, String>,
    pub kernelbench_1e2: Option<bool>,
    pub kernelbench_1e4: Option<bool>,
    pub max_abs_error: Option<f64>,
    /// What it raised on another legal shape.
    pub own_shapes_only: Option<String>,
    pub ms: f64,
}

impl Referee {
    pub async fn start(interpreter: &Path, harness: &Path, secret: &[u8; 32]) -> Result<Self, Fault> {
        let mut command = python(interpreter, &harness.join("referee.py"), harness);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|e| fault(SPAWN, format!("{} could not be started: {e}", interpreter.display())))?;
        let (Some(to), Some(from), Some(err)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(fault(SPAWN, "no pipes to the referee"));
        };
        let mut referee = Referee { child, to, from, log: Tail::drain(err) };
        let hello = json!({"op": "hello", "secret": crate::harness::hex(secret)});
        match referee.ask(&hello, &[], START).await {
            Ok(_) => Ok(referee),
            Err(e) => Err(fault(REFEREE_START, e.message)),
        }
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    pub async fn prepare(&mut self, task: &str, nonce: &str, source: &str) -> Result<Prepared, Fault> {
        let request = json!({"op": "prepare", "task": task, "nonce": nonce, "source": source});
        let Frame { mut header, blob } = self.ask(&request, &[], PREPARE).await?;
        Ok(Prepared {
            job: header["job"].take(),
            blob,
            output_bytes: header["output_bytes"].as_u64().unwrap_or(0),
            notes: serde_json::from_value(header["notes"].take()).unwrap_or_default(),
            ms: header["ms"].as_f64().unwrap_or(0.0),
        })
    }

    pub async fn compare(&mut self, draws: &Value, blob: &[u8]) -> Result<Compared, Fault> {
        let frame = self.ask(&json!({"op": "compare", "draws": draws}), blob, COMPARE).await?;
        let h = &frame.header;
        let ms = h["ms"].as_f64().unwrap_or(0.0);
        if let Some(reason) = h["malformed"].as_str() {
            let wrong = Err(reason.to_owned());
            return Ok(Compared {
                wrong,
                kernelbench_1e2: None,
                kernelbench_1e4: None,
                max_abs_error: None,
                own_shapes_only: None,
                ms,
            });
        }
        let (Some(at_1e2), Some(at_1e4)) = (h["kernelbench_1e2"].as_bool(), h["kernelbench_1e4"].as_bool()) else {
            return Err(fault(PROTOCOL, "the referee gave no verdict"));
        };
        Ok(Compared {
            wrong: Ok(h["wrong"].as_str().map(str::to_owned)),
            kernelbench_1e2: Some(at_1e2),
            kernelbench_1e4: Some(at_1e4),
            max_abs_error: h["max_abs_error"].as_f64(),
            own_shapes_only: h["shapes"].as_str().map(str::to_owned),
            ms,
        })
    }

    /// Whether the outputs of a run without kernels are right all the same.
    pub async fn ablated(&mut self, outputs: &Value, blob: &[u8]) -> Result<bool, Fault> {
        let frame = self.ask(&json!({"op": "ablated", "outputs": outputs}), blob, COMPARE).await?;
        Ok(frame.header["unchanged"].as_bool().unwrap_or(false))
    }

    async fn ask(&mut self, header: &Value, blob: &[u8], limit: Duration) -> Result<Frame, Fault> {
        let exchange = async {
            write_frame(&mut self.to, header, blob).await.map_err(|e| e.to_string())?;
            read_frame(&mut self.from, LIMITS).await.map_err(|e| e.to_string())
        };
        let frame = match timeout(limit, exchange).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(e)) => {
                let _ = self.child.start_kill();
                let _ = timeout(Duration::from_secs(5), self.child.wait()).await;
                return Err(fault(REFEREE_LOST, format!("the referee was lost ({e}): {}", self.log.text())));
            }
            Err(_) => {
                let _ = self.child.start_kill();
                let _ = timeout(Duration::from_secs(5), self.child.wait()).await;
                let op = header["op"].as_str().unwrap_or("?");
                // A reference that never ends is the task's fault, and the referee has to be started again.
                let code = if op == "prepare" { TASK } else { REFEREE_LOST };
                return Err(fault(code, format!("the referee did not answer `{op}` within {} s", limit.as_secs())));
            }
        };
        if frame.header["ok"].as_bool() == Some(true) {
            return Ok(frame);
        }
        let message = frame.header["message"].as_str().unwrap_or("no message").trim();
        Err(match frame.header["kind"].as_str() {
            Some("task") => fault(TASK, message),
            Some("memory") => fault(TASK, format!("the reference ran out of memory: {message}")),
            _ => fault(PROTOCOL, format!("the referee failed: {message}")),
        })
    }

    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub async fn stop(mut self) {
        let _ = self.child.start_kill();
        let _ = timeout(Duration::from_secs(5), self.child.wait()).await;
    }
}
