//! What is ours is a fault, never an outcome; and afterwards everything works again.

use std::time::Duration;

use rollout::outcome::Outcome;
use sandbox::Suspects;
use sandbox::executor::{Executor, ExecutorConfig, Limits};
use sandbox::isolation::{PARTS, probe};

use crate::fixtures::*;
use crate::lab::{LIMITS, candidate_of, config, task_of};

fn kill(pid: u32) {
    let status = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

/// Kills what `pid` forked first: behind the stub that is the zygote itself.
fn kill_child_of(pid: u32) {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    match children.split_whitespace().next() {
        Some(child) => kill(child.parse().unwrap()),
        None => kill(pid),
    }
}

/// All below a process.
fn descendants(pid: u32) -> usize {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = threads.map(|t| std::fs::read_to_string(t.path().join("children")).unwrap_or_default());
    let below = |text: String| text.split_whitespace().map(|n| 1 + descendants(n.parse().unwrap())).sum::<usize>();
    children.map(below).sum()
}

async fn has_stub(executor: &Executor) -> bool {
    executor.isolation().await.unwrap().namespaces.contains(&"pid".to_owned())
}

/// Waits until a candidate is below the zygote (`stub`: or below its only child). A zygote that dies earlier is replaced without a word.
async fn candidate_is_there(zygote: u32, stub: bool) {
    for _ in 0..12_000 {
        if descendants(zygote) > usize::from(stub) {
            return tokio::time::sleep(Duration::from_millis(300)).await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("no candidate for a minute");
}

async fn assert_works(executor: &Executor) {
    let report = executor.evaluate(&task_of(ADD_TASK), &candidate_of(&add())).await.unwrap();
    assert_eq!(report.outcome, Outcome::Passed { speedup: None });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_zygote_is_a_fault_and_then_works_again() {
    let Some(config) = config("killed-zygote", LIMITS) else { return };
    let executor = Executor::start(config).await.unwrap();
    let stub = has_stub(&executor).await;
    for whole in [true, false] {
        if !whole && !stub {
            continue;
        }
        let [zygote, _] = executor.pids().await;
        let pid = zygote.unwrap();
        let killer = tokio::spawn(async move {
            candidate_is_there(pid, stub).await;
            if whole { kill(pid) } else { kill_child_of(pid) }
        });
        let sleepy = add_with("time.sleep(30)", "return add(x, y)");
        let fault = executor.evaluate(&task_of(ADD_TASK), &candidate_of(&sleepy)).await.unwrap_err();
        killer.await.unwrap();
        assert_eq!(fault.code, "F004", "{fault}");
        assert_works(&executor).await;
    }
    executor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_is_blamed_for_the_zygote_only_after_proof() {
    let Some(config) = config("blame", LIMITS) else { return };
    let executor = Executor::start(config).await.unwrap();
    let stub = has_stub(&executor).await;
    let sleepy = candidate_of(&add_with("time.sleep(30)", "return add(x, y)"));
    for round in 0..2 {
        let pid = executor.pids().await[0].unwrap();
        tokio::spawn(async move {
            candidate_is_there(pid, stub).await;
            kill(pid);
        });
        let result = executor.evaluate(&task_of(ADD_TASK), &sleepy).await;
        match (round, result) {
            (0, Err(fault)) => {
                assert_eq!(fault.code, "F004");
                assert_works(&executor).await;
            }
            (1, Ok(report)) => assert!(matches!(report.outcome, Outcome::Crashed { .. }), "{report:?}"),
            (_, other) => panic!("round {round}: {other:?}"),
        }
    }
    executor.shutdown().await;
}

/// What the kernel does when memory runs out, and what a candidate can do to itself: nobody can tell which it was.
/// Planted bugs that were seen: the first kill scored at once (round 0 has an outcome), and every executor with suspects
/// of its own (round 1 is a fault again).
#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_kills_itself_is_scored_the_second_time_on_whichever_executor() {
    let Some(config) = config("suicide", LIMITS) else { return };
    let second = ExecutorConfig { scratch: config.scratch.with_extension("second"), ..config.clone() };
    let executors = [Executor::start(config).await.unwrap(), Executor::start(second).await.unwrap()];
    for body in ["os.kill(os.getpid(), 9)", "out = add(x, y)\nos.kill(os.getpid(), 9)\nreturn out"] {
        let candidate = candidate_of(&add_with("", body));
        let zygotes = [executors[0].pids().await[0], executors[1].pids().await[0]];
        for (round, executor) in executors.iter().enumerate() {
            match (round, executor.evaluate(&task_of(ADD_TASK), &candidate).await) {
                (0, Err(fault)) => assert_eq!(fault.code, "F011", "{fault}"),
                (1, Ok(report)) => {
                    assert!(matches!(report.outcome, Outcome::OutOfMemory { .. }), "{report:?}");
                    assert!(report.phase_ms.contains_key("compile"), "the report is of the candidate: {report:?}");
                }
                (_, other) => panic!("round {round}: {other:?}"),
            }
        }
        assert_eq!([executors[0].pids().await[0], executors[1].pids().await[0]], zygotes, "nothing was restarted");
    }
    for executor in executors {
        assert_works(&executor).await;
        executor.shutdown().await;
    }
}

/// Without proof that the machine works, a second kill is a fault too. Planted bug that was seen: blame without the
/// known good candidate.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_candidate_is_not_blamed_while_a_good_one_fails() {
    // Too little time to compile anything: on this executor the known good one cannot pass either.
    let Some(config) = config("no-proof", LIMITS) else { return };
    let short = ExecutorConfig {
        scratch: config.scratch.with_extension("short"),
        limits: Limits { compile_ms: 1, ..LIMITS },
        ..config.clone()
    };
    let (executor, short) = (Executor::start(config).await.unwrap(), Executor::start(short).await.unwrap());
    let candidate = candidate_of(&add_with("os.kill(os.getpid(), 9)", "return add(x, y)"));
    for executor in [&executor, &short, &short] {
        let fault = executor.evaluate(&task_of(ADD_TASK), &candidate).await.unwrap_err();
        assert_eq!(fault.code, "F011", "{fault}");
    }
    let report = executor.evaluate(&task_of(ADD_TASK), &candidate).await.unwrap();
    assert!(matches!(report.outcome, Outcome::OutOfMemory { .. }), "{report:?}");
    executor.shutdown().await;
    short.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_referee_is_a_fault_or_replaced() {
    let Some(config) = config("killed-referee", LIMITS) else { return };
    let executor = Executor::start(config).await.unwrap();
    // Idle: noticed and replaced before the next evaluation.
    kill(executor.pids().await[1].unwrap());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_works(&executor).await;
    // While the candidate runs: its outputs cannot be compared.
    let [zygote, referee] = executor.pids().await.map(Option::unwrap);
    let stub = has_stub(&executor).await;
    tokio::spawn(async move {
        candidate_is_there(zygote, stub).await;
        kill(referee);
    });
    // Not so long that it is over before anything is to be compared.
    let slow = add_with("time.sleep(6)", "return add(x, y)");
    let fault = executor.evaluate(&task_of(ADD_TASK), &candidate_of(&slow)).await.unwrap_err();
    assert_eq!(fault.code, "F005", "{fault}");
    assert_works(&executor).await;
    executor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_evaluation_leaves_an_executor_that_works() {
    let Some(config) = config("dropped", LIMITS) else { return };
    let executor = Executor::start(config).await.unwrap();
    let (task, slow) = (task_of(ADD_TASK), candidate_of(&add_with("time.sleep(30)", "return add(x, y)")));
    let short = tokio::time::timeout(Duration::from_millis(700), executor.evaluate(&task, &slow)).await;
    assert!(short.is_err());
    assert_works(&executor).await;
    executor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_task_is_not_the_candidates_doing() {
    let Some(config) = config("broken-task", LIMITS) else { return };
    let executor = Executor::start(config).await.unwrap();
    let constant = "import torch\nclass Model(torch.nn.Module):\n    def forward(self, x):\n        return torch.zeros_like(x)\ndef get_inputs():\n    return [torch.randn(8)]\n";
    // One that exits took the referee with it (as it was: F005).
    let exits = ADD_TASK.replace("def get_inputs():", "def get_inputs():\n    raise SystemExit(0)\ndef unused():");
    assert_ne!(exits, ADD_TASK);
    for source in ["raise ValueError('broken')", "raise SystemExit", &exits, "class Model: pass", "x = (", constant] {
        let fault = executor.evaluate(&task_of(source), &candidate_of(&add())).await.unwrap_err();
        assert_eq!(fault.code, "F006", "{source}: {fault}");
    }
    assert_works(&executor).await;
    executor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_cannot_be_confined_is_never_scored() {
    // More memory than a limit can be set to: setting it fails in the child, before candidate code.
    let Some(config) = config("unconfined", Limits { memory_bytes: u64::MAX, ..LIMITS }) else { return };
    let executor = Executor::start(config).await.unwrap();
    for _ in 0..2 {
        let fault = executor.evaluate(&task_of(ADD_TASK), &candidate_of(&add())).await.unwrap_err();
        assert_eq!(fault.code, "F008", "{fault}");
        assert!(fault.message.contains("could not be confined"), "{fault}");
    }
    executor.shutdown().await;
}

/// What holds is asked without torch, and says the same as the executor.
#[tokio::test(flavor = "multi_thread")]
async fn an_executor_without_a_required_part_does_not_start() {
    let Some(config) = config("required", LIMITS) else { return };
    let is = probe(&config.python, &config.scratch).unwrap();
    let holding: Vec<String> = PARTS.iter().filter(|p| is.holds(p)).map(|p| p.name.to_owned()).collect();
    let executor = Executor::start(ExecutorConfig { require: holding, ..config.clone() }).await.unwrap();
    assert_eq!(executor.isolation().await.unwrap(), is);
    executor.shutdown().await;
    let fault = Executor::start(ExecutorConfig { require: vec!["moat".into()], ..config }).await.err().unwrap();
    assert_eq!(fault.code, "F012", "{fault}");
    assert!(fault.message.contains("moat"), "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relative_scratch_directory_works() {
    let Some(config) = config("relative", LIMITS) else { return };
    let scratch = std::path::PathBuf::from(format!(".scratch-{}", std::process::id()));
    let executor = Executor::start(ExecutorConfig { scratch: scratch.clone(), ..config }).await.unwrap();
    assert_works(&executor).await;
    executor.shutdown().await;
    assert!(!scratch.exists());
}

#[tokio::test]
async fn a_missing_or_useless_interpreter_is_a_fault() {
    let scratch = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("no-python");
    let start = |python: &str| {
        Executor::start(ExecutorConfig {
            python: python.into(),
            scratch: scratch.clone(),
            limits: LIMITS,
            secret: [0; 32],
            suspects: Suspects::default(),
            require: Vec::new(),
            device: None,
        })
    };
    assert_eq!(start("/no/such/python").await.err().unwrap().code, "F001");
    let useless = start("/bin/true").await.err().unwrap();
    assert!(["F002", "F003"].contains(&useless.code.as_str()), "{useless}");
    let _ = std::fs::remove_dir_all(scratch);
}
