//! The zygote's process: forks one confined child per candidate, and ends it with everything it started.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rollout::outcome::Fault;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recvmsg, sendmsg, socketpair,
};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, Interest};
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::fault::{PROTOCOL, SPAWN, STRAYS, SYSTEM, ZYGOTE_LOST, ZYGOTE_START, fault};
use crate::isolation::Isolation;

/// Importing torch and Triton and compiling one kernel, on a busy machine.
const START: Duration = Duration::from_secs(300);
/// A fork, or a kill with everything reaped. Both take milliseconds; the zygote itself gives up on a kill after 30 s.
const CONTROL: Duration = Duration::from_secs(60);
const MESSAGE_BYTES: usize = 1 << 16;
const TAIL_BYTES: usize = 8 << 10;

/// The last bytes of a stream, drained while its writer runs so that the writer never blocks.
#[derive(Clone)]
pub(crate) struct Tail {
    kept: Arc<Mutex<Vec<u8>>>,
    /// Whether more came than may; closed when the stream has ended.
    flooded: watch::Receiver<bool>,
}

impl Tail {
    /// Drains `from` in a task until it ends.
    pub fn drain(from: impl AsyncRead + Unpin + Send + 'static) -> Tail {
        Tail::limited(from, u64::MAX)
    }

    /// The same; more than `limit` bytes are a flood.
    pub fn limited(mut from: impl AsyncRead + Unpin + Send + 'static, limit: u64) -> Tail {
        let (tell, flooded) = watch::channel(false);
        let tail = Tail { kept: Arc::default(), flooded };
        let kept = tail.clone();
        tokio::spawn(async move {
            let mut block = vec![0u8; 64 << 10];
            let mut all = 0u64;
            while let Ok(n @ 1..) = from.read(&mut block).await {
                kept.push(&block[..n]);
                all += n as u64;
                if all > limit {
                    tell.send_if_modified(|flooded| !std::mem::replace(flooded, true));
                }
            }
        });
        tail
    }

    fn push(&self, bytes: &[u8]) {
        let mut kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        kept.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]);
        let extra = kept.len().saturating_sub(TAIL_BYTES);
        kept.drain(..extra);
    }

    /// Waits, for a moment at most, until the stream has ended. Returns whether it was a flood.
    pub async fn ended(&mut self) -> bool {
        let _ = timeout(Duration::from_millis(500), async { while self.flooded.changed().await.is_ok() {} }).await;
        *self.flooded.borrow()
    }

    /// Waits until more has come than may, for ever where it never does. Cancel-safe.
    pub async fn flood(&mut self) {
        if self.flooded.wait_for(|flooded| *flooded).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What was kept, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept.lock().unwrap_or_else(|e| e.into_inner())).trim().to_owned()
    }
}

/// A harness program in a Python process with an empty environment and a fixed module path: nothing of the user's, of
/// the working directory or of `site` (`.pth` lines, sitecustomize) runs or can be imported.
pub(crate) fn python(interpreter: &Path, script: &Path, dir: &Path) -> Command {
    let mut command = Command::new(interpreter);
    command.args(["-I", "-S", "-B"]).arg(script.with_file_name("start.py")).arg(script);
    command.current_dir(dir).env_clear().kill_on_drop(true);
    for name in ["PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("OMP_NUM_THREADS", "1").env("MKL_NUM_THREADS", "1").env("HOME", dir).env("TMPDIR", dir);
    command
}

pub(crate) struct Zygote {
    child: Child,
    /// A sequenced-packet socket; tokio's datagram type drives any socket that keeps message borders.
    control: UnixDatagram,
    log: Tail,
    next: u64,
    isolation: Isolation,
    /// The child that has ended by itself, once that is known.
    exited: Option<u64>,
}

/// How a child had ended, and what it used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// Before we asked for it.
    pub itself: bool,
    pub signal: Option<i64>,
    pub code: Option<i64>,
    pub cpu_ms: f64,
    /// It was ended for having more processes or memory than it may.
    pub over: Option<Over>,
}

/// Limits on a candidate's whole tree of processes, kept by the zygote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Processes,
    Memory,
}

impl Zygote {
    /// Refuses where a part of the isolation that is required does not hold.
    /// `device`: what candidates on a device are to be given of it (`gpu::Device`), null for none.
    pub async fn start(interpreter: &Path, harness: &Path, require: &[String], device: &Value) -> Result<Self, Fault> {
        let system = |e: rustix::io::Errno| fault(SYSTEM, format!("no control socket: {e}"));
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(system)?;
        rustix::io::ioctl_fionbio(&theirs, false).map_err(system)?;
        let mut command = python(interpreter, &harness.join("zygote.py"), harness);
        if !device.is_null() {
            command.arg(device.to_string());
        }
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|e| fault(SPAWN, format!("{} could not be started: {e}", interpreter.display())))?;
        drop(command);
        let Some(err) = child.stderr.take() else { return Err(fault(SPAWN, "no pipe to the zygote")) };
        let control = UnixDatagram::from_std(ours.into()).map_err(|e| fault(SYSTEM, e))?;
        let mut zygote =
            Zygote { child, control, log: Tail::drain(err), next: 0, isolation: Isolation::default(), exited: None };
        let ready = timeout(START, zygote.receive()).await;
        match ready {
            Ok(Ok(message)) if message["event"] == "ready" => {
                zygote.isolation = Isolation::of(&message);
                zygote.isolation.demand(require)?;
                tracing::debug!(%message, "the zygote is ready");
                Ok(zygote)
            }
            Ok(Ok(message)) => Err(fault(PROTOCOL, format!("the zygote began with {message}"))),
            Ok(Err(e)) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(fault(ZYGOTE_START, format!("the zygote ended while it started ({e}): {}", zygote.log.text())))
            }
            Err(_) => Err(fault(ZYGOTE_START, format!("the zygote was not ready within {} s", START.as_secs()))),
        }
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    pub fn isolation(&self) -> &Isolation {
        &self.isolation
    }

    /// Forks a child that gets these descriptors: the job, the result pipe, the log pipe; for one on a device also the
    /// command pipe and the box. Returns its number.
    pub async fn fork(&mut self, home: &Path, limits: Value, fds: &[BorrowedFd<'_>]) -> Result<u64, Fault> {
        self.next += 1;
        let message = json!({"op": "fork", "id": self.next, "home": home, "limits": limits});
        self.send(&message, fds).await?;
        match timeout(CONTROL, self.receive()).await {
            Ok(Ok(m)) if m["event"] == "forked" => Ok(self.next),
            Ok(Ok(m)) if m["event"] == "refused" => Err(fault(SYSTEM, m["message"].as_str().unwrap_or("no fork"))),
            Ok(Ok(m)) => Err(fault(PROTOCOL, format!("the zygote answered a fork with {m}"))),
            Ok(Err(e)) => Err(self.lost(e).await),
            Err(_) => Err(fault(ZYGOTE_LOST, "the zygote did not fork")),
        }
    }

    /// Waits until the child ended by itself. Cancel-safe.
    pub async fn exited(&mut self, id: u64) -> Result<(), Fault> {
        loop {
            if self.exited == Some(id) {
                return Ok(());
            }
            match self.receive().await {
                Ok(m) if m["event"] == "exited" && m["id"] == id => self.exited = Some(id),
                Ok(_) => {}
                Err(e) => return Err(self.lost(e).await),
            }
        }
    }

    /// Ends the child with everything it started. After this none of its processes runs.
    pub async fn end(&mut self, id: u64) -> Result<Ended, Fault> {
        self.send(&json!({"op": "end", "id": id}), &[]).await?;
        let answer = timeout(CONTROL, async {
            loop {
                match self.receive().await {
                    Ok(m) if m["event"] == "ended" && m["id"] == id => return Ok(m),
                    Ok(_) => {}
                    Err(e) => return Err(e),
                }
            }
        })
        .await;
        let m = match answer {
            Ok(Ok(m)) => m,
            Ok(Err(e)) => return Err(self.lost(e).await),
            Err(_) => return Err(fault(ZYGOTE_LOST, "the zygote did not end its child")),
        };
        if m["clean"] == false {
            return Err(fault(STRAYS, "processes of a candidate could not be ended"));
        }
        Ok(Ended {
            itself: m["itself"].as_bool().unwrap_or(false),
            signal: m["signal"].as_i64(),
            code: m["code"].as_i64(),
            cpu_ms: m["cpu_ms"].as_f64().unwrap_or(0.0),
            over: match m["over"].as_str() {
                Some("processes") => Some(Over::Processes),
                Some("memory") => Some(Over::Memory),
                _ => None,
            },
        })
    }

    /// Stops every process of the child's, or lets all go on.
    pub async fn freeze(&mut self, id: u64, frozen: bool) -> Result<(), Fault> {
        let op = if frozen { "freeze" } else { "thaw" };
        self.send(&json!({"op": op, "id": id}), &[]).await?;
        let answer = timeout(CONTROL, async {
            loop {
                let m = self.receive().await?;
                if m["event"] == op && m["id"] == id {
                    return Ok::<_, io::Error>(());
                }
                if m["event"] == "exited" && m["id"] == id {
                    self.exited = Some(id);
                }
            }
        })
        .await;
        match answer {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(self.lost(e).await),
            Err(_) => Err(fault(ZYGOTE_LOST, format!("the zygote did not {op} its child"))),
        }
    }

    async fn lost(&mut self, e: io::Error) -> Fault {
        let _ = self.child.start_kill();
        let status = timeout(Duration::from_secs(5), self.child.wait()).await;
        let status = status.ok().and_then(Result::ok).map(|s| s.to_string()).unwrap_or_else(|| "no status".into());
        fault(ZYGOTE_LOST, format!("the zygote was lost ({e}, {status}): {}", self.log.text()))
    }

    async fn send(&mut self, message: &Value, fds: &[BorrowedFd<'_>]) -> Result<(), Fault> {
        let bytes = message.to_string();
        let sent = self.control.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(5))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(io::Error::other("too many descriptors"));
            }
            Ok(sendmsg(self.control.as_fd(), &[IoSlice::new(bytes.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?)
        });
        match timeout(CONTROL, sent).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(self.lost(e).await),
            Err(_) => Err(fault(ZYGOTE_LOST, "the zygote does not read")),
        }
    }

    async fn receive(&mut self) -> io::Result<Value> {
        self.control
            .async_io(Interest::READABLE, || {
                let mut bytes = vec![0u8; MESSAGE_BYTES];
                let mut none = RecvAncillaryBuffer::default();
                let got = recvmsg(
                    self.control.as_fd(),
                    &mut [IoSliceMut::new(&mut bytes)],
                    &mut none,
                    RecvFlags::CMSG_CLOEXEC,
                )?;
                if got.bytes == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                }
                Ok(serde_json::from_slice(&bytes[..got.bytes])?)
            })
            .await
    }

    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Begins to end it without waiting; its children go with it.
    pub fn kill(&mut self) {
        let _ = self.child.start_kill();
    }

    /// Ends it, and with it every child.
    pub async fn stop(self) {
        let Zygote { mut child, control, .. } = self;
        // The end of the control socket asks it to kill its children and leave; that way all are gone when it is.
        drop(control);
        if timeout(Duration::from_secs(2), child.wait()).await.is_err() {
            let _ = child.start_kill();
            let _ = timeout(Duration::from_secs(5), child.wait()).await;
        }
    }
}
