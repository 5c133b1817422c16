//! The device's referee: one trusted process per device that draws inputs, knows the expected outputs and times references.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rollout::outcome::Fault;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::fault::{PROTOCOL, REFEREE_LOST, REFEREE_START, SPAWN, SYSTEM, TASK, fault};
use crate::frames::{Frame, FrameLimits, read_frame, write_frame};
use crate::zygote::{Tail, python};

/// Importing torch and making a context, on a busy machine.
const START: Duration = Duration::from_secs(300);
/// Any other answer.
const ANSWER: Duration = Duration::from_secs(120);
const LIMITS: FrameLimits = FrameLimits { header: 64 << 20, blob: 1 << 30 };

pub(crate) struct DeviceReferee {
    child: Child,
    to: UnixStream,
    from: ChildStdout,
    log: Tail,
    /// A question was asked whose answer nobody has read: who asks next would take it for theirs.
    asking: bool,
    /// What it found when it started.
    pub facts: Value,
}

impl DeviceReferee {
    /// A process that imports what it needs, and knows and uses nothing yet.
    pub fn spawn(interpreter: &Path, harness: &Path, environment: &[(String, String)]) -> Result<Self, Fault> {
        let system = |e: io::Error| fault(SYSTEM, format!("no socket to the device's referee: {e}"));
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(system)?;
        ours.set_nonblocking(true).map_err(system)?;
        let mut command: Command = python(interpreter, &harness.join("device_referee.py"), harness);
        command.envs(environment.iter().cloned());
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|e| fault(SPAWN, format!("{} could not be started: {e}", interpreter.display())))?;
        drop(command);
        let (Some(from), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(fault(SPAWN, "no pipes to the device's referee"));
        };
        let to = UnixStream::from_std(ours).map_err(system)?;
        Ok(DeviceReferee { child, to, from, log: Tail::drain(err), asking: false, facts: Value::Null })
    }

    /// Makes it the device's: its context, what its libraries load at first use.
    pub async fn begin(mut self, secret: &[u8; 32], kind: &str, cpus: &[u32], one_place: bool) -> Result<Self, Fault> {
        let hello = json!({
            "op": "hello", "secret": crate::harness::hex(secret), "device": kind, "cpus": cpus, "one_place": one_place,
        });
        match self.ask_within(&hello, START).await {
            Ok(frame) => {
                self.facts = frame.header;
                Ok(self)
            }
            Err(e) => Err(fault(REFEREE_START, format!("the device's referee: {}", e.message))),
        }
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Alive, and nobody was given up in the middle of asking it.
    pub fn is_alive(&mut self) -> bool {
        !self.asking && matches!(self.child.try_wait(), Ok(None))
    }

    pub async fn ask(&mut self, header: &Value) -> Result<Frame, Fault> {
        self.ask_within(header, ANSWER).await
    }

    /// The descriptor that the answer to the last question announced.
    pub async fn receive_descriptor(&mut self) -> Result<OwnedFd, Fault> {
        self.asking = true;
        let received = self.to.async_io(Interest::READABLE, || {
            let mut byte = [0u8; 1];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            recvmsg(self.to.as_fd(), &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
            let found = ancillary.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            });
            found.ok_or_else(|| io::Error::other("no descriptor came"))
        });
        match timeout(ANSWER, received).await {
            Ok(Ok(fd)) => {
                self.asking = false;
                Ok(fd)
            }
            Ok(Err(e)) => Err(fault(PROTOCOL, format!("the device's referee sent no box: {e}"))),
            Err(_) => Err(fault(REFEREE_LOST, "the device's referee sent no box in time")),
        }
    }

    async fn ask_within(&mut self, header: &Value, limit: Duration) -> Result<Frame, Fault> {
        let exchange = async {
            write_frame(&mut self.to, header, &[]).await.map_err(|e| e.to_string())?;
            read_frame(&mut self.from, LIMITS).await.map_err(|e| e.to_string())
        };
        let op = header["op"].as_str().unwrap_or("?");
        self.asking = true;
        let frame = match timeout(limit, exchange).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(e)) => {
                self.kill().await;
                return Err(fault(REFEREE_LOST, format!("the device's referee was lost ({e}): {}", self.log.text())));
            }
            Err(_) => {
                self.kill().await;
                let code = if op == "prepare" { TASK } else { REFEREE_LOST };
                return Err(fault(
                    code,
                    format!("the device's referee did not answer `{op}` in {} s", limit.as_secs()),
                ));
            }
        };
        self.asking = false;
        if frame.header["ok"].as_bool() == Some(true) {
            return Ok(frame);
        }
        let message = frame.header["message"].as_str().unwrap_or("no message").trim();
        Err(match frame.header["kind"].as_str() {
            Some("task") => fault(TASK, message),
            Some("lost") => fault(REFEREE_LOST, message),
            Some("memory") => fault(TASK, format!("the reference ran out of the device's memory: {message}")),
            _ => fault(PROTOCOL, format!("the device's referee failed at `{op}`: {message}")),
        })
    }

    async fn kill(&mut self) {
        let _ = self.child.start_kill();
        let _ = timeout(Duration::from_secs(5), self.child.wait()).await;
    }

    pub async fn stop(mut self) {
        self.kill().await;
    }
}
