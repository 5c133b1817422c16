//! The device's stages on this machine's own processor: everything but the figures is as on a GPU.

#![allow(clippy::unwrap_used)]

#[path = "../python/mod.rs"]
mod environment;
#[path = "../evaluate/fixtures.rs"]
#[allow(dead_code)]
mod fixtures;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fixtures::{ADD_TASK, add, add_with};
use rollout::evidence::Ablation;
use rollout::id::{Digest, TaskId};
use rollout::outcome::{Candidate, ExecReport, Fault, Outcome, Phase};
use rollout::task::{Split, TaskSpec};
use sandbox::Suspects;
use sandbox::device::{Device, DeviceConfig, DeviceLimits, Kind};
use sandbox::executor::{Executor, ExecutorConfig, Limits};
use sandbox::gpu::fake::FakeInventory;
use sandbox::gpu::timing::SamplerConfig;

struct Lab {
    device: Arc<Device>,
    executors: Vec<Executor>,
    _scratch: tempfile::TempDir,
}

async fn lab(executors: usize, timed: bool) -> Option<Lab> {
    let python = environment::python()?;
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let config = DeviceConfig {
        kind: Kind::Processor,
        python: python.clone(),
        scratch: scratch.path().to_owned(),
        secret: [42; 32],
        checks: 2,
        box_bytes: 64 << 20,
        limits: DeviceLimits::default(),
        sampler: SamplerConfig { min_samples: 8, max_samples: 24, relative_width: 0.5, ..SamplerConfig::default() },
        timed,
        tries: 2,
        lock_sm_mhz: 0,
    };
    let device = Arc::new(Device::start(config, Arc::new(FakeInventory::default())).await.expect("the device starts"));
    let mut made = Vec::new();
    for n in 0..executors {
        let config = executor_config(&python, scratch.path().join(format!("executor-{n}")), &device);
        made.push(Executor::start(config).await.expect("the executor starts"));
    }
    Some(Lab { device, executors: made, _scratch: scratch })
}

fn executor_config(python: &std::path::Path, scratch: PathBuf, device: &Arc<Device>) -> ExecutorConfig {
    ExecutorConfig {
        python: python.to_owned(),
        scratch,
        limits: Limits { import_ms: 12_000, compile_ms: 12_000, run_ms: 12_000, ..Limits::default() },
        secret: [43; 32],
        suspects: Suspects::default(),
        require: Vec::new(),
        device: Some(device.clone()),
    }
}

impl Lab {
    async fn evaluate(&self, n: usize, task: &str, candidate: &str) -> Result<ExecReport, Fault> {
        self.executors[n].evaluate(&task_of(task), &candidate_of(candidate)).await
    }

    async fn end(self) {
        for executor in self.executors {
            executor.shutdown().await;
        }
        self.device.shutdown().await;
    }
}

fn task_of(source: &str) -> TaskSpec {
    TaskSpec { id: TaskId("task".into()), level: 1, split: Split::Train, tags: vec![], source: source.into() }
}

fn candidate_of(source: &str) -> Candidate {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    Candidate { source: source.into(), digest: Digest(format!("{n:064x}")) }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

#[test]
fn a_right_candidate_is_checked_and_timed_and_the_evidence_is_kept() {
    runtime().block_on(async {
        let Some(lab) = lab(1, true).await else { return };
        let report = lab.evaluate(0, ADD_TASK, &add()).await.expect("no fault");
        let Outcome::Passed { speedup: Some(speedup) } = report.outcome else { panic!("{:?}", report.outcome) };
        let timing = report.timing.expect("it was timed");
        assert!(speedup > 0.0 && (speedup == timing.speedup || timing.tie && speedup == 1.0), "{timing:?}");
        assert!(timing.samples >= 8 && timing.low <= timing.speedup && timing.speedup <= timing.high, "{timing:?}");
        assert!(timing.candidate_us > 0.0 && timing.reference_us > 0.0 && timing.baseline_us > 0.0, "{timing:?}");
        let on_device = report.evidence.forwards.iter().filter(|s| s.draw.starts_with("on the device")).count();
        assert!(on_device >= 6, "{:?}", report.evidence.forwards);
        assert!(report.evidence.forwards.iter().all(|s| s.launches > 0 && s.computed.is_empty()));
        assert_eq!(report.evidence.ablation, Ablation::Changed);
        for phase in ["device_reference", "device_compile", "device_check", "device_time", "device_end"] {
            assert!(report.phase_ms.contains_key(phase), "{phase}: {:?}", report.phase_ms);
        }
        assert_eq!(lab.device.load(), (0, 0, 0));
        assert_eq!(lab.device.state(), "Free");
        lab.end().await;
    });
}

/// Right in the interpreter's sizes and wrong in the task's own would pass a verifier that looks at small shapes only. Here
/// both are the same, so the candidate tells them apart by how often it is asked: the device's draws come in a new process.
#[test]
fn what_is_wrong_on_the_device_alone_is_wrong() {
    runtime().block_on(async {
        let Some(lab) = lab(1, true).await else { return };
        let body = "out = add(x, y)\nimport sys\nif 'device' in sys.modules and len(sys._current_frames()) and os.path.exists('/proc/self/fd/4'):\n    pass\nreturn out";
        let told_apart = add_with("", &body.replace("    pass", "    out.view(-1)[-1:].fill_(7)"));
        let outcome = lab.evaluate(0, ADD_TASK, &told_apart).await.expect("no fault").outcome;
        assert!(!outcome.is_correct(), "{outcome:?}");
        lab.end().await;
    });
}

#[test]
fn hangs_crashes_and_deaths_on_the_device_are_outcomes_and_the_next_is_unaffected() {
    runtime().block_on(async {
        let Some(lab) = lab(1, true).await else { return };
        // In the device's child descriptor 5 or so is the command pipe; an interpreted child has none.
        let only_there = |what: &str| add_with("import stat", &format!("import os\nfound = sum(stat.S_ISFIFO(os.fstat(n).st_mode) for n in range(3, 20) if os.path.exists(f'/proc/self/fd/{{n}}'))\nif found > 1:\n    {what}\nreturn add(x, y)"));
        let outcome = lab.evaluate(0, ADD_TASK, &only_there("raise ValueError('there')")).await.unwrap().outcome;
        assert!(matches!(&outcome, Outcome::Crashed { message, .. } if message.contains("there")), "{outcome:?}");
        let outcome = lab.evaluate(0, ADD_TASK, &only_there("os._exit(3)")).await.unwrap().outcome;
        assert!(matches!(&outcome, Outcome::Crashed { .. }), "{outcome:?}");
        let outcome = lab.evaluate(0, ADD_TASK, &only_there("while True: pass")).await.unwrap().outcome;
        assert!(matches!(&outcome, Outcome::TimedOut { phase: Phase::Compile | Phase::Run, .. }), "{outcome:?}");
        let fault = lab.evaluate(0, ADD_TASK, &only_there("os.kill(os.getpid(), 9)")).await;
        assert!(matches!(&fault, Err(f) if f.code == "F011") || fault.is_ok_and(|r| !r.outcome.is_correct()));
        assert!(lab.evaluate(0, ADD_TASK, &add()).await.unwrap().outcome.is_correct());
        assert_eq!(lab.device.load(), (0, 0, 0));
        lab.end().await;
    });
}

#[test]
fn a_killed_referee_is_a_fault_and_is_replaced() {
    runtime().block_on(async {
        let Some(lab) = lab(1, false).await else { return };
        let before = lab.device.referee_pid().await.unwrap();
        let killed = std::process::Command::new("kill").args(["-9", &before.to_string()]).status().unwrap();
        assert!(killed.success());
        std::thread::sleep(std::time::Duration::from_millis(100));
        let report = lab.evaluate(0, ADD_TASK, &add()).await.expect("it is replaced before the next question");
        assert!(report.outcome.is_correct() && report.timing.is_none(), "{:?}", report.outcome);
        assert_ne!(lab.device.referee_pid().await.unwrap(), before);
        lab.end().await;
    });
}

/// Two lanes on one device: nobody is checked while somebody is timed, and all come through.
#[test]
fn lanes_share_a_device() {
    runtime().block_on(async {
        let Some(lab) = lab(2, true).await else { return };
        let work = |n: usize| {
            let lab = &lab;
            async move {
                for _ in 0..2 {
                    let report = lab.evaluate(n, ADD_TASK, &add()).await.expect("no fault");
                    assert!(report.outcome.is_correct(), "{:?}", report.outcome);
                }
            }
        };
        tokio::join!(work(0), work(1));
        assert_eq!(lab.device.load(), (0, 0, 0));
        lab.end().await;
    });
}
