//! The pool of executors alone: it grows, shrinks, and nothing that waits or runs is lost by that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use actors::bench::ear;
use actors::crew::{BoxFuture, Verifier, VerifierFactory};
use actors::executor::ExecJob;
use actors::orchestrator::OrchestratorMsg;
use actors::pool::{Pool, PoolArgs, PoolMsg};
use actors::scaling::Load;
use ractor::{Actor, ActorRef};
use rollout::id::{Attempt, Digest, RolloutId, TaskId};
use rollout::outcome::{Candidate, ExecReport, Fault, Outcome, Phase, Ruling};
use rollout::task::{Split, TaskSpec};
use tokio::sync::mpsc;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

/// Takes its time, and counts how many are at work.
struct Slow {
    takes: Duration,
    at_once: Arc<AtomicU32>,
    most: Arc<AtomicU32>,
}

impl Verifier for Slow {
    fn verify<'a>(&'a mut self, _: &'a TaskSpec, _: &'a Candidate) -> BoxFuture<'a, Result<ExecReport, Fault>> {
        Box::pin(async {
            let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(self.takes).await;
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            Ok(actors::bench::standins::report(true))
        })
    }
}

struct Lab {
    pool: ActorRef<PoolMsg>,
    ended: Ended,
    most: Arc<AtomicU32>,
    started: Arc<AtomicU32>,
}

async fn lab(workers: u32, workers_max: u32, takes: Duration) -> Lab {
    let (at_once, most, started) =
        (Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
    let factory: VerifierFactory = Arc::new({
        let (most, started) = (most.clone(), started.clone());
        move |_| {
            started.fetch_add(1, Ordering::SeqCst);
            let slow = Slow { takes, at_once: at_once.clone(), most: most.clone() };
            Box::pin(async move { Ok(Box::new(slow) as Box<dyn Verifier>) })
        }
    });
    let (pool, ended) = pool_of(workers, workers_max, factory, false).await;
    Lab { pool, ended, most, started }
}

type Ended = mpsc::UnboundedReceiver<(RolloutId, Result<Arc<ExecReport>, Fault>)>;

async fn pool_of(workers: u32, workers_max: u32, factory: VerifierFactory, reuse: bool) -> (ActorRef<PoolMsg>, Ended) {
    let (to, ended) = mpsc::unbounded_channel();
    let out = ear::listen(move |message| {
        let OrchestratorMsg::Executed(items) = message else { return };
        for item in items {
            let _ = to.send((item.rollout, item.result));
        }
    });
    let out = out.await.unwrap();
    let args = PoolArgs {
        factory,
        saturated: None,
        llm_judge: None,
        logbook: Default::default(),
        cluster: None,
        workers,
        workers_max,
        deadline: PATIENCE,
        reuse_verdicts: reuse,
        verdicts_max: 8,
        out,
    };
    (Pool::spawn(None, Pool, args).await.unwrap().0, ended)
}

fn job(rollout: u64, digest: &str) -> ExecJob {
    let (id, split) = (TaskId("t".into()), Split::Train);
    let task = TaskSpec { id, level: 1, split, tags: vec![], source: String::new() };
    let candidate = Candidate { source: String::new(), digest: Digest(digest.into()) };
    let ruling = Arc::new(Ruling::Admit { candidate, findings: vec![] });
    ExecJob { rollout: RolloutId(rollout), attempt: Attempt(0), task: Arc::new(task), ruling }
}

impl Lab {
    fn give(&self, rollouts: std::ops::Range<u64>) {
        self.pool.cast(PoolMsg::Execute(rollouts.map(|n| job(n, &n.to_string())).collect())).unwrap();
    }

    async fn load(&self) -> Load {
        self.pool.call(PoolMsg::Load, Some(PATIENCE)).await.unwrap().unwrap()
    }

    /// Everything that was given has ended well, each once.
    async fn all_of(&mut self, count: u64) {
        let mut seen = Vec::new();
        while (seen.len() as u64) < count {
            let (rollout, result) = timeout(PATIENCE, self.ended.recv()).await.expect("it ends in time").unwrap();
            assert!(result.is_ok(), "{rollout:?}");
            seen.push(rollout.0);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..count).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn executors_that_are_added_take_what_waits() {
    let mut lab = lab(1, 1, Duration::from_millis(100)).await;
    lab.give(0..12);
    assert_eq!(lab.load().await.busy, 1);
    lab.pool.cast(PoolMsg::Resize { workers: 4 }).unwrap();
    let load = lab.load().await;
    assert_eq!((load.executors, load.busy), (4, 4), "{load:?}");
    lab.all_of(12).await;
    assert_eq!(lab.most.load(Ordering::SeqCst), 4);
    lab.pool.stop(None);
}

#[tokio::test]
async fn executors_that_leave_end_their_job_first() {
    let mut lab = lab(4, 4, Duration::from_secs(2)).await;
    lab.give(0..6);
    lab.pool.cast(PoolMsg::Resize { workers: 1 }).unwrap();
    let load = lab.load().await;
    assert_eq!((load.executors, load.queued), (1, 2), "{load:?}");
    lab.all_of(6).await;
    assert_eq!(lab.started.load(Ordering::SeqCst), 4);
    // And they can come back.
    lab.pool.cast(PoolMsg::Resize { workers: 3 }).unwrap();
    assert_eq!(lab.load().await.executors, 3);
    lab.pool.stop(None);
}

/// With the ticks of a run: more while candidates wait for seconds.
#[tokio::test]
async fn a_pool_under_pressure_grows_by_itself_up_to_its_limit() {
    let mut lab = lab(1, 3, Duration::from_millis(700)).await;
    lab.give(0..24);
    lab.all_of(24).await;
    assert_eq!(lab.most.load(Ordering::SeqCst), 3);
    assert!(lab.load().await.executors <= 3);
    lab.pool.stop(None);
}

/// Reaches its limit of time in the first runs.
struct Starved {
    runs: Arc<AtomicU32>,
    late: u32,
}

impl Verifier for Starved {
    fn verify<'a>(&'a mut self, _: &'a TaskSpec, _: &'a Candidate) -> BoxFuture<'a, Result<ExecReport, Fault>> {
        Box::pin(async {
            let passed = actors::bench::standins::report(true);
            Ok(match self.runs.fetch_add(1, Ordering::SeqCst) < self.late {
                true => ExecReport { outcome: Outcome::TimedOut { phase: Phase::Run, limit_ms: 1 }, ..passed },
                false => passed,
            })
        })
    }
}

/// Planted bug: a limit that is reached once is remembered. Seen: one run, and the same verdict for all five.
#[tokio::test]
async fn what_reached_a_limit_once_is_tried_again_by_whoever_asks_next() {
    for (late, runs_wanted, passed_wanted) in [(0, 1, 5), (1, 2, 4), (9, 2, 0)] {
        let runs = Arc::<AtomicU32>::default();
        let factory: VerifierFactory = Arc::new({
            let runs = runs.clone();
            move |_| {
                let starved = Starved { runs: runs.clone(), late };
                Box::pin(async move { Ok(Box::new(starved) as Box<dyn Verifier>) })
            }
        });
        let (pool, mut ended) = pool_of(1, 1, factory, true).await;
        pool.cast(PoolMsg::Execute((0..4).map(|n| job(n, "same")).collect())).unwrap();
        let mut passed = 0;
        for n in 0..5 {
            // The last asks when the others have their verdicts.
            if n == 4 {
                pool.cast(PoolMsg::Execute(vec![job(4, "same")])).unwrap();
            }
            let (_, result) = timeout(PATIENCE, ended.recv()).await.expect("it ends in time").unwrap();
            passed += u32::from(result.unwrap().outcome.is_correct());
        }
        assert_eq!((runs.load(Ordering::SeqCst), passed), (runs_wanted, passed_wanted), "{late} late");
        pool.stop(None);
    }
}
