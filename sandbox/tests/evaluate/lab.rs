//! One executor for all tests of this binary, and short ways to write tasks and candidates.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rollout::id::{Digest, TaskId};
use rollout::outcome::{Candidate, ExecReport, Fault, Outcome};
use rollout::task::{Split, TaskSpec};
use sandbox::Suspects;
use sandbox::executor::{Executor, ExecutorConfig, Isolation, Limits};

#[path = "../python/mod.rs"]
mod environment;

use environment::python;

/// Short enough to wait for, long enough for a busy machine.
pub const LIMITS: Limits = Limits {
    import_ms: 12_000,
    compile_ms: 12_000,
    run_ms: 12_000,
    memory_bytes: 1 << 30,
    max_processes: 32,
    log_bytes: 64 << 20,
};

pub fn config(name: &str, limits: Limits) -> Option<ExecutorConfig> {
    let scratch = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let (secret, suspects) = ([42; 32], Suspects::default());
    Some(ExecutorConfig { python: python()?, scratch, limits, secret, suspects, require: Vec::new(), device: None })
}

/// The executor that most tests share: it takes one candidate at a time, so a test's neighbours are the best check
/// that nothing is left behind.
pub struct Lab {
    runtime: tokio::runtime::Runtime,
    executor: Executor,
}

pub fn lab() -> Option<&'static Lab> {
    static LAB: OnceLock<Option<Lab>> = OnceLock::new();
    LAB.get_or_init(|| {
        let config = config("lab", LIMITS)?;
        remove_what_earlier_runs_left();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let executor = runtime.block_on(Executor::start(config)).expect("the executor starts");
        Some(Lab { runtime, executor })
    })
    .as_ref()
}

/// The shared executor lives as long as the test process, so its directory outlives it.
fn remove_what_earlier_runs_left() {
    for entry in std::fs::read_dir(env!("CARGO_TARGET_TMPDIR")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let Some(pid) = name.strip_prefix("lab-") else { continue };
        if !std::path::Path::new("/proc").join(pid).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

impl Lab {
    pub fn evaluate(&self, task: &str, candidate: &str) -> Result<ExecReport, Fault> {
        self.runtime.block_on(self.executor.evaluate(&task_of(task), &candidate_of(candidate)))
    }

    /// For candidates that are killed: a fault the first time, scored the second.
    #[track_caller]
    pub fn outcome_of_two(&self, task: &str, candidate: &str) -> Outcome {
        let (task, candidate) = (task_of(task), candidate_of(candidate));
        let evaluate = || self.runtime.block_on(self.executor.evaluate(&task, &candidate));
        let first = evaluate().expect_err("it was not proved yet whose doing that was");
        assert_eq!(first.code, "F011", "{first}");
        evaluate().expect("no fault").outcome
    }

    pub fn isolation(&self) -> Isolation {
        self.runtime.block_on(self.executor.isolation()).expect("the zygote is up")
    }

    pub fn outcome(&self, task: &str, candidate: &str) -> Outcome {
        self.evaluate(task, candidate).expect("no fault").outcome
    }
}

pub fn task_of(source: &str) -> TaskSpec {
    TaskSpec { id: TaskId("task".into()), level: 1, split: Split::Train, tags: vec![], source: source.into() }
}

/// Every candidate gets another digest, so that inputs differ from evaluation to evaluation.
pub fn candidate_of(source: &str) -> Candidate {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    Candidate { source: source.into(), digest: Digest(format!("{n:064x}")) }
}

/// `Some(lab)` or leave the test.
#[macro_export]
macro_rules! lab_or_skip {
    () => {
        match $crate::lab::lab() {
            Some(lab) => lab,
            None => return,
        }
    };
}
