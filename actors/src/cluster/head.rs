//! The head's gateway: carries out what the roster says, and passes errands and answers between the pool and the nodes.
//!
//! Owns the roster and the table of connections. Killed by: nothing of its own; a new one starts with an empty roster, and the
//! nodes, which hear nothing any more, report again. Everything from outside is looked at here before it counts: the header's
//! protocol and epoch, the sender, the length.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::message::{BoxedDowncastErr, SerializedMessage};
use ractor::{Actor, ActorProcessingErr, ActorRef, Message, RpcReplyPort, pg};
use ractor_cluster::NodeSessionMessage;
use rollout::outcome::{ExecReport, Fault};

use super::lent::Lent;
use super::roster::{Act, Lease, Roster};
use super::session::SessionEvent;
use super::shelf::Shelf;
use super::strangers::Strangers;
use super::wire::{
    self, Beat, BlobRef, Body, Errand, Frame, Header, Hello, NodeKey, NodeRow, ToHead, ToNode, Welcome, WireError,
};
use super::{HEADS, Link, group_of, newest};
use crate::executor::{ExecJob, ExecutedItem};
use crate::observe::{Observer, Progress};
use crate::pool::{PoolMsg, RemoteMsg};
use crate::supervise::{LEASE_LOST, fault};

mod start;

pub use start::{Head, HeadConfig};

/// How often the roster is looked at.
const TICK: Duration = Duration::from_millis(50);
/// Notes about refused connections, seconds between them.
const NOTE_EVERY: Duration = Duration::from_secs(10);
/// Rows in one answer to an operator.
const PAGE: usize = 100;
/// Bytes of one thing that a node says of itself.
const WORD: usize = 1024;

#[derive(Debug)]
pub enum HeadMsg {
    /// From the wire.
    Frame(Vec<u8>),
    Session(SessionEvent),
    Tick,
    /// A pool has started.
    Pool(ActorRef<PoolMsg>),
    /// From the pool: a candidate for executor `number` of a node.
    Execute {
        key: NodeKey,
        number: u32,
        job: ExecJob,
    },
    /// From the pool: a node that is to leave has nothing under way.
    Idle {
        key: NodeKey,
    },
    /// The run is over: everybody may go.
    Dismiss,
    Rows(RpcReplyPort<Vec<NodeRow>>),
    /// What was refused so far.
    Refusals(RpcReplyPort<Refusals>),
}

impl Message for HeadMsg {
    fn serializable() -> bool {
        true
    }

    fn deserialize(message: SerializedMessage) -> Result<Self, BoxedDowncastErr> {
        Ok(HeadMsg::Frame(wire::bytes_of(message)))
    }
}

/// What came from outside and did not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Connections that ended without a proof of the cookie: a wrong one, a port scanner, noise.
    pub strangers: u64,
    /// Messages that were none, or of another protocol.
    pub foreign: u64,
    /// Of another epoch, or from nobody that is known.
    pub stale: u64,
    /// Answers to errands that were not out any more.
    pub late: u64,
}

/// What a gateway needs and keeps over its deaths.
#[derive(Clone)]
pub struct HeadArgs {
    pub link: Link,
    pub epoch: u64,
    pub beat: Beat,
    pub evaluation_ms: u64,
    pub limit: usize,
    pub bulk_port: u16,
    pub kit: BlobRef,
    pub shelf: Arc<Shelf>,
    pub observer: Arc<dyn Observer>,
}

pub struct HeadState {
    args: HeadArgs,
    myself: ActorRef<HeadMsg>,
    roster: Roster,
    pool: Option<ActorRef<PoolMsg>>,
    /// Connections by the process at their other end.
    sessions: HashMap<NodeKey, ActorRef<NodeSessionMessage>>,
    strangers: Strangers,
    /// Candidates that lie on the shelf.
    lent: Lent,
    refusals: Refusals,
    noted: Option<Instant>,
    began: Instant,
}

pub struct HeadGateway;

impl Actor for HeadGateway {
    type Msg = HeadMsg;
    type State = HeadState;
    type Arguments = HeadArgs;

    async fn pre_start(&self, myself: ActorRef<HeadMsg>, args: HeadArgs) -> Result<HeadState, ActorProcessingErr> {
        pg::join(HEADS.to_string(), vec![myself.get_cell()]);
        myself.send_interval(TICK, || HeadMsg::Tick);
        let pool = args.link.gateway_is(&myself);
        Ok(HeadState {
            roster: Roster::new(args.beat, args.evaluation_ms),
            lent: Lent::new(args.shelf.clone()),
            args,
            myself,
            pool,
            sessions: HashMap::new(),
            strangers: Strangers::default(),
            refusals: Refusals::default(),
            noted: None,
            began: Instant::now(),
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<HeadMsg>,
        message: HeadMsg,
        state: &mut HeadState,
    ) -> Result<(), ActorProcessingErr> {
        let now = state.now_ms();
        match message {
            HeadMsg::Frame(bytes) => state.frame(&bytes),
            HeadMsg::Session(event) => state.session(event),
            HeadMsg::Tick => {
                let acts = state.roster.tick(now);
                state.act(acts);
                let roster = &state.roster;
                state.lent.sweep(|key, lease| roster.holds(key, lease));
                state.strangers.end_late();
            }
            HeadMsg::Pool(pool) => {
                state.pool = Some(pool);
                let acts = state.roster.new_pool();
                state.act(acts);
            }
            HeadMsg::Execute { key, number, job } => state.execute(key, number, &job),
            HeadMsg::Idle { key } => {
                let acts = state.roster.idle(key);
                state.act(acts);
            }
            HeadMsg::Dismiss => {
                let keys = state.roster.forget_all();
                keys.into_iter().for_each(|key| state.say(key, &ToNode::Dismiss { over: true }));
            }
            HeadMsg::Rows(reply) => {
                let _ = reply.send(state.roster.rows(now));
            }
            HeadMsg::Refusals(reply) => {
                let _ = reply.send(Refusals { late: state.roster.late, ..state.refusals });
            }
        }
        Ok(())
    }
}

impl HeadState {
    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn note(&self, text: String) {
        tracing::warn!("{text}");
        self.args.observer.on(Progress::Note(text));
    }

    /// Says something to a process that is connected; to anybody else, nothing.
    fn say(&self, key: NodeKey, what: &ToNode) {
        let frame = match wire::seal(0, self.args.epoch, what, self.args.limit) {
            Ok(frame) => frame,
            Err(error) => return self.note(format!("a message to a node is not sent: {error}")),
        };
        if let Some(cell) = newest(group_of(key)) {
            let _ = cell.send_message::<Frame>(frame);
        }
    }

    fn frame(&mut self, bytes: &[u8]) {
        let (header, said) = match wire::open::<ToHead>(bytes, self.args.limit) {
            Ok(heard) => heard,
            Err(error) => return self.refuse(bytes, &error),
        };
        let (key, now) = (header.from, self.now_ms());
        let acts = match said {
            ToHead::Hello(hello) => match self.unfit(&hello) {
                Some(reason) => {
                    let name: String = hello.name.chars().take(100).collect();
                    self.note(format!("node {name} is refused: {reason}"));
                    return self.say(key, &ToNode::Refused { reason });
                }
                None => self.roster.hello(now, key, hello),
            },
            ToHead::List { from } => return self.list(key, from as usize),
            ToHead::Drain { name } => {
                let names: Vec<String> = self.roster.rows(now).into_iter().map(|row| row.name).take(PAGE).collect();
                let found = self.roster.key_of(&name);
                self.say(key, &ToNode::Draining { found: found.is_some(), names });
                found.map_or_else(Vec::new, |key| self.roster.drain(key))
            }
            _ if header.epoch != self.args.epoch || self.roster.name(key).is_none() => return self.stale(header),
            ToHead::Ready { executors } => self.roster.ready(now, key, executors),
            ToHead::Pong { leases } => self.roster.pong(now, key, &leases),
            ToHead::Done { lease, report } => return self.done(key, lease, report),
            ToHead::Leaving => self.roster.drain(key),
        };
        self.act(acts);
    }

    /// Whoever evaluates by another harness does not belong in this run; nor does one whose name would fill an answer to an operator.
    fn unfit(&self, hello: &Hello) -> Option<String> {
        let words = [&hello.name, &hello.version, &hello.gpus];
        if let Some(long) = words.iter().find(|word| word.len() > WORD) {
            return Some(format!("its name, version or list of GPUs has {} bytes, the limit is {WORD}", long.len()));
        }
        let ours = sandbox::protocol_digest().0;
        (hello.harness != ours).then(|| {
            format!(
                "it evaluates by another harness (Troupe {}, this head is {}); install the same version on both",
                hello.version,
                env!("CARGO_PKG_VERSION")
            )
        })
    }

    fn refuse(&mut self, bytes: &[u8], error: &WireError) {
        self.refusals.foreign += 1;
        self.note_rarely(format!("a message is refused: {error}"));
        if let (WireError::Protocol { .. }, Ok(header)) = (error, wire::header(bytes)) {
            let reason = format!("this head speaks protocol version {}", wire::PROTOCOL);
            self.say(header.from, &ToNode::Refused { reason });
        }
    }

    fn stale(&mut self, header: Header) {
        self.refusals.stale += 1;
        tracing::warn!(?header, "a message of another epoch, or from a node that is given up, changes nothing");
    }

    fn note_rarely(&mut self, text: String) {
        if self.noted.is_none_or(|noted| noted.elapsed() >= NOTE_EVERY) {
            self.noted = Some(Instant::now());
            self.note(text);
        } else {
            tracing::warn!("{text}");
        }
    }

    fn session(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Opened { id, session, from } => self.strangers.opened(id, session, &from),
            SessionEvent::Authenticated { id, session, key } => {
                self.strangers.remove(id);
                if let Some(key) = key {
                    self.sessions.insert(key, session);
                }
            }
            SessionEvent::Ready { .. } => {}
            SessionEvent::Gone { id, key, from } => {
                if self.strangers.remove(id) {
                    self.refusals.strangers += 1;
                    return self.note_rarely(format!("a connection from {from} did not prove the cookie and is ended"));
                }
                let Some(key) = key.filter(|key| self.sessions.get(key).is_some_and(|s| s.get_id() == id)) else {
                    return;
                };
                self.sessions.remove(&key);
                let acts = self.roster.closed(key);
                self.act(acts);
            }
        }
    }

    fn list(&self, key: NodeKey, from: usize) {
        let rows = self.roster.rows(self.now_ms());
        // Half of a message, so that there is always room for the next row.
        let mut room = self.args.limit / 2;
        let fits = |row: &&NodeRow| {
            let bytes = 128 + row.name.len() + row.version.len() + row.gpus.len();
            let fits = bytes <= room;
            room = room.saturating_sub(bytes);
            fits
        };
        let page: Vec<NodeRow> = rows.iter().skip(from).take(PAGE).take_while(fits).cloned().collect();
        let last = from + page.len() >= rows.len();
        self.say(key, &ToNode::Nodes { rows: page, last });
    }

    fn execute(&mut self, key: NodeKey, number: u32, job: &ExecJob) {
        let now = self.now_ms();
        let Some(lease) = self.roster.assign(now, key, number, job.rollout, job.attempt) else {
            // Given up a moment ago; the pool hears of it by a `Detach` that is on its way.
            return;
        };
        let candidate = job.candidate().ok_or(WireError::Damaged("no candidate".into()));
        let bytes = match candidate.and_then(wire::candidate_bytes) {
            Ok(bytes) => bytes,
            Err(error) => return self.failed(key, lease, fault(LEASE_LOST, error)),
        };
        let candidate = if bytes.len() > self.args.limit / 2 {
            Body::Blob(self.lent.lend(key, lease, bytes))
        } else {
            Body::Here(bytes)
        };
        let (rollout, attempt, task) = (job.rollout, job.attempt, job.task.id.clone());
        self.say(key, &ToNode::Errand(Errand { lease, rollout, attempt, task, candidate }));
    }

    fn failed(&mut self, key: NodeKey, lease: u64, fault: Fault) {
        if let Some(found) = self.roster.done(key, lease) {
            self.answer(found, Err(fault));
        }
    }

    fn done(&mut self, key: NodeKey, lease: u64, report: Result<Body, Fault>) {
        // First of all: a node may only end what it holds.
        let Some(found) = self.roster.done(key, lease) else {
            // A report that nobody waits for takes no room.
            if let Ok(Body::Blob(blob)) = report {
                self.args.shelf.take(&blob.digest);
            }
            return;
        };
        self.lent.back(key, lease);
        let bytes = match report {
            Ok(Body::Here(bytes)) => Ok(bytes),
            Ok(Body::Blob(blob)) => self
                .args
                .shelf
                .take(&blob.digest)
                .ok_or_else(|| fault(LEASE_LOST, "the report is not on the side channel")),
            Err(fault) => Err(fault),
        };
        let result = bytes.and_then(|bytes| {
            serde_json::from_slice::<ExecReport>(&bytes)
                .map_err(|e| fault(LEASE_LOST, format!("the report cannot be read: {e}")))
        });
        self.answer(found, result);
    }

    fn answer(&self, lease: Lease, result: Result<ExecReport, Fault>) {
        let item = ExecutedItem { rollout: lease.rollout, attempt: lease.attempt, result: result.map(Arc::new) };
        self.pool(RemoteMsg::Done { number: lease.number, item });
    }

    fn pool(&self, message: RemoteMsg) {
        if let Some(pool) = &self.pool {
            let _ = pool.cast(PoolMsg::Remote(message));
        }
    }

    fn act(&mut self, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Welcome { key, name } => self.say(
                    key,
                    &ToNode::Welcome(Welcome {
                        name,
                        epoch: self.args.epoch,
                        beat: self.args.beat,
                        limit: self.args.limit as u32,
                        bulk_port: self.args.bulk_port,
                        kit: self.args.kit.clone(),
                    }),
                ),
                Act::Ping { key } => self.say(key, &ToNode::Ping),
                Act::Dismiss { key } => self.say(key, &ToNode::Dismiss { over: false }),
                Act::Attach { key, name, executors } => {
                    self.pool(RemoteMsg::Attach { gateway: self.myself.clone(), key, name, executors });
                }
                Act::Pause { key, paused } => self.pool(RemoteMsg::Pause { key, paused }),
                Act::Leave { key } if self.pool.is_some() => self.pool(RemoteMsg::Leave { key }),
                // Nobody has given it anything.
                Act::Leave { key } => drop(self.myself.cast(HeadMsg::Idle { key })),
                Act::Detach { key, why } => self.pool(RemoteMsg::Detach { key, why }),
                Act::Failed { lease, fault } => self.answer(lease, Err(fault)),
                Act::Close { key } => {
                    if let Some(session) = self.sessions.remove(&key) {
                        session.stop(Some("silent for too long".into()));
                    }
                }
                Act::Note(text) => self.note(text),
            }
        }
    }
}
