//! The executor's door: a task and a candidate in, a report or a fault out.
//!
//! It owns a referee and a zygote, starts them again after a fault, and evaluates one candidate at a time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use rollout::evidence::Ablation;
use rollout::outcome::{Candidate, ExecReport, Fault, Outcome, Phase};
use rollout::task::TaskSpec;
use serde_json::Value;
use tokio::sync::Mutex;

use crate::device::{self, Device};
use crate::fault::{KILLED, PROTOCOL, REFEREE_LOST, SCRATCH, STRAYS, ZYGOTE_LOST, fault};
use crate::harness;
pub use crate::isolation::Isolation;
use crate::referee::{self, Compared, Prepared, Referee};
use crate::stage;
use crate::suspects::Suspects;
use crate::trial::{self, Ending, Left, ms_since};
use crate::zygote::Zygote;

/// Limits on one candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the fork until the candidate's module is imported, milliseconds.
    pub import_ms: u64,
    /// Building `ModelNew` and compiling every kernel it launches, milliseconds.
    pub compile_ms: u64,
    /// All checked forwards in the interpreter, milliseconds.
    pub run_ms: u64,
    /// Memory a candidate's process may take besides the libraries it shares, bytes.
    pub memory_bytes: u64,
    /// Processes and threads a candidate may have (not enforced for the superuser by every kernel).
    pub max_processes: u64,
    /// What a candidate may print, bytes. Only the end is kept.
    pub log_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            import_ms: 10_000,
            compile_ms: 20_000,
            run_ms: 20_000,
            memory_bytes: 2 << 30,
            max_processes: 64,
            log_bytes: 64 << 20,
        }
    }
}

impl Limits {
    /// Longest time one evaluation may take with its processes up and each of its phases within its limit, the reference
    /// and the comparison included, milliseconds.
    pub fn evaluation_ms(&self) -> u64 {
        let referee = (referee::PREPARE + referee::COMPARE).as_millis() as u64;
        referee + self.import_ms + self.compile_ms + self.run_ms
    }
}

/// What an executor needs to start.
#[derive(Clone, Debug)]
pub struct ExecutorConfig {
    /// An interpreter with torch and Triton (`pyenv::ensure`).
    pub python: PathBuf,
    /// A directory for private directories of candidates; each is removed when its evaluation ends.
    pub scratch: PathBuf,
    pub limits: Limits,
    /// Inputs are drawn from it. It never reaches a candidate's process.
    pub secret: [u8; 32],
    /// Shared by the executors of one run.
    pub suspects: Suspects,
    /// Parts of the isolation (names of `isolation::PARTS`) without which nothing is started.
    pub require: Vec<String>,
    /// Where what passes in the interpreter is checked at full size and timed.
    pub device: Option<Arc<Device>>,
}

/// Evaluates candidates, one at a time.
pub struct Executor {
    config: ExecutorConfig,
    state: Mutex<State>,
    running: Pids,
}

/// Of the zygote and the referee, as they were last started.
type Pids = Arc<std::sync::Mutex<[Option<u32>; 2]>>;

struct State {
    harness: tempfile::TempDir,
    referee: Option<Referee>,
    zygote: Option<Zygote>,
    /// True while an evaluation runs: found true at the next one, it was dropped half way.
    dirty: bool,
    running: Pids,
}

/// What one attempt came to.
enum Tried {
    Told(ExecReport),
    /// The candidate's process was killed, not by us. The report holds if the candidate is to blame.
    Killed(ExecReport),
}

/// A candidate that is killed twice, or the zygote under it, and a good one passes after that, was not unlucky.
const DEATHS_TO_BLAME: u32 = 2;

impl Executor {
    /// Starts both Python processes and waits until they are ready.
    pub async fn start(mut config: ExecutorConfig) -> Result<Executor, Fault> {
        // The Python processes work in other directories.
        config.scratch = absolute(config.scratch)?;
        if config.python.components().count() > 1 {
            config.python = absolute(config.python)?;
        }
        let shown = config.scratch.display().to_string();
        let scratch = |e: std::io::Error| fault(SCRATCH, format!("{shown} cannot be used: {e}"));
        std::fs::create_dir_all(&config.scratch).map_err(scratch)?;
        let harness = tempfile::Builder::new().prefix("harness-").tempdir_in(&config.scratch).map_err(scratch)?;
        harness::unpack(harness.path()).map_err(scratch)?;
        let running = Pids::default();
        let mut state = State { harness, referee: None, zygote: None, dirty: false, running: running.clone() };
        state.ready(&config).await?;
        Ok(Executor { config, state: Mutex::new(state), running })
    }

    /// What became of `candidate` on `task`. Every wait inside has a deadline. Dropping the future is safe: the next
    /// evaluation starts with fresh processes.
    pub async fn evaluate(&self, task: &TaskSpec, candidate: &Candidate) -> Result<ExecReport, Fault> {
        let mut state = self.state.lock().await;
        if state.dirty {
            state.reset().await;
        }
        state.dirty = true;
        let result = state.evaluate(&self.config, task, candidate).await;
        state.dirty = false;
        result
    }

    /// Process ids of the zygote and the referee, for tests that kill them and for `doctor`.
    pub async fn pids(&self) -> [Option<u32>; 2] {
        let state = self.state.lock().await;
        [state.zygote.as_ref().and_then(Zygote::pid), state.referee.as_ref().and_then(Referee::pid)]
    }

    /// The same without waiting for an evaluation that goes on: they may be gone already.
    pub fn running_pids(&self) -> [Option<u32>; 2] {
        *self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// How candidates are kept apart; `None` while the zygote is down.
    pub async fn isolation(&self) -> Option<Isolation> {
        self.state.lock().await.zygote.as_ref().map(|z| z.isolation().clone())
    }

    /// Ends both processes, removes the harness, and the scratch directory if nothing else is in it.
    pub async fn shutdown(self) {
        let mut state = self.state.into_inner();
        state.reset().await;
        drop(state);
        let _ = std::fs::remove_dir(&self.config.scratch);
    }
}

fn absolute(path: PathBuf) -> Result<PathBuf, Fault> {
    std::path::absolute(&path).map_err(|e| fault(SCRATCH, format!("{}: {e}", path.display())))
}

impl State {
    /// Both processes, started where they are missing or dead.
    async fn ready(&mut self, config: &ExecutorConfig) -> Result<(&mut Zygote, &mut Referee), Fault> {
        if self.zygote.as_mut().is_some_and(|z| !z.is_alive()) {
            self.zygote = None;
        }
        if self.referee.as_mut().is_some_and(|r| !r.is_alive()) {
            self.referee = None;
        }
        let dir = self.harness.path();
        let on = config.device.as_ref().map_or(Value::Null, |device| device.wire());
        let (zygote, referee) = tokio::try_join!(
            async {
                match self.zygote.take() {
                    Some(z) => Ok(z),
                    None => Zygote::start(&config.python, dir, &config.require, &on).await,
                }
            },
            async {
                match self.referee.take() {
                    Some(r) => Ok(r),
                    None => Referee::start(&config.python, dir, &config.secret).await,
                }
            },
        )?;
        *self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = [zygote.pid(), referee.pid()];
        Ok((self.zygote.insert(zygote), self.referee.insert(referee)))
    }

    async fn reset(&mut self) {
        if let Some(zygote) = self.zygote.take() {
            zygote.stop().await;
        }
        if let Some(referee) = self.referee.take() {
            referee.stop().await;
        }
    }

    async fn evaluate(
        &mut self,
        config: &ExecutorConfig,
        task: &TaskSpec,
        candidate: &Candidate,
    ) -> Result<ExecReport, Fault> {
        let began = Instant::now();
        let result = match self.attempt(config, task, candidate, began).await {
            Ok(Tried::Told(report)) if report.outcome.is_correct() => {
                self.on_device(config, task, candidate, report, began).await
            }
            other => other,
        };
        match result {
            Ok(Tried::Told(report)) => Ok(report),
            Ok(Tried::Killed(report)) => {
                let memory = "most likely because the machine ran out of memory";
                let killed = fault(KILLED, format!("the process of a candidate was killed by the system, {memory}"));
                self.blame(config, candidate, killed, report, false).await
            }
            // Out of the interpreter it came alive, so that was on the device.
            Err(f) if f.code == KILLED => {
                let message = format!("{}; it was killed before, and a known good one is not", f.message);
                let guilty = Outcome::OutOfMemory { phase: Phase::Run, message };
                self.blame(config, candidate, f, report_of(guilty, None, None, began), true).await
            }
            Err(f) if f.code == ZYGOTE_LOST => {
                if let Some(zygote) = self.zygote.take() {
                    zygote.stop().await;
                }
                let message = "the process that supervises it died under it, twice".to_owned();
                let crashed = Outcome::Crashed { phase: Phase::Import, message };
                self.blame(config, candidate, f, report_of(crashed, None, None, began), false).await
            }
            Err(f) if [STRAYS, PROTOCOL].contains(&f.code.as_str()) => {
                self.reset().await;
                Err(f)
            }
            Err(f) => Err(f),
        }
    }

    /// This candidate, or the zygote under it, was killed. The first time that is ours; when it happens again although
    /// a good candidate passes (on the device, too, where it happened there), it is the candidate's doing: `guilty`.
    async fn blame(
        &mut self,
        config: &ExecutorConfig,
        candidate: &Candidate,
        innocent: Fault,
        guilty: ExecReport,
        there: bool,
    ) -> Result<ExecReport, Fault> {
        if config.suspects.count(&candidate.digest) < DEATHS_TO_BLAME {
            return Err(innocent);
        }
        let (task, good) = crate::doctor::known_good();
        let began = Instant::now();
        let tried = match self.attempt(config, &task, &good, began).await {
            Ok(Tried::Told(report)) if there && report.outcome.is_correct() => {
                self.on_device(config, &task, &good, report, began).await
            }
            tried => tried,
        };
        match tried {
            Ok(Tried::Told(report)) if report.outcome.is_correct() => Ok(guilty),
            Err(f) if [STRAYS, PROTOCOL, ZYGOTE_LOST].contains(&f.code.as_str()) => {
                self.reset().await;
                Err(innocent)
            }
            _ => Err(innocent),
        }
    }

    /// What passed in the interpreter, on the device where there is one.
    async fn on_device(
        &mut self,
        config: &ExecutorConfig,
        task: &TaskSpec,
        candidate: &Candidate,
        mut report: ExecReport,
        began: Instant,
    ) -> Result<Tried, Fault> {
        let Some(device) = &config.device else { return Ok(Tried::Told(report)) };
        let (zygote, _) = self.ready(config).await?;
        let on = device::evaluate(device, zygote, &config.limits, &config.scratch, task, candidate).await?;
        on.add_to(&mut report);
        report.phase_ms.insert("total".into(), ms_since(began));
        Ok(Tried::Told(report))
    }

    async fn prepare(
        &mut self,
        config: &ExecutorConfig,
        task: &TaskSpec,
        candidate: &Candidate,
    ) -> Result<Prepared, Fault> {
        let (_, referee) = self.ready(config).await?;
        referee.prepare(&task.id.0, &candidate.digest.0, &task.source).await
    }

    async fn attempt(
        &mut self,
        config: &ExecutorConfig,
        task: &TaskSpec,
        candidate: &Candidate,
        began: Instant,
    ) -> Result<Tried, Fault> {
        stage::enter("reference");
        let prepared = match self.prepare(config, task, candidate).await {
            // Nothing of this evaluation has happened yet, so a referee that died since the last one is replaced.
            Err(f) if f.code == REFEREE_LOST => self.prepare(config, task, candidate).await?,
            other => other?,
        };
        let (zygote, referee) = self.ready(config).await?;
        for note in &prepared.notes {
            tracing::debug!(task = %task.id, note, "about this task's draws");
        }
        let home = trial::home(&config.scratch)?;
        let mut left = trial::run(zygote, &prepared, candidate, &config.limits, home.path()).await?;
        left.phase_ms.insert("reference".into(), prepared.ms);
        if let Err(e) = trial::remove(home) {
            tracing::warn!("a candidate's directory was not removed: {e}");
        }
        let ending = std::mem::replace(&mut left.ending, Ending::Outcome(Outcome::Passed { speedup: None }));
        match ending {
            Ending::Outcome(outcome) => Ok(Tried::Told(report_of(outcome, Some(left), None, began))),
            Ending::Killed(outcome) => Ok(Tried::Killed(report_of(outcome, Some(left), None, began))),
            Ending::Outputs { draws, blob, ablated } => {
                stage::enter("compare");
                left.evidence.ablation = Ablation::Changed;
                if let Some((outputs, blob)) = ablated
                    && referee.ablated(&outputs, &blob).await?
                {
                    left.evidence.ablation = Ablation::Unchanged;
                }
                let compared = referee.compare(&draws, &blob).await?;
                if compared.wrong.is_ok() && compared.kernelbench_1e2.is_none() {
                    return Err(fault(PROTOCOL, "the referee gave half a verdict"));
                }
                left.evidence.own_shapes_only.clone_from(&compared.own_shapes_only);
                let outcome = match &compared.wrong {
                    Err(reason) => Outcome::Crashed {
                        phase: Phase::Run,
                        message: format!("its result does not describe tensors: {reason}"),
                    },
                    Ok(Some(message)) => Outcome::WrongAnswer { message: message.clone() },
                    Ok(None) => Outcome::Passed { speedup: None },
                };
                Ok(Tried::Told(report_of(outcome, Some(left), Some(compared), began)))
            }
        }
    }
}

fn report_of(outcome: Outcome, left: Option<Left>, compared: Option<Compared>, began: Instant) -> ExecReport {
    let (launches, evidence, mut phase_ms, log_tail) =
        left.map(|l| (l.launches, l.evidence, l.phase_ms, l.log)).unwrap_or_default();
    if let Some(c) = &compared {
        phase_ms.insert("compare".into(), c.ms);
    }
    phase_ms.insert("total".into(), ms_since(began));
    ExecReport {
        outcome,
        launches,
        phase_ms,
        kernelbench_1e2: compared.as_ref().and_then(|c| c.kernelbench_1e2),
        kernelbench_1e4: compared.as_ref().and_then(|c| c.kernelbench_1e4),
        max_abs_error: compared.as_ref().and_then(|c| c.max_abs_error),
        evidence,
        timing: None,
        findings: Vec::new(),
        log_tail,
        protocol: harness::protocol_digest(),
        reused: false,
    }
}
