//! Several executors that share devices, and a queue in front of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rollout::id::Digest;
use rollout::outcome::{Candidate, ExecReport, Fault, Outcome, Ruling};
use rollout::task::TaskSpec;
use sandbox::executor::{Executor, ExecutorConfig};
use tokio::sync::mpsc::UnboundedSender;

use crate::policy::Gpus;

/// What one evaluation came to.
#[derive(Clone, Debug)]
pub struct Judged {
    pub item: usize,
    pub result: Result<ExecReport, Fault>,
    pub took: Duration,
    /// Faults before this result.
    pub faults: Vec<Fault>,
    pub ended: Instant,
}

impl Judged {
    pub fn verdict(&self) -> &'static str {
        self.result.as_ref().map_or("fault", |r| r.outcome.verdict())
    }
}

/// Executors at work.
pub struct Lanes {
    pub executors: Vec<Arc<Executor>>,
    pub gpus: Arc<Gpus>,
}

impl Lanes {
    pub async fn start(
        count: usize,
        gpus: Arc<Gpus>,
        config: impl Fn(usize) -> ExecutorConfig,
    ) -> Result<Lanes, Fault> {
        let starting = (0..count).map(|n| {
            let (config, gpus) = (config(n), gpus.clone());
            async move {
                let device = Some(gpus.of_executor(n).await?);
                Executor::start(ExecutorConfig { device, ..config }).await.map(Arc::new)
            }
        });
        let mut executors = Vec::new();
        let mut set = tokio::task::JoinSet::new();
        starting.for_each(|s| {
            set.spawn(s);
        });
        for started in set.join_all().await {
            executors.push(started?);
        }
        Ok(Lanes { executors, gpus })
    }

    /// Every one of `work` once, in order of the queue; faults are tried again.
    pub async fn run(&self, work: Arc<Vec<(Arc<TaskSpec>, Candidate)>>, retries: usize) -> Vec<Judged> {
        self.pass(work, retries, true, None).await
    }

    /// The same without the static layers, which would keep most of what breaks a device away from it.
    /// Each result is told at once.
    pub async fn run_unlinted(
        &self,
        work: Arc<Vec<(Arc<TaskSpec>, Candidate)>>,
        retries: usize,
        tell: UnboundedSender<Judged>,
    ) -> Vec<Judged> {
        self.pass(work, retries, false, Some(tell)).await
    }

    async fn pass(
        &self,
        work: Arc<Vec<(Arc<TaskSpec>, Candidate)>>,
        retries: usize,
        lint: bool,
        tell: Option<UnboundedSender<Judged>>,
    ) -> Vec<Judged> {
        let next = Arc::new(AtomicUsize::new(0));
        let mut set = tokio::task::JoinSet::new();
        for executor in &self.executors {
            let (executor, work, next, tell) = (executor.clone(), work.clone(), next.clone(), tell.clone());
            set.spawn(async move {
                let mut judged = Vec::new();
                loop {
                    let item = next.fetch_add(1, Ordering::Relaxed);
                    let Some((task, candidate)) = work.get(item) else { return judged };
                    judged.push(one(&executor, item, task, candidate, retries, lint).await);
                    if let (Some(tell), Some(last)) = (&tell, judged.last()) {
                        let _ = tell.send(last.clone());
                    }
                }
            });
        }
        let mut all: Vec<Judged> = set.join_all().await.into_iter().flatten().collect();
        all.sort_by_key(|j| j.item);
        all
    }

    pub async fn end(self) {
        for executor in self.executors {
            if let Ok(executor) = Arc::try_unwrap(executor) {
                executor.shutdown().await;
            }
        }
        self.gpus.shutdown().await;
    }
}

async fn one(
    executor: &Executor,
    item: usize,
    task: &TaskSpec,
    candidate: &Candidate,
    retries: usize,
    lint: bool,
) -> Judged {
    let began = Instant::now();
    let mut faults = Vec::new();
    let ruling = reward::judge_candidate(candidate.clone(), Some(task));
    if let (Ruling::Reject { outcome, findings, .. }, true) = (ruling, lint) {
        let report = ExecReport { outcome, findings, ..crate::bench::standins::report(false) };
        return Judged { item, result: Ok(report), took: began.elapsed(), faults, ended: Instant::now() };
    }
    loop {
        match executor.evaluate(task, candidate).await {
            Ok(report) => {
                let result = Ok(reward::evidence::weigh(report));
                return Judged { item, result, took: began.elapsed(), faults, ended: Instant::now() };
            }
            Err(fault) if faults.len() < retries => faults.push(fault),
            Err(fault) => {
                return Judged { item, result: Err(fault), took: began.elapsed(), faults, ended: Instant::now() };
            }
        }
    }
}

/// The same program under another digest: other seeds, nothing remembered.
pub fn numbered(candidate: &Candidate, n: usize) -> Candidate {
    Candidate {
        source: format!("{}\n# {n}\n", candidate.source),
        digest: Digest(format!("{}-{n}", candidate.digest.0)),
    }
}

/// The speed-up of one that passed, before a tie is called one.
pub fn speedup(report: &ExecReport) -> Option<f64> {
    match report.outcome {
        Outcome::Passed { .. } => report.timing.as_ref().map(|t| t.speedup),
        _ => None,
    }
}
