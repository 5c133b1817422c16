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
use rollout::outcome::{Candidate, ExecReport, Fault, Ruling};
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
    ended: mpsc::UnboundedReceiver<(RolloutId, bool)>,
    most: Arc<AtomicU32>,
    started: Arc<AtomicU32>,
}

async fn lab(workers: u32, workers_max: u32, takes: Duration) -> Lab {
    let (to, ended) = mpsc::unbounded_channel();
    let out = ear::listen(move |message| {
        let OrchestratorMsg::Executed(items) = message else { return };
        for item in items {
            let _ = to.send((item.rollout, item.result.is_ok()));
        }
    });
    let out = out.await.unwrap();
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
    let args = PoolArgs {
        factory,
        saturated: None,
        llm_judge: None,
        logbook: Default::default(),
        cluster: None,
        workers,
        workers_max,
        deadline: PATIENCE,
        reuse_verdicts: false,
        verdicts_max: 0,
        out,
    };
    let (pool, _) = Pool::spawn(None, Pool, args).await.unwrap();
    Lab { pool, ended, most, started }
}

impl Lab {
    fn give(&self, rollouts: std::ops::Range<u64>) {
        let job = |n: u64| {
            let (id, split) = (TaskId("t".into()), Split::Train);
            let task = TaskSpec { id, level: 1, split, tags: vec![], source: String::new() };
            let candidate = Candidate { source: String::new(), digest: Digest(n.to_string()) };
            let ruling = Arc::new(Ruling::Admit { candidate, findings: vec![] });
            ExecJob { rollout: RolloutId(n), attempt: Attempt(0), task: Arc::new(task), ruling }
        };
        self.pool.cast(PoolMsg::Execute(rollouts.map(job).collect())).unwrap();
    }

    async fn load(&self) -> Load {
        self.pool.call(PoolMsg::Load, Some(PATIENCE)).await.unwrap().unwrap()
    }

    /// Everything that was given has ended well, each once.
    async fn all_of(&mut self, count: u64) {
        let mut seen = Vec::new();
        while (seen.len() as u64) < count {
            let (rollout, well) = timeout(PATIENCE, self.ended.recv()).await.expect("it ends in time").unwrap();
            assert!(well, "{rollout:?}");
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
