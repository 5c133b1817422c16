//! A node: joins a head, evaluates what it is given, and comes back when the connection breaks.
//!
//! One loop owns everything: the peer, the pool of executors (the same actor as in a head), and the table of errands. What comes
//! in from outside or from the pool is an event of it. The pool and its warm Python processes outlive a connection; errands do
//! not: the head has given them to others by then.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use rollout::id::{Attempt, RolloutId, TaskId};
use rollout::outcome::{Candidate, Fault, Ruling};
use rollout::task::TaskSpec;
use tokio::sync::mpsc;

use self::bench::{Bench, FromPool};
use super::cookie::Cookie;
use super::fetch::Client;
use super::kit::{Kit, Local};
use super::peer::{DialError, Heard, Peer};
use super::session::SessionEvent;
use super::wire::{self, Body, Errand, Hello, Role, ToHead, ToNode, Welcome};
use crate::errors::UserError;
use crate::executor::{ExecJob, ExecutedItem};
use crate::observe::{Observer, Progress};
use crate::run::RunError;
use crate::stop::StopToken;
use crate::supervise::{LEASE_LOST, fault};

mod bench;

/// How often silence and a wish to stop are looked for.
const TICK: Duration = Duration::from_millis(100);
/// The head's answer to a report for duty.
const WELCOME: Duration = Duration::from_secs(5);
/// Handshakes in a row that the head ended before it is believed to mean it.
const REFUSED: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Frames before a welcome, bytes.
const LIMIT: usize = 64 * 1024;
/// What may wait between the tasks of a node and its loop.
const INSIDE: usize = 1024;

/// What `troupe join` was told.
pub struct NodeArgs {
    /// `HOST:PORT`.
    pub head: String,
    pub cookie: Cookie,
    pub name: String,
    /// `None`: as many as the head says.
    pub executors: Option<u32>,
    pub local: Local,
    pub observer: Arc<dyn Observer>,
    pub stop: StopToken,
}

/// Why a node ended in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeEnd {
    /// The run is over.
    RunOver,
    /// Drained, by an operator or because it was asked to stop.
    Drained,
    /// Asked to stop while it had no head.
    Stopped,
}

/// Why a node cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("{0}")]
    Run(#[from] RunError),
    #[error("{0}")]
    User(#[from] UserError),
    #[error("{0}")]
    Fault(Fault),
}

/// How one connection ended.
enum Parting {
    End(NodeEnd),
    Lost(String),
}

/// What happens inside.
enum Inside {
    /// The kit is here and its executors are built.
    Built(String, Result<Built, NodeError>),
    /// A long candidate is here.
    Fetched(Errand, Result<Candidate, String>),
    /// A long report lies at the head.
    Left(u64, (RolloutId, Attempt), Result<Body, Fault>),
    /// The pool's sign of life.
    Held(Vec<(RolloutId, Attempt)>),
}

/// Made of a kit: what does not fit through a channel of `Clone` things.
struct Built {
    kit: Kit,
    factory: crate::crew::VerifierFactory,
}

type Tasks = HashMap<TaskId, Arc<TaskSpec>>;

struct Node {
    args: NodeArgs,
    scratch: tempfile::TempDir,
    peer: Peer,
    /// The executors, and the digest of the kit they are made of.
    bench: Option<(String, Bench)>,
    tasks: Tasks,
    from_pool: (mpsc::Sender<FromPool>, mpsc::Receiver<FromPool>),
    inside: (mpsc::Sender<Inside>, mpsc::Receiver<Inside>),
    /// Of this connection.
    errands: HashMap<(RolloutId, Attempt), u64>,
    /// On their way over the side channel.
    moving: HashSet<(RolloutId, Attempt)>,
}

/// Runs until the node is dismissed, refused, or has tried for `cluster.reconnect_s` to find its head.
///
/// # Errors
/// Refused, no head, or executors that cannot be started.
pub async fn run(args: NodeArgs) -> Result<NodeEnd, NodeError> {
    let temp = std::env::temp_dir();
    let scratch = tempfile::Builder::new().prefix("troupe-node-").tempdir();
    let scratch = scratch.map_err(|e| UserError::io("make a temporary folder", &temp, &e))?;
    let no_gateway = |e| NodeError::Fault(fault(LEASE_LOST, format!("no gateway can be started: {e}")));
    let peer = Peer::new(&args.cookie).await.map_err(no_gateway)?;
    let mut node = Node {
        args,
        scratch,
        peer,
        bench: None,
        tasks: HashMap::new(),
        from_pool: mpsc::channel(INSIDE),
        inside: mpsc::channel(INSIDE),
        errands: HashMap::new(),
        moving: HashSet::new(),
    };
    let mut refused = 0;
    loop {
        let welcome = match node.reach(&mut refused).await? {
            Ok(welcome) => welcome,
            Err(end) => return Ok(end),
        };
        let parting = node.serve(&welcome).await;
        node.peer.hang_up();
        node.errands.clear();
        node.moving.clear();
        match parting? {
            Parting::End(end) => return Ok(end),
            Parting::Lost(why) => node.note(format!("{why}; looking for the head at {}", node.args.head)),
        }
    }
}

impl Node {
    fn note(&self, text: String) {
        self.args.observer.on(Progress::Note(text));
    }

    /// Connects and reports for duty, again and again.
    async fn reach(&mut self, refused: &mut u32) -> Result<Result<Welcome, NodeEnd>, NodeError> {
        let cluster = self.args.local.config.cluster.clone();
        let began = Instant::now();
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(Duration::from_millis(cluster.reconnect_pause_ms))
            .without_max_times()
            .with_jitter()
            .build();
        loop {
            if self.args.stop.asked() {
                return Ok(Err(NodeEnd::Stopped));
            }
            let why = match self.report().await {
                Ok(welcome) => {
                    *refused = 0;
                    return Ok(Ok(welcome));
                }
                Err(Turned::Away(reason)) => return Err(self.refused(reason).into()),
                Err(Turned::Handshake) if *refused + 1 >= REFUSED => {
                    let reason = format!("it ended the handshake {REFUSED} times");
                    return Err(self.refused(reason).into());
                }
                Err(Turned::Handshake) => {
                    *refused += 1;
                    "the handshake failed".to_string()
                }
                Err(Turned::Nobody(why)) => why,
            };
            if began.elapsed() >= Duration::from_secs(cluster.reconnect_s) {
                return Err(UserError::new("there is no head to join")
                    .at(&self.args.head)
                    .found(why)
                    .expected(format!("a run with cluster.listen at this address, within {} s", cluster.reconnect_s))
                    .hint("start `troupe run` first, or raise cluster.reconnect_s")
                    .into());
            }
            tracing::info!(why, "no head yet");
            let pause = pauses.next().unwrap_or(FIRST_PAUSE);
            let until = Instant::now() + pause;
            while Instant::now() < until && !self.args.stop.asked() {
                tokio::time::sleep(TICK.min(until.saturating_duration_since(Instant::now()))).await;
            }
        }
    }

    fn refused(&self, found: String) -> UserError {
        UserError::new("the head does not let this node in")
            .at(&self.args.head)
            .found(found)
            .expected("the head's cookie, and the same version of Troupe")
            .hint("compare cluster.cookie_file (or the variable of cluster.cookie_env) and `troupe --version` on both")
    }

    /// One try.
    async fn report(&mut self) -> Result<Welcome, Turned> {
        self.peer.connect(&self.args.head).await.map_err(|error| match error {
            DialError::Refused => Turned::Handshake,
            error => Turned::Nobody(error.to_string()),
        })?;
        let hello = Hello {
            role: Role::Executor,
            name: self.args.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            harness: sandbox::protocol_digest().0,
            pid: std::process::id(),
            gpus: self.args.local.gpus.clone().unwrap_or_else(|| self.args.local.config.gpu.devices.clone()),
        };
        self.peer.say(0, &ToHead::Hello(hello), LIMIT).map_err(|e| Turned::Away(e.to_string()))?;
        tokio::time::timeout(WELCOME, self.welcome())
            .await
            .unwrap_or_else(|_| Err(Turned::Nobody(format!("no welcome within {} s", WELCOME.as_secs()))))
    }

    async fn welcome(&mut self) -> Result<Welcome, Turned> {
        while let Some(heard) = self.peer.hear().await {
            match heard {
                Heard::Frame(bytes) => match wire::open::<ToNode>(&bytes, LIMIT) {
                    Ok((_, ToNode::Welcome(welcome))) => return Ok(welcome),
                    Ok((_, ToNode::Refused { reason })) => return Err(Turned::Away(reason)),
                    Err(error @ wire::WireError::Protocol { .. }) => return Err(Turned::Away(error.to_string())),
                    Ok(_) | Err(_) => {}
                },
                Heard::Session(SessionEvent::Gone { id, .. }) if self.peer.is_mine(id) => break,
                Heard::Session(_) => {}
            }
        }
        Err(Turned::Nobody("the connection ended before a welcome".into()))
    }

    /// One connection's work.
    async fn serve(&mut self, welcome: &Welcome) -> Result<Parting, NodeError> {
        self.note(format!("joined {} as {}", self.args.head, welcome.name));
        self.prepare(welcome);
        let dead = Duration::from_millis(welcome.beat.dead_ms);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let (mut heard_at, mut leaving) = (Instant::now(), false);
        loop {
            tokio::select! {
                heard = self.peer.hear() => match heard {
                    None => return Ok(Parting::Lost("the gateway ended".into())),
                    Some(Heard::Session(SessionEvent::Gone { id, .. })) if self.peer.is_mine(id) => {
                        return Ok(Parting::Lost("the connection ended".into()));
                    }
                    Some(Heard::Session(_)) => {}
                    Some(Heard::Frame(bytes)) => {
                        heard_at = Instant::now();
                        if let Some(end) = self.obey(&bytes, welcome) {
                            return Ok(Parting::End(end));
                        }
                    }
                },
                Some(event) = self.from_pool.1.recv() => match event {
                    FromPool::Executed(items) => items.into_iter().for_each(|item| self.executed(item, welcome)),
                    FromPool::Died(fault) => return Err(NodeError::Fault(fault)),
                },
                Some(event) = self.inside.1.recv() => self.happened(event, welcome).await?,
                _ = ticks.tick() => {
                    // Within that time: the next look would be after it.
                    if heard_at.elapsed() + TICK > dead {
                        return Ok(Parting::Lost(format!("the head is silent for {} ms", welcome.beat.dead_ms)));
                    }
                    if self.args.stop.asked() && !leaving {
                        leaving = true;
                        self.note("asked to stop: ends what it has, then leaves (once more to end at once)".into());
                        self.tell(welcome, &ToHead::Leaving);
                    }
                }
            }
        }
    }

    fn tell(&self, welcome: &Welcome, what: &ToHead) {
        if let Err(error) = self.peer.say(welcome.epoch, what, welcome.limit as usize) {
            tracing::warn!(%error, "a message to the head is not sent");
        }
    }

    /// Reports the executors, or begins to build them.
    fn prepare(&mut self, welcome: &Welcome) {
        if let Some((_, bench)) = self.bench.as_ref().filter(|(digest, _)| *digest == welcome.kit.digest) {
            return self.tell(welcome, &ToHead::Ready { executors: bench.executors });
        }
        self.bench = None;
        let (out, kit) = (self.inside.0.clone(), welcome.kit.clone());
        let client = self.client(welcome);
        let (local, observer) = (self.args.local.clone(), self.args.observer.clone());
        let scratch = self.scratch.path().to_path_buf();
        tokio::spawn(async move {
            let built = build(client, &kit, local, &scratch, observer).await;
            let _ = out.send(Inside::Built(kit.digest, built)).await;
        });
    }

    fn client(&self, welcome: &Welcome) -> Result<Client, String> {
        let host = self.args.head.rsplit_once(':').map_or(self.args.head.as_str(), |(host, _)| host);
        Client::new(host, welcome.bulk_port, self.args.cookie.clone())
    }

    fn obey(&mut self, bytes: &[u8], welcome: &Welcome) -> Option<NodeEnd> {
        let said = match wire::open::<ToNode>(bytes, welcome.limit as usize) {
            Ok((header, said)) if header.epoch == welcome.epoch => said,
            Ok((header, _)) => {
                tracing::warn!(?header, "a message of another epoch changes nothing");
                return None;
            }
            Err(error) => {
                tracing::warn!(%error, "a message that cannot be read");
                return None;
            }
        };
        match said {
            ToNode::Ping => self.pong(welcome),
            ToNode::Errand(errand) => self.errand(errand, welcome),
            ToNode::Dismiss { over: true } => return Some(NodeEnd::RunOver),
            ToNode::Dismiss { over: false } => return Some(NodeEnd::Drained),
            ToNode::Welcome(_) | ToNode::Refused { .. } | ToNode::Nodes { .. } | ToNode::Draining { .. } => {}
        }
        None
    }

    /// The pool answers, not we: what is dead there must not seem alive.
    fn pong(&self, welcome: &Welcome) {
        let Some((_, bench)) = &self.bench else {
            return self.tell(welcome, &ToHead::Pong { leases: Vec::new() });
        };
        let (pool, out) = (bench.pool.clone(), self.inside.0.clone());
        let within = Duration::from_millis(welcome.beat.period_ms);
        tokio::spawn(async move {
            if let Some(held) = bench::held(&pool, within).await {
                let _ = out.send(Inside::Held(held)).await;
            }
        });
    }

    fn errand(&mut self, errand: Errand, welcome: &Welcome) {
        let key = (errand.rollout, errand.attempt);
        self.errands.insert(key, errand.lease);
        let blob = match &errand.candidate {
            Body::Here(bytes) => {
                let candidate = wire::candidate_of(bytes).map_err(|e| e.to_string());
                return self.give(errand, candidate, welcome);
            }
            Body::Blob(blob) => blob.clone(),
        };
        self.moving.insert(key);
        let (client, out) = (self.client(welcome), self.inside.0.clone());
        tokio::spawn(async move {
            let fetched = async {
                let bytes = client?.get(&blob).await?;
                wire::candidate_of(&bytes).map_err(|e| e.to_string())
            };
            let fetched = fetched.await;
            let _ = out.send(Inside::Fetched(errand, fetched)).await;
        });
    }

    /// To the pool.
    fn give(&mut self, errand: Errand, candidate: Result<Candidate, String>, welcome: &Welcome) {
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
        self.tell(welcome, &ToHead::Done { lease, report: Err(fault(LEASE_LOST, why)) });
    }

    fn executed(&mut self, item: ExecutedItem, welcome: &Welcome) {
        let key = (item.rollout, item.attempt);
        // An errand of an earlier connection: the head has given it to somebody else.
        let Some(lease) = self.errands.get(&key).copied() else { return };
        let report = item.result.and_then(|report| {
            serde_json::to_vec(&*report).map_err(|e| fault(LEASE_LOST, format!("the report cannot be written: {e}")))
        });
        let bytes = match report {
            Ok(bytes) if bytes.len() > welcome.limit as usize / 2 => bytes,
            report => {
                self.errands.remove(&key);
                return self.tell(welcome, &ToHead::Done { lease, report: report.map(Body::Here) });
            }
        };
        self.moving.insert(key);
        let (client, out) = (self.client(welcome), self.inside.0.clone());
        tokio::spawn(async move {
            let left = async { client?.put(bytes).await };
            let left = left.await.map(Body::Blob).map_err(|why| fault(LEASE_LOST, why));
            let _ = out.send(Inside::Left(lease, key, left)).await;
        });
    }

    async fn happened(&mut self, event: Inside, welcome: &Welcome) -> Result<(), NodeError> {
        match event {
            Inside::Built(digest, built) if digest == welcome.kit.digest => {
                let Built { kit, factory } = built?;
                self.tasks = kit.tasks_by_id();
                let executors = self.args.executors.unwrap_or(kit.executors).max(1);
                let bench = Bench::start(factory, executors, kit.deadline(), self.from_pool.0.clone());
                let bench = bench.await.map_err(NodeError::Fault)?;
                self.bench = Some((digest, bench));
                self.tell(welcome, &ToHead::Ready { executors });
            }
            // Of a head that is gone.
            Inside::Built(..) => {}
            Inside::Fetched(errand, candidate) => {
                let key = (errand.rollout, errand.attempt);
                if self.moving.remove(&key) && self.errands.get(&key) == Some(&errand.lease) {
                    self.give(errand, candidate, welcome);
                }
            }
            Inside::Left(lease, key, report) => {
                if self.moving.remove(&key) && self.errands.get(&key) == Some(&lease) {
                    self.errands.remove(&key);
                    self.tell(welcome, &ToHead::Done { lease, report });
                }
            }
            Inside::Held(held) => {
                let held = held.iter().chain(&self.moving);
                let leases = held.filter_map(|key| self.errands.get(key).copied()).collect();
                self.tell(welcome, &ToHead::Pong { leases });
            }
        }
        Ok(())
    }
}

enum Turned {
    Away(String),
    Handshake,
    Nobody(String),
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
