//! One candidate's life: a job in a memory file, a forked child, a deadline per phase, frames until the end.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rollout::evidence::Evidence;
use rollout::outcome::{Candidate, Fault, Launch, Outcome, Phase};
use rustix::fs::MemfdFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::{Value, json};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;
use tokio::time::{Instant as Deadline, timeout, timeout_at};

use crate::evidence;
use crate::executor::Limits;
use crate::fault::{SCRATCH, SYSTEM, fault};
use crate::frames::{Frame, FrameError, FrameLimits, encode_head, read_frame};
use crate::referee::Prepared;
use crate::stage;
use crate::zygote::{Ended, Over, Tail, Zygote};

/// Frames of an honest child: started, imported, compiled, outputs. A forger gets as many and no more.
const MAX_FRAMES: usize = 8;
const MAX_HEADER_BYTES: u64 = 1 << 20;
/// Launches kept of one candidate.
const MAX_LAUNCHES: usize = 256;
/// A wrong dtype may make an answer up to eight times as large; anything larger is not an answer.
const MAX_BLOB_FACTOR: u64 = 8;
/// For reading what a finished child still has in its pipes.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);
/// For one forward without kernels, after the outputs are in: code that waits for a kernel's result may never end.
const ABLATION: Duration = Duration::from_secs(5);

/// What a child left behind.
pub(crate) struct Left {
    pub ending: Ending,
    pub launches: Vec<Launch>,
    pub evidence: Evidence,
    pub phase_ms: BTreeMap<String, f64>,
    pub log: String,
}

/// How it went: outputs to compare, or an outcome already.
#[derive(Debug)]
pub(crate) enum Ending {
    Outputs {
        draws: Value,
        blob: Vec<u8>,
        /// The first draw's outputs with all launches doing nothing; `None` when there were none.
        ablated: Option<(Value, Vec<u8>)>,
    },
    Outcome(Outcome),
    /// SIGKILL, and not from us. The kernel sends it to whatever is large when the machine's memory runs out, which
    /// the learner's may have been; the candidate can send it to itself. The outcome holds once it is proved guilty.
    Killed(Outcome),
}

/// Which phase the child is in and how the phases went.
struct Progress {
    /// The harness said that confinement is complete; only after that does candidate code run.
    started: bool,
    /// How it had ended, once it is gone with all that it started.
    ended: Option<Ended>,
    phase: Phase,
    entered: Instant,
    launches: Vec<Launch>,
    /// What a forward launched that had nothing to compile any more.
    compiled: Value,
    evidence: Evidence,
    ms: BTreeMap<String, f64>,
}

impl Progress {
    fn enter(&mut self, phase: Phase) {
        self.ms.insert(name(self.phase).into(), ms_since(self.entered));
        if phase != self.phase {
            stage::enter(name(phase));
        }
        self.phase = phase;
        self.entered = Instant::now();
    }
}

pub(crate) fn ms_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

pub(crate) fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Import => "import",
        Phase::Compile => "compile",
        Phase::Run => "run",
    }
}

pub(crate) fn limit_ms(limits: &Limits, phase: Phase) -> u64 {
    match phase {
        Phase::Import => limits.import_ms,
        Phase::Compile => limits.compile_ms,
        Phase::Run => limits.run_ms,
    }
}

/// Runs `candidate` on `prepared` in a child of `zygote`, with `home` as its private directory.
pub(crate) async fn run(
    zygote: &mut Zygote,
    prepared: &Prepared,
    candidate: &Candidate,
    limits: &Limits,
    home: &Path,
) -> Result<Left, Fault> {
    let system = |e: std::io::Error| fault(SYSTEM, e);
    let job = job_file(candidate, prepared).map_err(system)?;
    let (result_read, result_write) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| system(e.into()))?;
    let (log_read, log_write) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| system(e.into()))?;
    let result = Receiver::from_owned_fd(result_read).map_err(system)?;
    let log = Receiver::from_owned_fd(log_read).map_err(system)?;
    let all_ms = limits.import_ms + limits.compile_ms + limits.run_ms;
    let wire_limits = json!({
        "memory_bytes": limits.memory_bytes,
        "max_processes": limits.max_processes,
        "cpu_s": all_ms.div_ceil(1000) + 1,
    });
    stage::enter(name(Phase::Import));
    let forked = Instant::now();
    let id = zygote.fork(home, wire_limits, &[job.as_fd(), result_write.as_fd(), log_write.as_fd()]).await?;
    drop((job, result_write, log_write));
    let mut log = Tail::limited(log, limits.log_bytes);
    let blob_limit = prepared.output_bytes.saturating_mul(MAX_BLOB_FACTOR) + (1 << 20);
    let mut frames = read_all(result, FrameLimits { header: MAX_HEADER_BYTES, blob: blob_limit }, MAX_FRAMES);
    let mut progress = Progress {
        started: false,
        ended: None,
        phase: Phase::Import,
        entered: forked,
        launches: Vec::new(),
        compiled: Value::Null,
        evidence: Evidence::default(),
        ms: BTreeMap::new(),
    };
    let ending = match follow(zygote, id, &mut frames, &mut log, prepared, limits, &mut progress).await {
        Ok(ending) => ending,
        Err(fault) => {
            let _ = zygote.end(id).await;
            return Err(fault);
        }
    };
    let current = progress.phase;
    progress.enter(current);
    let ended = match progress.ended.take() {
        Some(ended) => ended,
        None => zygote.end(id).await?,
    };
    progress.ms.insert("child_cpu".into(), ended.cpu_ms);
    let ending = match (ended.over, ending) {
        // Its outputs are in: what the ablation after them did to itself is no answer.
        (Some(_), Some(ending @ Ending::Outputs { .. })) => ending,
        (Some(over), _) => Ending::Outcome(excess(over, limits, progress.phase)),
        (None, Some(ending)) => ending,
        (None, None) if !progress.started => {
            return Err(fault(SYSTEM, format!("a child ended before candidate code ran: {ended:?}")));
        }
        (None, None) => obituary(&ended, progress.phase),
    };
    // What it had written is in the pipe still, so this does not depend on who was faster.
    let ending = match log.ended().await {
        true if ended.over.is_none() => flooded(limits, progress.phase),
        _ => ending,
    };
    let log = log.text();
    Ok(Left { ending, launches: progress.launches, evidence: progress.evidence, phase_ms: progress.ms, log })
}

/// `u64 source length | source | frame`, in memory that has no name.
pub(crate) fn job_file(candidate: &Candidate, prepared: &Prepared) -> std::io::Result<std::fs::File> {
    let mut file = std::fs::File::from(rustix::fs::memfd_create("job", MemfdFlags::CLOEXEC)?);
    file.write_all(&(candidate.source.len() as u64).to_le_bytes())?;
    file.write_all(candidate.source.as_bytes())?;
    file.write_all(&encode_head(&prepared.job, prepared.blob.len()))?;
    file.write_all(&prepared.blob)?;
    Ok(file)
}

pub(crate) type Read = Result<Frame, FrameError>;

/// Reads frames in a task until the stream ends, breaks, or says more than it may.
pub(crate) fn read_all(mut from: Receiver, limits: FrameLimits, most: usize) -> mpsc::Receiver<Read> {
    let (to, frames) = mpsc::channel(1);
    tokio::spawn(async move {
        for _ in 0..most {
            let frame = read_frame(&mut from, limits).await;
            let last = frame.is_err();
            if to.send(frame).await.is_err() || last {
                return;
            }
        }
    });
    frames
}

/// Follows the child through its phases. `None`: it ended without saying how.
async fn follow(
    zygote: &mut Zygote,
    id: u64,
    frames: &mut mpsc::Receiver<Read>,
    log: &mut Tail,
    prepared: &Prepared,
    limits: &Limits,
    progress: &mut Progress,
) -> Result<Option<Ending>, Fault> {
    let mut deadline = Deadline::now() + Duration::from_millis(limits.import_ms);
    let mut gone = false;
    loop {
        let next = if gone {
            // It is dead, and so is all that it started: what it wrote is in the pipe, and then the end.
            timeout(DRAIN, frames.recv()).await.unwrap_or(None)
        } else {
            tokio::select! {
                biased;
                () = log.flood() => return Ok(Some(flooded(limits, progress.phase))),
                frame = timeout_at(deadline, frames.recv()) => match frame {
                    Ok(frame) => frame,
                    Err(_) => {
                        let limit_ms = limit_ms(limits, progress.phase);
                        return Ok(Some(Ending::Outcome(Outcome::TimedOut { phase: progress.phase, limit_ms })));
                    }
                },
                exited = zygote.exited(id) => {
                    exited?;
                    gone = true;
                    // What it started must not hold its pipe open: then what it wrote is followed by the end.
                    progress.ended = Some(zygote.end(id).await?);
                    continue;
                }
            }
        };
        let frame = match next {
            Some(Ok(frame)) => frame,
            // A frame that is cut short is no message: how the process ended says more.
            Some(Err(FrameError::End | FrameError::Cut)) if gone => return Ok(None),
            Some(Err(FrameError::End | FrameError::Cut)) => {
                // The pipe is closed and the process may be about to end: its status says how.
                let wait = deadline.min(Deadline::now() + DRAIN);
                match timeout_at(wait, zygote.exited(id)).await {
                    Ok(exited) => exited?,
                    Err(_) => return Ok(Some(crashed(progress.phase, "it closed its result channel"))),
                }
                return Ok(None);
            }
            Some(Err(e)) => {
                return Ok(Some(crashed(progress.phase, format!("its result channel carries something else: {e}"))));
            }
            None if gone => return Ok(None),
            None => return Ok(Some(crashed(progress.phase, "it said too much on its result channel"))),
        };
        let header = frame.header;
        match header["event"].as_str() {
            Some("unconfined") if !progress.started => {
                let why = header["message"].as_str().unwrap_or("no message");
                return Err(fault(SYSTEM, format!("a child could not be confined: {why}")));
            }
            Some("started") => {
                progress.started = true;
                progress.ms.insert("fork".into(), ms_since(progress.entered));
            }
            Some("imported") if progress.phase == Phase::Import => {
                progress.enter(Phase::Compile);
                deadline = Deadline::now() + Duration::from_millis(limits.compile_ms);
            }
            Some("compiled") if progress.phase == Phase::Compile => {
                progress.launches = launches(&header["launches"]);
                progress.compiled = header["signatures"].clone();
                progress.enter(Phase::Run);
                deadline = Deadline::now() + Duration::from_millis(limits.run_ms);
            }
            Some("outputs") if progress.phase == Phase::Run => {
                progress.evidence = evidence::read(&prepared.job["draws"], &header["evidence"], &progress.compiled);
                let wait = deadline.min(Deadline::now() + ABLATION);
                let last = last_frame(frames, wait).await;
                if let Some(frame) = &last {
                    evidence::drift(&mut progress.evidence, &frame.header);
                }
                let ablated = last
                    .filter(|frame| frame.header["outputs"].is_array())
                    .map(|frame| (frame.header["outputs"].clone(), frame.blob));
                return Ok(Some(Ending::Outputs { draws: header["draws"].clone(), blob: frame.blob, ablated }));
            }
            Some("failed") => return Ok(Some(failure(&header, progress.phase))),
            _ => return Ok(Some(crashed(progress.phase, "its result channel carries something else"))),
        }
    }
}

/// The child's last frame. Its outputs stand: whatever else it does now, there are no right ones without kernels.
async fn last_frame(frames: &mut mpsc::Receiver<Read>, deadline: Deadline) -> Option<Frame> {
    match timeout_at(deadline, frames.recv()).await {
        Ok(Some(Ok(frame))) if frame.header["event"] == "ablated" => Some(frame),
        _ => None,
    }
}

pub(crate) fn crashed(phase: Phase, message: impl Into<String>) -> Ending {
    Ending::Outcome(Outcome::Crashed { phase, message: message.into() })
}

pub(crate) fn flooded(limits: &Limits, phase: Phase) -> Ending {
    crashed(phase, format!("it wrote more than {} bytes to its log", limits.log_bytes))
}

/// How Triton's message begins where `ptxas`, a process of its own, was ended by SIGKILL.
const PTXAS_KILLED: &str = "`ptxas` failed with error code -9";
/// What `ptxas` says when it gets no more memory.
const PTXAS_MEMORY: &str = "ptxas fatal   : Memory allocation failure";

/// The ending of a child that reported its own failure.
pub(crate) fn failure(header: &Value, phase: Phase) -> Ending {
    let message: String = header["message"].as_str().unwrap_or("no message").chars().take(4000).collect();
    Ending::Outcome(match header["kind"].as_str() {
        Some("no_launch") => Outcome::Rejected { reason: message },
        Some("wrong") => Outcome::WrongAnswer { message },
        // The same rule as for the candidate's own process: it may be the machine that ran out of memory.
        Some("compile") if message.contains(PTXAS_KILLED) => {
            return Ending::Killed(Outcome::OutOfMemory { phase, message });
        }
        Some("compile") if message.contains(PTXAS_MEMORY) => Outcome::OutOfMemory { phase, message },
        Some("compile") if phase != Phase::Run => Outcome::CompileError { message },
        Some("memory") => Outcome::OutOfMemory { phase, message },
        _ => Outcome::Crashed { phase, message },
    })
}

/// The outcome of a child whose tree of processes grew beyond its limits.
pub(crate) fn excess(over: Over, limits: &Limits, phase: Phase) -> Outcome {
    match over {
        Over::Memory => {
            let message = format!("its processes together took more than {} bytes", limits.memory_bytes);
            Outcome::OutOfMemory { phase, message }
        }
        Over::Processes => {
            Outcome::Crashed { phase, message: format!("it had more than {} processes", limits.max_processes) }
        }
    }
}

/// The outcome of a child that said nothing before it ended.
pub(crate) fn obituary(ended: &Ended, phase: Phase) -> Ending {
    match (ended.signal, ended.code) {
        (Some(9), _) if ended.itself => {
            let message = "it was killed twice, by the system for its memory or by itself".into();
            Ending::Killed(Outcome::OutOfMemory { phase, message })
        }
        (Some(24), _) => crashed(phase, "it used up its processor time"),
        (Some(signal), _) => crashed(phase, format!("it was ended by signal {signal}")),
        (None, Some(code)) => crashed(phase, format!("it exited with code {code} and returned no outputs")),
        (None, None) => crashed(phase, "it vanished without a status"),
    }
}

pub(crate) fn launches(list: &Value) -> Vec<Launch> {
    let Some(list) = list.as_array() else { return Vec::new() };
    let one = |entry: &Value| {
        let kernel = entry[0].as_str()?.chars().take(200).collect();
        let axis = |i: usize| entry[1][i].as_u64().and_then(|n| u32::try_from(n).ok());
        Some(Launch { kernel, grid: [axis(0)?, axis(1)?, axis(2)?] })
    };
    list.iter().take(MAX_LAUNCHES).filter_map(one).collect()
}

/// A private directory that is gone when dropped.
pub(crate) fn home(scratch: &Path) -> Result<tempfile::TempDir, Fault> {
    let shown = scratch.display();
    tempfile::Builder::new()
        .prefix("trial-")
        .tempdir_in(scratch)
        .map_err(|e| fault(SCRATCH, format!("no directory can be made in {shown}: {e}")))
}

/// Removes a private directory, whatever modes the candidate gave to what is in it.
pub(crate) fn remove(home: tempfile::TempDir) -> std::io::Result<()> {
    let path = home.path().to_owned();
    if home.close().is_ok() {
        return Ok(());
    }
    unlock(&path);
    std::fs::remove_dir_all(path)
}

fn unlock(dir: &Path) {
    let _ = std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700));
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        // Of the entry itself: a link into somebody else's directory is not followed.
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            unlock(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Planted bug that was seen, as a user who is not root: the directory stays.
    #[test]
    fn a_locked_directory_is_removed_and_a_link_is_not_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let other = scratch.path().join("other");
        std::fs::create_dir(&other).unwrap();
        let home = home(scratch.path()).unwrap();
        let path = home.path().to_owned();
        let locked = path.join("a/b");
        std::fs::create_dir_all(&locked).unwrap();
        std::os::unix::fs::symlink(&other, path.join("link")).unwrap();
        for dir in [&locked, &path.join("a"), &other] {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o500)).unwrap();
        }
        std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o0)).unwrap();
        remove(home).unwrap();
        assert!(!path.exists());
        assert_eq!(std::fs::metadata(&other).unwrap().permissions().mode() & 0o777, 0o500);
    }
}
