//! `troupe run` and `troupe resume`: set-up, warm start, evaluation, RL, evaluation, summary. Each part leaves what the
//! next one, or a later process, goes on from.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rollout::outcome::Fault;
use rollout::task::TaskSpec;
use sandbox::pyenv::PyEnvError;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::config::{Config, Device, EvalSplit};
use crate::errors::{UserError, disk_full};
use crate::flow::wall_ms;
use crate::llm_judge::Counts;
use crate::observe::{Observer, Progress, RunPhase};
use crate::resume::{ResumeError, rebuild_metrics};
use crate::run_dir::{LOCK_FILE, forget_unbegun, require_room};
use crate::sft::WarmStartError;
use crate::stop::StopToken;
use crate::store::rows::{Op, PhaseTag};
use crate::store::{Reader, StoreConfig, StoreError, Writer, holds_run};
use crate::summary::{HeldOut, Verdict, bounds, held_out};
use crate::{policy, session};

/// The file that says what a run found.
pub const SUMMARY_FILE: &str = "summary.json";
/// The Hugging Face folder of the final policy, in the run directory.
pub const POLICY_DIR: &str = "policy";
/// Inside it, where adapters are trained: the final one, for PEFT.
pub const ADAPTER_DIR: &str = "adapter";
/// How long the end of a run waits for its last writes.
const LAST_FLUSH: Duration = Duration::from_secs(60);

/// Why a run ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{0}")]
    User(#[from] UserError),
    #[error("{0}")]
    PyEnv(#[from] PyEnvError),
    #[error("{0}")]
    WarmStart(WarmStartError),
    #[error("{0}")]
    Model(#[from] model::ModelError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Resume(#[from] ResumeError),
    #[error("{doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("another process is working in {}", .0.display())]
    Busy(PathBuf),
    #[error("{fault}\n  hint: {hint}")]
    Fault { fault: Fault, hint: String },
}

impl RunError {
    /// True when the disk is full, whoever met it.
    pub fn disk_full(&self) -> bool {
        match self {
            RunError::User(e) => e.disk_full,
            RunError::Model(e) | RunError::WarmStart(WarmStartError::Model(e)) => model_disk_full(e),
            RunError::Store(e) | RunError::Resume(ResumeError::Store(e)) => e.disk_full(),
            RunError::Resume(ResumeError::Metrics(source)) | RunError::Io { source, .. } => disk_full(source),
            RunError::PyEnv(_)
            | RunError::WarmStart(_)
            | RunError::Resume(ResumeError::Journal(_) | ResumeError::NoCheckpoint { .. })
            | RunError::Busy(_)
            | RunError::Fault { .. } => false,
        }
    }
}

/// True when a model folder could not be written because the disk is full.
pub fn model_disk_full(error: &model::ModelError) -> bool {
    matches!(error, model::ModelError::Io { source, .. } if disk_full(source))
}

impl From<WarmStartError> for RunError {
    fn from(error: WarmStartError) -> RunError {
        match error {
            WarmStartError::User(error) => RunError::User(error),
            WarmStartError::Model(error) => RunError::Model(error),
            other => RunError::WarmStart(other),
        }
    }
}

/// What a run found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    pub run_dir: PathBuf,
    /// Stopped by the user before its end; `troupe resume` goes on.
    pub interrupted: bool,
    /// Optimizer steps that are durable.
    pub steps: u64,
    pub policy_version: u64,
    /// The split of the tasks in `held_out` (`eval.split`).
    pub split: EvalSplit,
    /// Verified pass@1 on the tasks of `split`; absent without an evaluation.
    pub held_out: Option<HeldOut>,
    /// Held-out answers lost to faults of ours, before and after: in no mean.
    pub masked: [u64; 2],
    /// The least and the most that held-out pass@1 can be where answers were masked, before and after; absent where none was.
    #[serde(default)]
    pub masked_bounds: [Option<[f64; 2]>; 2],
    /// Training rollouts by ending.
    pub rollouts: std::collections::BTreeMap<String, u64>,
    pub faults: u64,
    /// What the LLM judge did, evaluations included; absent when it is off.
    #[serde(default)]
    pub llm_judge: Option<Counts>,
    /// Steps whose loss or gradient was not finite: taken, and the weights stayed as they were.
    pub skipped: u64,
    /// Folder of the final policy; absent after an interruption.
    pub policy_dir: Option<PathBuf>,
    /// With LoRA, its adapter in PEFT's format.
    #[serde(default)]
    pub adapter_dir: Option<PathBuf>,
    /// Wall time of this process, seconds.
    pub seconds: f64,
}

/// Starts a run in `run_dir`, which must not hold one. What a process left that was killed before it had written the
/// configuration is no run yet.
pub fn run(
    config: Config,
    tasks: Vec<TaskSpec>,
    run_dir: &Path,
    observer: Arc<dyn Observer>,
    stop: StopToken,
) -> Result<RunSummary, RunError> {
    let io = |doing: &str, e: &std::io::Error| UserError::io(doing, run_dir, e);
    let exists = || StoreError::Exists(run_dir.to_path_buf());
    if holds_run(run_dir)? {
        return Err(exists().into());
    }
    require_room(run_dir)?;
    let new = !run_dir.exists();
    std::fs::create_dir_all(run_dir).map_err(|e| io("make the run directory", &e))?;
    let lock = lock(run_dir)?;
    // Again, now that nobody else can begin one.
    if holds_run(run_dir)? {
        return Err(exists().into());
    }
    let config = on_record(config);
    let writer = open_store(run_dir)?;
    writer.handle().send(vec![
        Op::Meta { key: "config", value: config.to_toml() },
        Op::Meta { key: "tasks", value: serde_json::to_string(&tasks).map_err(StoreError::from)? },
        Op::Meta { key: "seed", value: config.run.seed.to_string() },
        Op::Meta { key: "secret", value: crate::sft::hex(&secret(&config)?) },
        Op::Meta { key: "version", value: env!("CARGO_PKG_VERSION").to_string() },
        Op::Meta { key: "started_at", value: wall_ms().to_string() },
    ])?;
    writer.handle().flush(LAST_FLUSH)?;
    let ended = go(config, tasks, run_dir, writer, observer, stop, lock);
    if let Err(RunError::User(_) | RunError::Model(_) | RunError::PyEnv(_)) = &ended {
        forget_unbegun(run_dir, new);
    }
    ended
}

/// The configuration as the run keeps it: of a deterministic one the number of threads, so that a machine with other processors that
/// resumes it adds up in the same order.
fn on_record(mut config: Config) -> Config {
    if config.run.deterministic {
        config.learner.threads = crate::sft::learner_threads(&config);
    }
    config
}

/// Continues the run in `run_dir` where it stopped; a complete one is only summed up again.
pub fn resume(run_dir: &Path, observer: Arc<dyn Observer>, stop: StopToken) -> Result<RunSummary, RunError> {
    let reader = Reader::open(run_dir)?;
    let lock = lock(run_dir)?;
    let config = reader.meta("config")?.ok_or_else(|| StoreError::Unbegun(run_dir.to_path_buf()))?;
    let config = Config::from_resolved(&config, &crate::store::path(run_dir))?;
    let tasks = reader.meta("tasks")?.ok_or_else(|| StoreError::Incomplete("its tasks".into()))?;
    let tasks = serde_json::from_str(&tasks).map_err(StoreError::from)?;
    drop(reader);
    let writer = open_store(run_dir)?;
    go(config, tasks, run_dir, writer, observer, stop, lock)
}

fn go(
    config: Config,
    tasks: Vec<TaskSpec>,
    run_dir: &Path,
    writer: Writer,
    observer: Arc<dyn Observer>,
    stop: StopToken,
    lock: std::fs::File,
) -> Result<RunSummary, RunError> {
    let started = std::time::Instant::now();
    rebuild_metrics(run_dir, &Reader::open(run_dir)?)?;
    if config.model.device == Device::Cuda {
        crate::cuda::require("model.device")?;
    }
    forget_interrupted(run_dir)?;
    let interrupted = match config.model.device {
        Device::Cpu => session::play::<model::Cpu>(&config, &tasks, run_dir, &writer, &observer, &stop),
        #[cfg(feature = "cuda")]
        Device::Cuda => session::play::<model::Gpu>(&config, &tasks, run_dir, &writer, &observer, &stop),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda => Err(UserError::new("this binary cannot use CUDA")
            .at("model.device")
            .found("cuda")
            .expected("cpu, or a binary built with `--features cuda`")
            .into()),
    };
    let interrupted = match interrupted {
        Ok(interrupted) => interrupted,
        Err(RunError::WarmStart(WarmStartError::Interrupted)) => true,
        Err(error) => return Err(error),
    };
    writer.stop()?;
    observer.on(Progress::Phase(RunPhase::Summary));
    let summary = summarise(&config, run_dir, interrupted, started.elapsed())?;
    let path = run_dir.join(SUMMARY_FILE);
    let text = serde_json::to_vec_pretty(&summary).map_err(StoreError::from)?;
    policy::write_atomically(&path, &text).map_err(|source| RunError::Io { doing: "cannot write", path, source })?;
    drop(lock);
    Ok(summary)
}

/// The run goes on: that its user stopped it once is no longer so, and would be said of it after a crash too. A complete
/// run's summary stays true.
fn forget_interrupted(run_dir: &Path) -> Result<(), RunError> {
    let path = run_dir.join(SUMMARY_FILE);
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(()) };
    let complete = serde_json::from_str(&text).is_ok_and(|s: serde_json::Value| s["interrupted"] == false);
    if complete {
        return Ok(());
    }
    std::fs::remove_file(&path).map_err(|source| RunError::Io { doing: "cannot remove", path, source })
}

/// What the store of a run says it found.
pub fn summarise(
    config: &Config,
    run_dir: &Path,
    interrupted: bool,
    elapsed: Duration,
) -> Result<RunSummary, RunError> {
    let reader = Reader::open(run_dir)?;
    let verdicts = |phase: PhaseTag| -> Result<Vec<Verdict>, StoreError> {
        Ok(reader.evaluated(phase)?.into_iter().map(|(_, task, correct)| (task, correct)).collect())
    };
    let complete = |phase: PhaseTag| Ok::<_, StoreError>(reader.meta(crate::driver::done_key(phase))?.is_some());
    let before = if complete(PhaseTag::EvalBefore)? { verdicts(PhaseTag::EvalBefore)? } else { Vec::new() };
    let after = if complete(PhaseTag::EvalAfter)? { verdicts(PhaseTag::EvalAfter)? } else { Vec::new() };
    let masked = [reader.masked(PhaseTag::EvalBefore)?, reader.masked(PhaseTag::EvalAfter)?];
    let range = |known: &[Verdict], masked: &[rollout::id::TaskId]| {
        bounds(known, masked).filter(|_| !known.is_empty() && !masked.is_empty())
    };
    let steps = reader.steps()?;
    let policy_dir = run_dir.join(POLICY_DIR);
    let adapter_dir = policy_dir.join(ADAPTER_DIR);
    Ok(RunSummary {
        run_dir: run_dir.to_path_buf(),
        interrupted,
        steps: steps.last().map_or(0, |row| row.step.0),
        policy_version: steps.last().map_or(0, |row| row.policy.0),
        split: config.eval.split,
        held_out: if config.eval.enabled { held_out(&before, &after) } else { None },
        masked: masked.each_ref().map(|tasks| tasks.len() as u64),
        masked_bounds: [range(&before, &masked[0]), range(&after, &masked[1])],
        rollouts: reader.endings(PhaseTag::Train)?,
        faults: reader.faults()?.len() as u64,
        llm_judge: session::llm_judge_counts(&reader)?,
        skipped: steps.iter().filter(|row| !row.applied).count() as u64,
        policy_dir: policy_dir.join("config.json").is_file().then_some(policy_dir),
        adapter_dir: adapter_dir.join("adapter_config.json").is_file().then_some(adapter_dir),
        seconds: elapsed.as_secs_f64(),
    })
}

fn open_store(run_dir: &Path) -> Result<Writer, RunError> {
    // The orchestrator asks the handle; whoever is waiting elsewhere sees the error at the next send.
    Ok(Writer::start(StoreConfig::new(run_dir.to_path_buf()), Box::new(|error| tracing::error!(%error, "store")))?)
}

/// One process at a time works in a run directory. The lock ends with the process, however it ends.
fn lock(run_dir: &Path) -> Result<std::fs::File, RunError> {
    let path = run_dir.join(LOCK_FILE);
    let file = std::fs::File::create(&path).map_err(|e| UserError::io("write to the run directory", &path, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(RunError::Busy(run_dir.to_path_buf())),
        Err(std::fs::TryLockError::Error(source)) => Err(RunError::Io { doing: "cannot lock", path, source }),
    }
}

/// Inputs are drawn from it: unknown to whoever knows the run file, the same after a resume.
fn secret(config: &Config) -> Result<[u8; 32], RunError> {
    use std::io::Read as _;
    if config.run.deterministic {
        return Ok(sha2::Sha256::digest(format!("troupe run {}", config.run.seed).as_bytes()).into());
    }
    let path = PathBuf::from("/dev/urandom");
    let mut secret = [0; 32];
    std::fs::File::open(&path)
        .and_then(|mut source| source.read_exact(&mut secret))
        .map_err(|source| RunError::Io { doing: "cannot read", path, source })?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Silent;

    fn play(run_dir: &Path, resumed: bool) -> RunError {
        let stop = StopToken::default();
        let config = Config::builtin().unwrap();
        // Without a task nothing can be trained; asked to stop it would not even come to that.
        stop.ask();
        let result = if resumed {
            resume(run_dir, Arc::new(Silent), stop)
        } else {
            run(config, Vec::new(), run_dir, Arc::new(Silent), stop)
        };
        result.unwrap_err()
    }

    #[test]
    fn a_run_that_goes_on_is_no_longer_said_to_be_stopped_and_a_complete_one_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SUMMARY_FILE);
        forget_interrupted(dir.path()).unwrap();
        for (text, stays) in [("{\"interrupted\": true}", false), ("{", false), ("{\"interrupted\": false}", true)] {
            std::fs::write(&path, text).unwrap();
            forget_interrupted(dir.path()).unwrap();
            assert_eq!(path.exists(), stays, "{text}");
        }
    }

    /// Planted: the number is not resolved. Seen: 0 on record.
    #[test]
    fn a_deterministic_run_keeps_the_number_of_threads_it_began_with() {
        let here = crate::sft::threads();
        for (deterministic, asked, kept) in [(true, 0, here), (true, here + 3, here + 3), (false, 0, 0)] {
            let mut config = Config::builtin().unwrap();
            (config.run.deterministic, config.learner.threads) = (deterministic, asked);
            config.rollout.staleness_max = 0;
            // As a resumed run reads it.
            let text = on_record(config).to_toml();
            let read = Config::from_resolved(&text, Path::new("run.sqlite")).unwrap();
            assert_eq!(read.learner.threads, kept, "{deterministic} {asked}");
            assert_eq!(crate::sft::learner_threads(&read), if kept == 0 { here } else { kept });
        }
    }

    /// A process that is killed while it makes the store leaves an empty file; one that is killed before its first
    /// commit leaves tables. Planted: `run` refuses any `run.sqlite` (as it was). Seen: `holds_run` is true.
    #[test]
    fn a_store_without_a_configuration_is_no_run_and_resume_says_how_to_begin() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!holds_run(dir.path()).unwrap());
        std::fs::write(crate::store::path(dir.path()), "").unwrap();
        assert!(!holds_run(dir.path()).unwrap());
        let unbegun = |e: &RunError| matches!(e, RunError::Store(StoreError::Unbegun(d)) if d == dir.path());
        let e = play(dir.path(), true);
        assert!(unbegun(&e), "{e}");
        let writer = open_store(dir.path()).unwrap();
        assert!(!holds_run(dir.path()).unwrap(), "tables and nothing in them");
        let e = play(dir.path(), true);
        assert!(unbegun(&e), "{e}");
        writer.handle().send(vec![Op::Meta { key: "config", value: "x".into() }]).unwrap();
        writer.stop().unwrap();
        assert!(holds_run(dir.path()).unwrap());
        let e = play(dir.path(), false);
        assert!(matches!(e, RunError::Store(StoreError::Exists(_))), "{e}");
        // What is no database at all is not taken over either.
        std::fs::write(crate::store::path(dir.path()), "not a database, and long enough to be read as one".repeat(9))
            .unwrap();
        let e = play(dir.path(), false);
        assert!(matches!(e, RunError::Store(StoreError::Open { .. })), "{e}");
    }
}
