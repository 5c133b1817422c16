//! Every warm-start example passes the project's own verifier: what the policy is first taught is right.
#![allow(clippy::unwrap_used)]

#[path = "../../sandbox/tests/python/mod.rs"]
mod environment;
mod executors;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rollout::outcome::{Outcome, Ruling};
use rollout::task::TaskSpec;
use sandbox::executor::{Executor, ExecutorConfig};

/// For all of them: ten times what two cores take.
const DEADLINE: Duration = Duration::from_secs(20 * 60);
/// Evaluations of one example that may end in a fault of ours before it counts as a failure.
const ATTEMPTS: u32 = 3;

struct Example {
    name: String,
    task: TaskSpec,
    text: String,
}

/// A line when it did not pass.
async fn verify(executor: &Executor, example: &Example) -> Option<String> {
    let failed = |verdict: String| Some(format!("{}: {verdict}", example.name));
    let candidate = match reward::judge::judge(&example.text, &example.task) {
        Ruling::Admit { candidate, .. } => candidate,
        Ruling::Reject { outcome, .. } => return failed(format!("{outcome:?}")),
    };
    let mut result = executor.evaluate(&example.task, &candidate).await;
    for _ in 1..ATTEMPTS {
        if result.is_err() {
            result = executor.evaluate(&example.task, &candidate).await;
        }
    }
    match result.map(reward::evidence::weigh) {
        Ok(report) if matches!(report.outcome, Outcome::Passed { .. }) => None,
        Ok(report) => failed(format!("{:?}", report.outcome)),
        Err(fault) => failed(format!("fault {fault}")),
    }
}

/// Takes examples from the common list until none is left.
async fn work(config: ExecutorConfig, examples: Arc<Vec<Example>>, next: Arc<AtomicUsize>) -> Vec<String> {
    let executor = Executor::start(config).await.expect("an executor starts");
    let mut failures = Vec::new();
    while let Some(example) = examples.get(next.fetch_add(1, Ordering::Relaxed)) {
        failures.extend(verify(&executor, example).await);
    }
    executor.shutdown().await;
    failures
}

/// The planted bugs stay in it: three broken copies of shipped examples (a wrong operator, a kernel that does not
/// compile, no program) are among the work and must be what fails, each in its way, so the test cannot pass unseeing.
#[test]
fn every_warm_start_example_passes_the_verifier() {
    let Some(python) = environment::python() else { return };
    let tasks = actors::tasks::load_tasks(None).unwrap();
    let shipped = actors::tasks::load_examples(None, &tasks).unwrap();
    let task_of = |id| tasks.iter().find(|t| t.id == id).unwrap().clone();
    let number_of = |n: usize| shipped[..n].iter().rev().take_while(|e| e.task == shipped[n].task).count() + 1;
    let mut examples: Vec<Example> = (0..shipped.len())
        .map(|n| Example {
            name: format!("{} (its {}. example)", shipped[n].task, number_of(n)),
            task: task_of(shipped[n].task.clone()),
            text: shipped[n].text.clone(),
        })
        .collect();
    assert!(examples.len() > 1000, "{} examples", examples.len());
    let broken = |name: &str, from: &str, to: &str| {
        let whole = examples.iter().find(|e| e.text.contains(from)).unwrap();
        let text = whole.text.replace(from, to);
        Example { name: name.into(), task: whole.task.clone(), text }
    };
    let planted = [
        broken("planted wrong answer", "tl.maximum(", "tl.minimum("),
        broken("planted compile error", "tl.arange(0,", "tl.arange(1,"),
        broken("planted answer without a program", "```python", "```text"),
    ];
    examples.extend(planted);

    let (examples, next) = (Arc::new(examples), Arc::new(AtomicUsize::new(0)));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut failures: Vec<String> = runtime.block_on(async {
        let workers: Vec<_> = (0..executors::count())
            .map(|number| {
                let config = executors::config(python.clone(), "examples", number);
                tokio::spawn(work(config, examples.clone(), next.clone()))
            })
            .collect();
        let all = async {
            let mut failures = Vec::new();
            for worker in workers {
                failures.extend(worker.await.unwrap());
            }
            failures
        };
        let done = tokio::time::timeout(DEADLINE, all).await;
        done.unwrap_or_else(|_| panic!("at {} of {} after {DEADLINE:?}", next.load(Ordering::Relaxed), examples.len()))
    });
    failures.sort();
    let (planted, others): (Vec<String>, Vec<String>) = failures.into_iter().partition(|f| f.starts_with("planted "));
    assert!(others.is_empty(), "{} of {} examples fail:\n{}", others.len(), shipped.len(), others.join("\n"));
    let verdicts = ["answer without a program: Unparsed", "compile error: CompileError", "wrong answer: WrongAnswer"];
    assert_eq!(planted.len(), verdicts.len(), "{planted:?}");
    for (line, verdict) in planted.iter().zip(verdicts) {
        assert!(line.starts_with(&format!("planted {verdict}")), "{line}");
    }
}
