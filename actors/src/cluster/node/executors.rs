//! A node's executors: builds them of the head's kit, gives them errands, and reports.
//!
//! The pool and its warm Python processes outlive a connection; errands do not: the head has given them to others by then.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rollout::id::{Attempt, RolloutId, TaskId};
use rollout::outcome::{Candidate, Fault, Ruling};
use rollout::task::TaskSpec;
use tokio::sync::mpsc;

use super::bench::{self, Bench, FromPool};
use super::{Duty, Line, NodeError};
use crate::cluster::fetch::Client;
use crate::cluster::kit::{Kit, Local};
use crate::cluster::wire::{self, Body, Errand, Role, ToHead, ToNode};
use crate::executor::{ExecJob, ExecutedItem};
use crate::observe::Observer;
use crate::run::RunError;
use crate::supervise::{LEASE_LOST, fault};

/// What may wait between the tasks of a node and its loop.
const INSIDE: usize = 1024;

/// What happens inside.
pub(super) enum Event {
    /// The kit is here and its executors are built.
    Built(String, Result<Built, NodeError>),
    /// A long candidate is here.
    Fetched(Errand, Result<Candidate, String>),
    /// A long report lies at the head.
    Left(u64, (RolloutId, Attempt), Result<Body, Fault>),
    /// The pool's sign of life.
    Held(Vec<(RolloutId, Attempt)>),
    Pool(FromPool),
}

/// Made of a kit: what does not fit through a channel of `Clone` things.
pub(super) struct Built {
    kit: Kit,
    factory: crate::crew::VerifierFactory,
}

/// The duty of an executor node.
pub(super) struct Executors {
    /// `None`: as many as the head says.
    count: Option<u32>,
    scratch: PathBuf,
    /// The executors, and the digest of the kit they are made of.
    bench: Option<(String, Bench)>,
    tasks: HashMap<TaskId, Arc<TaskSpec>>,
    from_pool: (mpsc::Sender<FromPool>, mpsc::Receiver<FromPool>),
    inside: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    /// Of this connection.
    errands: HashMap<(RolloutId, Attempt), u64>,
    /// On their way over the side channel.
    moving: HashSet<(RolloutId, Attempt)>,
}

impl Executors {
    pub(super) fn new(count: Option<u32>, scratch: PathBuf) -> Executors {
        Executors {
            count,
            scratch,
            bench: None,
            tasks: HashMap::new(),
            from_pool: mpsc::channel(INSIDE),
            inside: mpsc::channel(INSIDE),
            errands: HashMap::new(),
            moving: HashSet::new(),
        }
    }
}

impl Duty for Executors {
    type Event = Event;

    const ROLE: Role = Role::Executor;

    /// Reports the executors, or begins to build them.
    fn welcomed(&mut self, line: &Line<'_>) {
        let kit = line.welcome.kit.clone();
        if let Some((_, bench)) = self.bench.as_ref().filter(|(digest, _)| *digest == kit.digest) {
            return line.tell(&ToHead::Ready { executors: bench.executors });
        }
        self.bench = None;
        let (out, client) = (self.inside.0.clone(), line.client());
        let (local, observer) = (line.args.local.clone(), line.args.observer.clone());
        let scratch = self.scratch.clone();
        tokio::spawn(async move {
            let built = build(client, &kit, local, &scratch, observer).await;
            let _ = out.send(Event::Built(kit.digest, built)).await;
        });
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            Some(event) = self.from_pool.1.recv() => Event::Pool(event),
            Some(event) = self.inside.1.recv() => event,
            // We hold a sender of each.
            else => std::future::pending().await,
        }
    }

    fn told(&mut self, said: ToNode, line: &Line<'_>) {
        match said {
            ToNode::Ping => self.pong(line),
            ToNode::Errand(errand) => self.errand(errand, line),
            _ => {}
        }
    }

    async fn happened(&mut self, event: Event, line: &Line<'_>) -> Result<(), NodeError> {
        match event {
            Event::Pool(FromPool::Executed(items)) => items.into_iter().for_each(|item| self.executed(item, line)),
            Event::Pool(FromPool::Died(fault)) => return Err(NodeError::Fault(fault)),
            Event::Built(digest, built) if digest == line.welcome.kit.digest => {
                let Built { kit, factory } = built?;
                self.tasks = kit.tasks_by_id();
                let executors = self.count.unwrap_or(kit.executors).max(1);
                let bench = Bench::start(factory, executors, kit.deadline(), self.from_pool.0.clone());
                let bench = bench.await.map_err(NodeError::Fault)?;
                self.bench = Some((digest, bench));
                line.tell(&ToHead::Ready { executors });
            }
            // Of a head that is gone.
            Event::Built(..) => {}
            Event::Fetched(errand, candidate) => {
                let key = (errand.rollout, errand.attempt);
                if self.moving.remove(&key) && self.errands.get(&key) == Some(&errand.lease) {
                    self.give(errand, candidate, line);
                }
            }
            Event::Left(lease, key, report) => {
                if self.moving.remove(&key) && self.errands.get(&key) == Some(&lease) {
                    self.errands.remove(&key);
                    line.tell(&ToHead::Done { lease, report });
                }
            }
            Event::Held(held) => {
                let held = held.iter().chain(&self.moving);
                let leases = held.filter_map(|key| self.errands.get(key).copied()).collect();
                line.tell(&ToHead::Pong { leases });
            }
        }
        Ok(())
    }

    fn parted(&mut self) {
        self.errands.clear();
        self.moving.clear();
    }
}

impl Executors {
    /// The pool answers, not we: what is dead there must not seem alive.
    fn pong(&self, line: &Line<'_>) {
        let Some((_, bench)) = &self.bench else {
            return line.tell(&ToHead::Pong { leases: Vec::new() });
        };
        let (pool, out) = (bench.pool.clone(), self.inside.0.clone());
        let within = Duration::from_millis(line.welcome.beat.period_ms);
        tokio::spawn(async move {
            if let Some(held) = bench::held(&pool, within).await {
                let _ = out.send(Event::Held(held)).await;
            }
        });
    }

    fn errand(&mut self, errand: Errand, line: &Line<'_>) {
        let key = (errand.rollout, errand.attempt);
        self.errands.insert(key, errand.lease);
        let blob = match &errand.candidate {
            Body::Here(bytes) => {
                let candidate = wire::candidate_of(bytes).map_err(|e| e.to_string());
                return self.give(errand, candidate, line);
            }
            Body::Blob(blob) => blob.clone(),
        };
        self.moving.insert(key);
        let (client, out) = (line.client(), self.inside.0.clone());
        tokio::spawn(async move {
            let fetched = async {
                let bytes = client?.get(&blob).await?;
                wire::candidate_of(&bytes).map_err(|e| e.to_string())
            };
            let fetched = fetched.await;
            let _ = out.send(Event::Fetched(errand, fetched)).await;
        });
    }

    /// To the pool.
    fn give(&mut self, errand: Errand, candidate: Result<Candidate, String>, line: &Line<'_>) {
        let Errand { lease, rollout, attempt, task, .. } = errand;
        let found = candidate.and_then(|candidate| match (self.tasks.get(&task), &self.bench) {
            (Some(task), Some((_, bench))) => Ok((candidate, task.clone(), &bench.pool)),
            (None, _) => Err(format!("no task {task} in the kit")),
            (_, None) => Err("no executors yet".into()),
        });
        let why = match found {
            Ok((candidate, task, pool)) => {
                let ruling = Arc::new(Ruling::Admit { candidate, findings: Vec::new() });
                match bench::give(pool, ExecJob { rollout, attempt, task, ruling }) {
                    Ok(()) => return,
                    Err(why) => why,
                }
            }
            Err(why) => why,
        };
        self.errands.remove(&(rollout, attempt));
        line.tell(&ToHead::Done { lease, report: Err(fault(LEASE_LOST, why)) });
    }

    fn executed(&mut self, item: ExecutedItem, line: &Line<'_>) {
        let key = (item.rollout, item.attempt);
        // An errand of an earlier connection: the head has given it to somebody else.
        let Some(lease) = self.errands.get(&key).copied() else { return };
        let report = item.result.and_then(|report| {
            serde_json::to_vec(&*report).map_err(|e| fault(LEASE_LOST, format!("the report cannot be written: {e}")))
        });
        let bytes = match report {
            Ok(bytes) if bytes.len() > line.welcome.limit as usize / 2 => bytes,
            report => {
                self.errands.remove(&key);
                return line.tell(&ToHead::Done { lease, report: report.map(Body::Here) });
            }
        };
        self.moving.insert(key);
        let (client, out) = (line.client(), self.inside.0.clone());
        tokio::spawn(async move {
            let left = async { client?.put(bytes).await };
            let left = left.await.map(Body::Blob).map_err(|why| fault(LEASE_LOST, why));
            let _ = out.send(Event::Left(lease, key, left)).await;
        });
    }
}

async fn build(
    client: Result<Client, String>,
    kit: &wire::BlobRef,
    local: Local,
    scratch: &Path,
    observer: Arc<dyn Observer>,
) -> Result<Built, NodeError> {
    let unusable = |why: String| NodeError::Fault(fault(LEASE_LOST, format!("the head's kit cannot be used: {why}")));
    let bytes = client.map_err(unusable)?.get(kit).await.map_err(unusable)?;
    let kit: Kit = serde_json::from_slice(&bytes).map_err(|e| unusable(e.to_string()))?;
    let scratch = scratch.to_path_buf();
    let made = tokio::task::spawn_blocking(move || {
        let factory = kit.factory(&local, &scratch, &observer)?;
        Ok::<_, RunError>(Built { kit, factory })
    });
    made.await.map_err(|e| unusable(e.to_string()))?.map_err(NodeError::Run)
}
