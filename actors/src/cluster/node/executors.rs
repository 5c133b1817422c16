//! A node's executors: builds them of the head's kit, gives them errands, and reports.
//!
//! The pool and its warm Python processes outlive a connection; errands do not: the head has given them to others by then. What they still
//! evaluate of an earlier one must not answer a later one, so the pool knows each errand by a name of this node's own.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rollout::id::{Attempt, RolloutId, TaskId};
use rollout::outcome::{Candidate, Fault, Ruling};
use rollout::task::TaskSpec;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::bench::{self, Bench, FromPool};
use super::{Duty, Line, NodeError};
use crate::cluster::fetch::Client;
use crate::cluster::kit::{Kit, Local};
use crate::cluster::wire::{self, Answer, Body, Errand, Role, ToHead, ToNode};
use crate::executor::{ExecJob, ExecutedItem};
use crate::logbook::Logbook;
use crate::observe::Observer;
use crate::run::RunError;
use crate::supervise::{LEASE_LOST, fault};

/// What may wait between the tasks of a node and its loop.
const INSIDE: usize = 1024;

/// An errand as the pool knows it: its rollout, and how many errands came to this node before it in the attempt's place. A head that was
/// restarted gives the same rollout and attempt again, maybe with another candidate, and counts its leases anew.
type Key = (RolloutId, Attempt);

/// What happens inside.
pub(super) enum Event {
    /// The kit is here and its executors are built.
    Built(String, Result<Built, NodeError>),
    /// A long candidate is here.
    Fetched(Key, TaskId, Result<Candidate, String>),
    /// A long report lies at the head.
    Left(Key, Result<Body, Fault>),
    /// The pool's sign of life.
    Held(Vec<Key>),
    Pool(FromPool),
}

/// An errand as the head knows it.
struct Given {
    lease: u64,
    attempt: Attempt,
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
    logbook: Logbook,
    /// The executors, and the digest of the kit they are made of.
    bench: Option<(String, Bench)>,
    /// The digest of the kit that executors are being built of, and whether this connection's head was asked for it.
    building: Option<(String, bool)>,
    tasks: HashMap<TaskId, Arc<TaskSpec>>,
    from_pool: (mpsc::Sender<FromPool>, mpsc::Receiver<FromPool>),
    inside: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    /// Of this connection.
    errands: HashMap<Key, Given>,
    /// Errands so far, of all connections.
    came: u32,
    /// On their way over the side channel.
    moving: HashSet<Key>,
    /// Ready to be told.
    answers: Vec<Answer>,
}

impl Executors {
    pub(super) fn new(count: Option<u32>, scratch: PathBuf, logbook: Logbook) -> Executors {
        Executors {
            count,
            scratch,
            logbook,
            bench: None,
            building: None,
            tasks: HashMap::new(),
            from_pool: mpsc::channel(INSIDE),
            inside: mpsc::channel(INSIDE),
            errands: HashMap::new(),
            came: 0,
            moving: HashSet::new(),
            answers: Vec::new(),
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
        if self.building.as_ref().is_none_or(|(digest, _)| *digest != kit.digest) {
            self.build(line);
        }
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            Some(event) = self.from_pool.1.recv() => Event::Pool(event),
            Some(event) = self.inside.1.recv() => event,
            // We hold a sender of each.
            else => std::future::pending().await,
        }
    }

    fn already(&mut self) -> Option<Event> {
        self.from_pool.1.try_recv().map(Event::Pool).or_else(|_| self.inside.1.try_recv()).ok()
    }

    fn answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    fn told(&mut self, said: ToNode, line: &Line<'_>) {
        match said {
            ToNode::Ping => self.pong(line),
            ToNode::Errands(errands) => self.errands(errands, line),
            _ => {}
        }
    }

    async fn happened(&mut self, event: Event, line: &Line<'_>) -> Result<(), NodeError> {
        match event {
            Event::Pool(FromPool::Executed(items)) => items.into_iter().for_each(|item| self.executed(item, line)),
            Event::Pool(FromPool::Died(fault)) => return Err(NodeError::Fault(fault)),
            Event::Built(digest, built) => self.built(digest, built, line).await?,
            Event::Fetched(key, task, candidate) => {
                if self.moving.remove(&key) {
                    self.give(vec![(key, task, candidate)]);
                }
            }
            Event::Left(key, report) => {
                if self.moving.remove(&key) {
                    self.end(key, report);
                }
            }
            Event::Held(held) => {
                let held = held.iter().chain(&self.moving);
                let leases = held.filter_map(|key| self.errands.get(key)).map(|given| given.lease).collect();
                line.tell(&ToHead::Pong { leases });
            }
        }
        Ok(())
    }

    fn parted(&mut self) {
        if let Some((_, now)) = &mut self.building {
            *now = false;
        }
        let rollouts: Vec<RolloutId> = self.errands.drain().map(|((rollout, _), _)| rollout).collect();
        if let Some((_, bench)) = &self.bench {
            // What has not begun need not; what has begun ends, and nobody takes it.
            bench::cancel(&bench.pool, rollouts);
        }
        self.moving.clear();
        self.answers.clear();
    }

    /// The executors themselves are in the logbook: they note what they are at.
    fn state(&self) -> Value {
        let errand = |(key, given): (&Key, &Given)| {
            json!({
                "lease": given.lease, "rollout": key.0, "attempt": given.attempt, "number": key.1,
                "on_the_side_channel": self.moving.contains(key),
            })
        };
        json!({
            "role": Role::Executor, "executors": self.bench.as_ref().map(|(_, bench)| bench.executors),
            "errands": self.errands.iter().map(errand).collect::<Vec<_>>(),
        })
    }
}

impl Executors {
    fn build(&mut self, line: &Line<'_>) {
        let kit = line.welcome.kit.clone();
        self.building = Some((kit.digest.clone(), true));
        let (out, client) = (self.inside.0.clone(), line.client());
        let (local, observer) = (line.args.local.clone(), line.args.observer.clone());
        let scratch = self.scratch.clone();
        tokio::spawn(async move {
            let built = build(client, &kit, local, &scratch, observer).await;
            let _ = out.send(Event::Built(kit.digest, built)).await;
        });
    }

    async fn built(
        &mut self,
        digest: String,
        built: Result<Built, NodeError>,
        line: &Line<'_>,
    ) -> Result<(), NodeError> {
        let begun = self.building.take_if(|(building, _)| *building == digest);
        let there = self.bench.as_ref().is_some_and(|(there, _)| *there == digest);
        // Of a head that is gone; or a second one, and the first is at work.
        if digest != line.welcome.kit.digest || there {
            return Ok(());
        }
        let Built { kit, factory } = match built {
            // Asked of a head that went meanwhile: this one may have it.
            Err(_) if begun.is_some_and(|(_, now)| !now) => {
                self.build(line);
                return Ok(());
            }
            built => built?,
        };
        self.tasks = kit.tasks_by_id();
        let executors = self.count.unwrap_or(kit.executors).max(1);
        let (out, logbook) = (self.from_pool.0.clone(), self.logbook.clone());
        let bench = Bench::start(factory, executors, kit.deadline(), out, logbook);
        let bench = bench.await.map_err(NodeError::Fault)?;
        self.bench = Some((digest, bench));
        line.tell(&ToHead::Ready { executors });
        Ok(())
    }

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

    fn take(&mut self, lease: u64, rollout: RolloutId, attempt: Attempt) -> Key {
        self.came = self.came.wrapping_add(1);
        let key = (rollout, Attempt(self.came));
        self.errands.insert(key, Given { lease, attempt });
        key
    }

    fn errands(&mut self, errands: Vec<Errand>, line: &Line<'_>) {
        let mut here = Vec::with_capacity(errands.len());
        for Errand { lease, rollout, attempt, task, candidate } in errands {
            let key = self.take(lease, rollout, attempt);
            match candidate {
                Body::Here(bytes) => here.push((key, task, wire::candidate_of(&bytes).map_err(|e| e.to_string()))),
                Body::Blob(blob) => {
                    self.moving.insert(key);
                    let (client, out) = (line.client(), self.inside.0.clone());
                    tokio::spawn(async move {
                        let fetched = async {
                            let bytes = client?.get(&blob).await?;
                            wire::candidate_of(&bytes).map_err(|e| e.to_string())
                        };
                        let fetched = fetched.await;
                        let _ = out.send(Event::Fetched(key, task, fetched)).await;
                    });
                }
            }
        }
        self.give(here);
    }

    /// To the pool, all at once; each that cannot be given is answered by itself.
    fn give(&mut self, errands: Vec<(Key, TaskId, Result<Candidate, String>)>) {
        let (mut jobs, mut unfit) = (Vec::with_capacity(errands.len()), Vec::new());
        for ((rollout, attempt), task, candidate) in errands {
            match (candidate, self.tasks.get(&task)) {
                (Ok(candidate), Some(task)) => {
                    let ruling = Arc::new(Ruling::Admit { candidate, findings: Vec::new() });
                    jobs.push(ExecJob { rollout, attempt, task: task.clone(), ruling });
                }
                (Ok(_), None) => unfit.push(((rollout, attempt), format!("no task {task} in the kit"))),
                (Err(why), _) => unfit.push(((rollout, attempt), why)),
            }
        }
        let keys: Vec<Key> = jobs.iter().map(|job| (job.rollout, job.attempt)).collect();
        let given = match &self.bench {
            _ if jobs.is_empty() => Ok(()),
            Some((_, bench)) => bench::give(&bench.pool, jobs),
            None => Err("no executors yet".to_string()),
        };
        if let Err(why) = given {
            unfit.extend(keys.into_iter().map(|key| (key, why.clone())));
        }
        unfit.into_iter().for_each(|(key, why)| self.end(key, Err(fault(LEASE_LOST, why))));
    }

    /// The answer goes out with the others that are ready.
    fn end(&mut self, key: Key, report: Result<Body, Fault>) {
        if let Some(given) = self.errands.remove(&key) {
            self.answers.push(Answer { lease: given.lease, report });
        }
    }

    fn executed(&mut self, item: ExecutedItem, line: &Line<'_>) {
        let key = (item.rollout, item.attempt);
        // An errand of an earlier connection: the head has given it to somebody else.
        if !self.errands.contains_key(&key) {
            return;
        }
        let report = item.result.and_then(|report| {
            serde_json::to_vec(&*report).map_err(|e| fault(LEASE_LOST, format!("the report cannot be written: {e}")))
        });
        let bytes = match report {
            Ok(bytes) if bytes.len() > line.welcome.limit as usize / 2 => bytes,
            report => return self.end(key, report.map(Body::Here)),
        };
        self.moving.insert(key);
        let (client, out) = (line.client(), self.inside.0.clone());
        tokio::spawn(async move {
            let left = async { client?.put(bytes).await };
            let left = left.await.map(Body::Blob).map_err(|why| fault(LEASE_LOST, why));
            let _ = out.send(Event::Left(key, left)).await;
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

#[cfg(test)]
#[path = "executors_tests.rs"]
mod tests;
