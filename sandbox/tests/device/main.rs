//! The device's stages: on a GPU where NVML finds one, else on this machine's own processor, on which everything but the
//! figures is the same. `cargo test --release -p sandbox --test device` says which it was.

#![allow(clippy::unwrap_used)]

mod beside;
mod bursts;
#[path = "../python/mod.rs"]
mod environment;
#[path = "../evaluate/fixtures.rs"]
#[allow(dead_code)]
mod fixtures;
mod forged;
mod harness;
mod interrupted;
mod later;
mod scripts;
mod tuned;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fixtures::{add, add_with};
use rollout::evidence::Ablation;
use rollout::id::{Digest, TaskId};
use rollout::outcome::{Candidate, ExecReport, Fault, Outcome, Phase};
use rollout::task::{Split, TaskSpec};
use sandbox::Suspects;
use sandbox::device::{Device, DeviceConfig, DeviceLimits, Kind, Places};
use sandbox::executor::{Executor, ExecutorConfig, Limits};
use sandbox::gpu::contamination;
use sandbox::gpu::fake::FakeInventory;
use sandbox::gpu::free::FreePolicy;
use sandbox::gpu::inventory::{Device as Gpu, Inventory, Process, Reading, Throttle};
use sandbox::gpu::nvml::NvmlInventory;
use sandbox::gpu::timing::SamplerConfig;

/// `fixtures::ADD_TASK`, large; small in the interpreter.
const ADD_TASK: &str = "\
import torch

N = 16000

INTERPRETER_SHAPES = {'N': 8}

class Model(torch.nn.Module):
    def forward(self, x, y):
        return x + 2 * y

def get_inputs():
    return [torch.randn(N, 1000), torch.randn(N, 1000)]
";

/// The GPU that `TROUPE_TESTS_GPU` names by its UUID, else the first, or the processor in its place.
fn host() -> (Kind, Arc<dyn Inventory>) {
    let say = |text: String| drop(writeln!(std::io::stderr(), "{text}"));
    let found = NvmlInventory::open().map_err(|e| e.to_string()).and_then(|inventory| {
        let wanted = std::env::var("TROUPE_TESTS_GPU").ok();
        let mut all = inventory.devices().map_err(|e| e.to_string())?.into_iter();
        let one =
            all.find(|gpu| wanted.as_ref().is_none_or(|uuid| gpu.uuid == *uuid)).ok_or("no such GPU is listed")?;
        Ok((one, inventory))
    });
    match found {
        Ok((gpu, inventory)) => {
            say(format!("on {} ({})", gpu.name, gpu.uuid));
            (Kind::Cuda(gpu.uuid), Arc::new(inventory))
        }
        Err(why) => {
            assert!(std::env::var_os("TROUPE_TESTS_GPU").is_none(), "TROUPE_TESTS_GPU names a GPU: {why}");
            say(format!("the GPU tier is skipped, the processor stands in: {why}"));
            (Kind::Processor(None), Arc::new(FakeInventory::default()))
        }
    }
}

/// Cargo's folder, or, on a machine that lacks it because nothing was built there, the usual one.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).or_else(|_| tempfile::tempdir()).unwrap()
}

struct Lab {
    device: Arc<Device>,
    executors: Vec<Executor>,
    _scratch: tempfile::TempDir,
}

async fn lab(executors: usize, timed: bool) -> Option<Lab> {
    let (kind, inventory) = host();
    lab_on(kind, inventory, executors, timed).await
}

async fn lab_on(kind: Kind, inventory: Arc<dyn Inventory>, executors: usize, timed: bool) -> Option<Lab> {
    let python = environment::python()?;
    let scratch = scratch();
    let config = device_config(kind, &python, scratch.path(), timed);
    let device = Arc::new(Device::start(config, inventory).await.expect("the device starts"));
    let mut made = Vec::new();
    for n in 0..executors {
        let config = executor_config(&python, scratch.path().join(format!("executor-{n}")), &device);
        made.push(Executor::start(config).await.expect("the executor starts"));
    }
    Some(Lab { device, executors: made, _scratch: scratch })
}

fn device_config(kind: Kind, python: &std::path::Path, scratch: &std::path::Path, timed: bool) -> DeviceConfig {
    DeviceConfig {
        kind,
        python: python.to_owned(),
        scratch: scratch.to_owned(),
        secret: [42; 32],
        checks: 2,
        box_bytes: 2 << 30,
        limits: DeviceLimits::default(),
        sampler: SamplerConfig { min_samples: 8, max_samples: 24, relative_width: 0.5, ..SamplerConfig::default() },
        timed,
        tries: 2,
        // A busy processor is no fair device.
        disturbed: contamination::Limits {
            drift: 1e9,
            host_longer: (2.0, 5_000.0),
            host_shorter: (0.0, 1e9),
            uneven: (1e6, 1e9),
            ..Default::default()
        },
        free: FreePolicy { window_ms: 200, ..FreePolicy::default() },
        lock_sm_mhz: 0,
        tenant: None,
        places: Places::Fresh,
    }
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

/// A candidate that is right in the interpreter and wrong in the process that is on the device, told apart by how many pipes it
/// has, is wrong; so is one that is right until it is timed.
#[test]
fn what_is_wrong_on_the_device_alone_is_wrong() {
    runtime().block_on(async {
        let Some(lab) = lab(1, true).await else { return };
        // The last three are infinitely wrong, which no frame can hold as a number.
        for wrong in ["add(x, x)", "add(x, y) * float('nan')", "add(x, y) / 0", "(add(x, y),)"] {
            let outcome = lab.evaluate(0, ADD_TASK, &only_there(&format!("return {wrong}"))).await;
            assert!(
                matches!(&outcome, Ok(r) if matches!(&r.outcome, Outcome::WrongAnswer { message } if message.contains("at full size"))),
                "{wrong}: {outcome:?}"
            );
        }
        let later = only_there("global calls\n    calls += 1\n    return add(x, x if calls > 12 else y)");
        let later = later.replace("import stat", "import stat\ncalls = 0");
        let outcome = lab.evaluate(0, ADD_TASK, &later).await.expect("no fault").outcome;
        assert!(matches!(&outcome, Outcome::WrongAnswer { message } if message.contains("timed call")), "{outcome:?}");
        lab.end().await;
    });
}

/// An add candidate that does `what` where it is on a device: only there it has a pipe for commands.
fn only_there(what: &str) -> String {
    let found = "sum(stat.S_ISFIFO(os.fstat(n).st_mode) for n in range(3, 20) if os.path.exists(f'/proc/self/fd/{n}'))";
    add_with("import stat", &format!("found = {found}\nif found > 1:\n    {what}\nreturn add(x, y)"))
}

#[test]
fn hangs_crashes_and_deaths_on_the_device_are_outcomes_and_the_next_is_unaffected() {
    runtime().block_on(async {
        let Some(lab) = lab(1, true).await else { return };
        let outcome = lab.evaluate(0, ADD_TASK, &only_there("raise ValueError('there')")).await.unwrap().outcome;
        assert!(matches!(&outcome, Outcome::Crashed { message, .. } if message.contains("there")), "{outcome:?}");
        let outcome = lab.evaluate(0, ADD_TASK, &only_there("os._exit(3)")).await.unwrap().outcome;
        assert!(matches!(&outcome, Outcome::Crashed { .. }), "{outcome:?}");
        let outcome = lab.evaluate(0, ADD_TASK, &only_there("while True: pass")).await.unwrap().outcome;
        assert!(matches!(&outcome, Outcome::TimedOut { phase: Phase::Compile | Phase::Run, .. }), "{outcome:?}");
        let compiling = lab.evaluate(0, ADD_TASK, &only_there("os.kill(os.getpid(), 9)")).await;
        assert!(matches!(&compiling, Err(f) if f.code == "F011"), "a killed fork: {compiling:?}");
        // The first time it may be the machine's doing; a known good one passes after the second. (Compiling calls it once, in a fork.)
        let killed = only_there("global calls\n    calls += 1\n    calls < 3 or os.kill(os.getpid(), 9)");
        let killed = candidate_of(&killed.replace("import stat", "import stat\ncalls = 0"));
        let first = lab.executors[0].evaluate(&task_of(ADD_TASK), &killed).await;
        assert!(matches!(&first, Err(f) if f.code == "F011"), "{first:?}");
        let outcome = lab.executors[0].evaluate(&task_of(ADD_TASK), &killed).await.unwrap().outcome;
        assert!(matches!(&outcome, Outcome::OutOfMemory { .. }), "{outcome:?}");
        assert!(lab.evaluate(0, ADD_TASK, &add()).await.unwrap().outcome.is_correct());
        assert_eq!(lab.device.load(), (0, 0, 0));
        lab.end().await;
    });
}

/// A candidate that has got at the harness in its own process and says whatever it likes of its times.
#[test]
fn a_clock_that_lies_is_not_believed() {
    runtime().block_on(async {
        let Some(lab) = lab(1, true).await else { return };
        let lie = "import device\n    true = device.Host.timed\n    \
                   device.Host.timed = lambda self, calls, synced: ([call() for call in calls], [
                       {'us': 1.0, 'rest_us': 0.0, 'late': False, 'spacer_us': 0.0, 'queued': False} for call in calls])";
        let outcome = lab.evaluate(0, ADD_TASK, &only_there(lie)).await.expect("no fault").outcome;
        // On a GPU there is nothing of that name to overwrite.
        let believed = matches!(&outcome, Outcome::Passed { speedup: Some(x) } if *x > 10.0);
        assert!(!believed, "{outcome:?}");
        if let Kind::Processor(_) = host().0 {
            assert!(matches!(&outcome, Outcome::Implausible { message } if message.contains("host's clock")), "{outcome:?}");
        }
        lab.end().await;
    });
}

/// A candidate that switches the bench's control on in its own process: what it keeps of a burst is its last answer.
#[test]
fn the_benchs_control_is_not_a_candidates_to_choose() {
    runtime().block_on(async {
        let Some(lab) = lab(1, true).await else { return };
        let switch = "import device_child\n    true = device_child.Running.burst\n    \
                      if true.__name__ == 'burst':\n        \
                      def other(self, heat, draws, go, one_place): return true(self, heat, draws, go, True)\n        \
                      device_child.Running.burst = other";
        let outcome = lab.evaluate(0, ADD_TASK, &only_there(switch)).await.expect("no fault").outcome;
        assert!(matches!(&outcome, Outcome::WrongAnswer { message } if message.contains("timed call")), "{outcome:?}");
        lab.end().await;
    });
}

/// What the control measures is told by its device's name.
#[test]
fn a_control_says_that_it_is_one() {
    runtime().block_on(async {
        let Some(python) = environment::python() else { return };
        for places in [Places::Fresh, Places::One] {
            let scratch = scratch();
            let (kind, inventory) = host();
            let config = DeviceConfig { places, ..device_config(kind, &python, scratch.path(), true) };
            let device = Arc::new(Device::start(config, inventory).await.expect("the device starts"));
            let executor = Executor::start(executor_config(&python, scratch.path().join("e"), &device)).await.unwrap();
            let report = executor.evaluate(&task_of(ADD_TASK), &candidate_of(&add())).await.expect("no fault");
            let timing = report.timing.unwrap_or_else(|| panic!("{:?}", report.outcome));
            assert_eq!(timing.device.contains("CONTROL"), places == Places::One, "{timing:?}");
            executor.shutdown().await;
            device.shutdown().await;
        }
    });
}

/// Frames of its own making on the result pipe.
#[test]
fn forged_answers_are_no_answers() {
    runtime().block_on(async {
        let Some(lab) = lab(1, true).await else { return };
        let forged = [
            // Outputs outside of the box, of negative size, of a dtype that nobody has; times that are none.
            r#"{'event': 'called', 'tree': 't', 'raised': None, 'evidence': {}, 'outputs': [{'dtype': 'float32', 'shape': [4], 'at': 1 << 60, 'len': 16}]}"#,
            r#"{'event': 'called', 'tree': 't', 'raised': None, 'evidence': {}, 'outputs': [{'dtype': 'float32', 'shape': [-4], 'at': 0, 'len': -16}]}"#,
            r#"{'event': 'called', 'tree': 't', 'raised': None, 'evidence': 7, 'outputs': [{'dtype': 'float7', 'shape': 'x', 'at': 0, 'len': 16}]}"#,
            r#"{'event': 'called', 'outputs': None}"#,
            // What a device's own failures say, in the candidate's words.
            r#"{'event': 'called', 'tree': 't', 'raised': None, 'evidence': {}, 'outputs': [{'dtype': 'CUDA error: out of memory', 'shape': [4], 'at': 0, 'len': 16}]}"#,
            r#"{'event': 'timed', 'times': [{}]}"#,
        ];
        for frame in forged {
            let forge = format!("import frames\n    for n in range(3, 20):\n        try:\n            \
                                 frames.write_frame(n, {frame})\n        except OSError:\n            pass\n    os._exit(0)");
            // While a call is checked, not while it is compiled: torch's operations are watched then.
            let forge = only_there(&forge).replace("if found > 1", "if found > 1 and watched()");
            let watched = "import stat\nfrom torch.utils._python_dispatch import _len_torch_dispatch_stack as watched";
            let forge = forge.replace("import stat\n", &format!("{watched}\n"));
            let outcome = lab.evaluate(0, ADD_TASK, &forge).await.expect("no fault").outcome;
            let Outcome::Crashed { phase: Phase::Run, message } = &outcome else { panic!("{frame}: {outcome:?}") };
            assert!(message.contains("describe tensors") || message.contains("something else"), "{frame}: {message}");
        }
        assert!(lab.evaluate(0, ADD_TASK, &add()).await.expect("no fault").outcome.is_correct());
        lab.end().await;
    });
}

/// What it compiled to the first time is there the second time.
#[test]
fn the_same_candidate_comes_twice() {
    runtime().block_on(async {
        let Some(lab) = lab(1, false).await else { return };
        let (task, candidate) = (task_of(ADD_TASK), candidate_of(&add()));
        for _ in 0..2 {
            let report = lab.executors[0].evaluate(&task, &candidate).await.expect("no fault");
            assert!(report.outcome.is_correct(), "{:?}", report.outcome);
        }
        assert_eq!(lab.device.compiled(), (1, 1), "kept once, found once");
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
        // Gone, or dead and not waited for.
        let dead = || match std::fs::read_to_string(format!("/proc/{before}/stat")) {
            Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')),
            Err(_) => true,
        };
        for _ in 0..6000 {
            if dead() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
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

const FAKE: &str = "GPU-fake";

/// The processor in the place of a GPU whose readings are given.
async fn fake_lab(readings: Vec<Reading>) -> Option<(Lab, Arc<FakeInventory>)> {
    let gpu = Gpu { uuid: FAKE.into(), name: "fake".into(), memory_bytes: 80 << 30, ..Gpu::default() };
    let inventory = Arc::new(FakeInventory::with([gpu]));
    inventory.script(FAKE, readings.into_iter().map(Ok));
    let kind = Kind::Processor(Some(FAKE.into()));
    Some((lab_on(kind, inventory.clone(), 1, true).await?, inventory))
}

fn quiet() -> Reading {
    Reading { sm_mhz: 1980, memory_mhz: 2619, temperature_c: 40, processes: Some(Vec::new()), ..Reading::default() }
}

fn neighbour() -> Reading {
    let process = Process { pid: 1, memory_bytes: Some(700 << 20), graphics: false };
    Reading { processes: Some(vec![process]), ..quiet() }
}

#[test]
fn the_conditions_of_a_measurement_are_kept_with_it() {
    runtime().block_on(async {
        let Some((lab, _)) = fake_lab(vec![quiet()]).await else { return };
        let timing = lab.evaluate(0, ADD_TASK, &add()).await.expect("no fault").timing.expect("it was timed");
        assert!(timing.device.contains(FAKE) && timing.refused.is_empty(), "{timing:?}");
        let c = &timing.conditions;
        assert_eq!((c.sm_mhz_min, c.sm_mhz_max, c.temperature_max_c, c.processes_hidden), (1980, 1980, 40, false));
        assert!(c.readings >= 3 && c.foreign.is_empty() && c.throttled.is_empty(), "{c:?}");
        lab.end().await;
    });
}

#[test]
fn a_disturbed_measurement_is_tried_again_and_then_a_fault_but_never_a_number() {
    runtime().block_on(async {
        let Some((lab, inventory)) = fake_lab(vec![quiet()]).await else { return };
        // What the reference takes alone is known.
        assert!(lab.evaluate(0, ADD_TASK, &add()).await.expect("no fault").timing.is_some());
        // Somebody comes while it is measured, and goes.
        let hot = Reading { throttle: Throttle(0x40), ..quiet() };
        inventory.script(FAKE, [quiet(), quiet(), hot, quiet()].map(Ok));
        let timing = lab.evaluate(0, ADD_TASK, &add()).await.expect("no fault").timing.expect("it was timed");
        assert_eq!(timing.refused.len(), 1, "{timing:?}");
        assert!(timing.refused[0].contains("hardware thermal slowdown"), "{timing:?}");
        // Somebody stays.
        inventory.script(FAKE, [Ok(neighbour())]);
        let fault = lab.evaluate(0, ADD_TASK, &add()).await.expect_err("nothing was measured in peace");
        assert_eq!(fault.code, "F014");
        assert!(fault.message.contains("process 1 is on it, with 700 MiB"), "{fault}");
        // For a task that is new, what the reference takes alone is not taken beside it.
        let other = ADD_TASK.replace("N = 16000", "N = 15000");
        let fault = lab.evaluate(0, &other, &add()).await.expect_err("somebody is there");
        assert!(fault.code == "F014" && fault.message.contains("the reference alone: process 1"), "{fault}");
        // And the device is as it was for the next.
        inventory.script(FAKE, [Ok(quiet())]);
        assert!(lab.evaluate(0, ADD_TASK, &add()).await.expect("no fault").timing.is_some());
        assert_eq!(lab.device.state(), "Free");
        lab.end().await;
    });
}

/// The whole way through a lease: memory in use is ours, and its return is what there is to wait for.
#[test]
fn where_processes_are_hidden_candidates_are_timed_all_the_same() {
    runtime().block_on(async {
        let hidden = |mb: u64| Reading { processes: None, memory_used_bytes: mb << 20, ..quiet() };
        let Some((lab, inventory)) = fake_lab(vec![hidden(10)]).await else { return };
        inventory.script(FAKE, [Ok(hidden(5000))]);
        let timing = lab.evaluate(0, ADD_TASK, &add()).await.expect("no fault").timing.expect("it was timed");
        assert!(timing.conditions.processes_hidden && timing.refused.is_empty(), "{timing:?}");
        assert_eq!(lab.device.state(), "Free");
        lab.end().await;
    });
}

#[test]
fn a_box_that_is_too_small_names_the_setting() {
    runtime().block_on(async {
        let Some(python) = environment::python() else { return };
        let scratch = scratch();
        let (kind, inventory) = host();
        let config = DeviceConfig { box_bytes: 3 << 20, ..device_config(kind, &python, scratch.path(), false) };
        let device = Arc::new(Device::start(config, inventory).await.expect("the device starts"));
        let executor = Executor::start(executor_config(&python, scratch.path().join("e"), &device)).await.unwrap();
        let fault = executor.evaluate(&task_of(ADD_TASK), &candidate_of(&add())).await.expect_err("it does not fit");
        assert!(fault.code == "F006" && fault.message.contains("gpu.box_mb is 3"), "{fault}");
        executor.shutdown().await;
        device.shutdown().await;
    });
}

#[test]
fn a_gpu_that_is_not_free_is_not_begun_on() {
    runtime().block_on(async {
        let Some(python) = environment::python() else { return };
        let gpu = Gpu { uuid: FAKE.into(), name: "fake".into(), memory_bytes: 80 << 30, ..Gpu::default() };
        let inventory = Arc::new(FakeInventory::with([gpu]));
        inventory.script(FAKE, [Ok(neighbour())]);
        let scratch = scratch();
        let config = device_config(Kind::Processor(Some(FAKE.into())), &python, scratch.path(), true);
        let fault = Device::start(config, inventory).await.expect_err("somebody is on it");
        assert_eq!(fault.code, "F013");
        assert!(fault.message.contains("is not free: process 1 is on it"), "{fault}");
    });
}
