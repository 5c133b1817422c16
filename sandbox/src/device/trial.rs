//! One candidate's life on a device: a child of the zygote's that compiles, then does what it is told, a deadline per step.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rollout::outcome::{Candidate, Fault, Launch, Outcome, Phase};
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::mpsc;
use tokio::time::{Instant as Deadline, timeout, timeout_at};

use super::cache::Compiled;
use crate::executor::Limits;
use crate::fault::{SYSTEM, fault};
use crate::frames::{Frame, FrameError, FrameLimits, encode_head};
use crate::referee::Prepared;
use crate::trial::{
    DRAIN, Ending, Read, crashed, excess, failure, flooded, job_file, launches, limit_ms, ms_since, name, obituary,
    read_all,
};
use crate::zygote::{Ended, Tail, Zygote};

/// Frames of an honest child, and no more from a forger: two while it compiles, one for each thing it is told.
const MAX_FRAMES: usize = 1000;
/// Only what was compiled comes with a blob.
const FRAME: FrameLimits = FrameLimits { header: 1 << 20, blob: 64 << 20 };
/// For a command to be taken off our hands by a child that reads no more.
const WRITE: Duration = Duration::from_secs(5);

/// A candidate's process.
pub(crate) struct OnDevice<'a> {
    zygote: &'a mut Zygote,
    id: u64,
    frames: mpsc::Receiver<Read>,
    commands: Sender,
    log: Tail,
    limits: Limits,
    phase: Phase,
    entered: Instant,
    started: bool,
    ended: Option<Ended>,
    /// Nothing is left of it.
    over: bool,
    /// What its last checked call took.
    pub call_ms: f64,
    pub phase_ms: BTreeMap<String, f64>,
    /// What torch computed in a call after timed ones, the first time that it did.
    pub computed: Option<Value>,
}

/// What a step came to: the child's answer, or its end.
pub(crate) type Step = Result<Value, Ending>;

impl<'a> OnDevice<'a> {
    pub async fn start(
        zygote: &'a mut Zygote,
        prepared: &Prepared,
        candidate: &Candidate,
        limits: Limits,
        home: &Path,
        the_box: &OwnedFd,
    ) -> Result<OnDevice<'a>, Fault> {
        let system = |e: std::io::Error| fault(SYSTEM, e);
        let job = job_file(candidate, prepared).map_err(system)?;
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|e| system(e.into()));
        let ((result_read, result_write), (log_read, log_write), (command_read, command_write)) =
            (pipe()?, pipe()?, pipe()?);
        let result = Receiver::from_owned_fd(result_read).map_err(system)?;
        let log = Receiver::from_owned_fd(log_read).map_err(system)?;
        let commands = Sender::from_owned_fd(command_write).map_err(system)?;
        let all_ms = limits.import_ms + limits.compile_ms + limits.run_ms;
        let wire_limits = json!({
            "memory_bytes": limits.memory_bytes.max(DEVICE_MEMORY),
            "max_processes": limits.max_processes,
            // Waiting for a device with `cuCtxSynchronize` is work for the processor.
            "cpu_s": all_ms.div_ceil(1000) * 2 + 10,
        });
        let fds = [job.as_fd(), result_write.as_fd(), log_write.as_fd(), command_read.as_fd(), the_box.as_fd()];
        let id = zygote.fork(home, wire_limits, &fds).await?;
        let log = Tail::limited(log, limits.log_bytes);
        let frames = read_all(result, FRAME, MAX_FRAMES);
        Ok(OnDevice {
            zygote,
            id,
            frames,
            commands,
            log,
            limits,
            phase: Phase::Import,
            entered: Instant::now(),
            started: false,
            ended: None,
            over: false,
            call_ms: f64::INFINITY,
            phase_ms: BTreeMap::new(),
            computed: None,
        })
    }

    /// Follows it until everything it launches is compiled, without the device, and it has handed that over.
    pub async fn compiled(&mut self) -> Result<Result<(Vec<Launch>, Compiled), Ending>, Fault> {
        let mut made = Vec::new();
        loop {
            let limit_ms = limit_ms(&self.limits, self.phase);
            let spent = self.entered.elapsed().as_millis() as u64;
            let mut frame = match self.next_frame(limit_ms.saturating_sub(spent), limit_ms).await? {
                Ok(frame) => frame,
                Err(ending) => return Ok(Err(ending)),
            };
            let header = &mut frame.header;
            match header["event"].as_str() {
                Some("unconfined") if !self.started => {
                    let why = header["message"].as_str().unwrap_or("no message");
                    return Err(fault(SYSTEM, format!("a child could not be confined: {why}")));
                }
                Some("started") => self.started = true,
                Some("imported") if self.phase == Phase::Import => self.enter(Phase::Compile),
                Some("compiled") if self.phase == Phase::Compile => made = launches(&header["launches"]),
                Some("cached") if self.phase == Phase::Compile => {
                    self.enter(Phase::Run);
                    return Ok(Ok((made, Compiled { files: header["files"].take(), blob: frame.blob })));
                }
                Some("failed") => return Ok(Err(failure(header, self.phase))),
                _ => return Ok(Err(crashed(self.phase, "its result channel carries something else"))),
            }
        }
    }

    /// Tells it to do something and waits for `event`.
    pub async fn ask(&mut self, order: &Value, event: &str, limit_ms: u64) -> Result<Step, Fault> {
        let message = encode_head(order, 0);
        match timeout(WRITE, self.commands.write_all(&message)).await {
            // Gone, or it closed its end: its status or the deadline says which.
            Ok(Ok(()) | Err(_)) => {}
            Err(_) => return Ok(Err(crashed(self.phase, "it does not read its commands"))),
        }
        self.wait(event, limit_ms).await
    }

    /// Waits for another answer to the last order.
    pub async fn wait(&mut self, event: &str, limit_ms: u64) -> Result<Step, Fault> {
        let header = match self.next(limit_ms, limit_ms).await? {
            Ok(header) => header,
            Err(ending) => return Ok(Err(ending)),
        };
        Ok(match header["event"].as_str() {
            Some(found) if found == event => Ok(header),
            Some("failed") => Err(failure(&header, self.phase)),
            _ => Err(crashed(self.phase, "its result channel carries something else")),
        })
    }

    /// While it waits for the device nothing of it runs.
    pub async fn freeze(&mut self, frozen: bool) -> Result<(), Fault> {
        self.zygote.freeze(self.id, frozen).await
    }

    /// Ends it with everything it started; `ending` is what is known of it, corrected by how it ended.
    pub async fn finish(
        mut self,
        ending: Option<Ending>,
    ) -> Result<(Option<Ending>, String, BTreeMap<String, f64>), Fault> {
        self.enter(self.phase);
        let ended = match self.ended.take() {
            Some(ended) => ended,
            None => self.zygote.end(self.id).await?,
        };
        self.over = true;
        let ending = match (ended.over, ending) {
            (Some(over), _) => Some(Ending::Outcome(excess(over, &self.limits, self.phase))),
            (None, ending) => ending,
        };
        if self.log.ended().await && ended.over.is_none() && ending.is_none() {
            return Ok((Some(flooded(&self.limits, self.phase)), self.log.text(), std::mem::take(&mut self.phase_ms)));
        }
        Ok((ending, self.log.text(), std::mem::take(&mut self.phase_ms)))
    }

    fn enter(&mut self, phase: Phase) {
        *self.phase_ms.entry(format!("device_{}", name(self.phase))).or_default() += ms_since(self.entered);
        self.phase = phase;
        self.entered = Instant::now();
    }

    /// The next frame's header within `left_ms`, or how it ended.
    async fn next(&mut self, left_ms: u64, limit_ms: u64) -> Result<Step, Fault> {
        Ok(self.next_frame(left_ms, limit_ms).await?.map(|frame| frame.header))
    }

    async fn next_frame(&mut self, left_ms: u64, limit_ms: u64) -> Result<Result<Frame, Ending>, Fault> {
        let deadline = Deadline::now() + Duration::from_millis(left_ms);
        let phase = self.phase;
        loop {
            let gone = self.ended.is_some();
            let next = if gone {
                timeout(DRAIN, self.frames.recv()).await.unwrap_or(None)
            } else {
                tokio::select! {
                    biased;
                    () = self.log.flood() => return Ok(Err(flooded(&self.limits, phase))),
                    frame = timeout_at(deadline, self.frames.recv()) => match frame {
                        Ok(frame) => frame,
                        Err(_) => return Ok(Err(Ending::Outcome(Outcome::TimedOut { phase, limit_ms }))),
                    },
                    exited = self.zygote.exited(self.id) => {
                        exited?;
                        self.ended = Some(self.zygote.end(self.id).await?);
                        continue;
                    }
                }
            };
            return Ok(match next {
                Some(Ok(frame)) => Ok(frame),
                Some(Err(FrameError::End | FrameError::Cut)) | None if gone => Err(self.died()?),
                Some(Err(FrameError::End | FrameError::Cut)) => {
                    let wait = deadline.min(Deadline::now() + DRAIN);
                    match timeout_at(wait, self.zygote.exited(self.id)).await {
                        Ok(exited) => exited?,
                        Err(_) => return Ok(Err(crashed(phase, "it closed its result channel"))),
                    }
                    self.ended = Some(self.zygote.end(self.id).await?);
                    Err(self.died()?)
                }
                Some(Err(e)) => Err(crashed(phase, format!("its result channel carries something else: {e}"))),
                None => Err(crashed(phase, "it said too much on its result channel")),
            });
        }
    }

    fn died(&self) -> Result<Ending, Fault> {
        match &self.ended {
            Some(ended) if !self.started => {
                Err(fault(SYSTEM, format!("a child ended before candidate code ran: {ended:?}")))
            }
            Some(ended) => Ok(match ended.over {
                Some(over) => Ending::Outcome(excess(over, &self.limits, self.phase)),
                None => obituary(ended, self.phase),
            }),
            None => Ok(crashed(self.phase, "it vanished without a status")),
        }
    }
}

/// Given up half way, it may still run on the device. Its end is not waited for here, so its parent takes it along.
impl Drop for OnDevice<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.zygote.kill();
        }
    }
}

/// The driver's own share of a process with a context, and what a model is built with on the host.
const DEVICE_MEMORY: u64 = 8 << 30;

impl Ending {
    /// The outcome, whoever is to blame.
    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        match self {
            Ending::Outcome(outcome) | Ending::Killed(outcome) => Some(outcome),
            Ending::Outputs { .. } => None,
        }
    }
}
