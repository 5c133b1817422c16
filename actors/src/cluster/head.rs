//! The head's gateway: carries out what the roster says, and passes errands and answers between the pool and the nodes.
//!
//! Owns the roster and the table of connections. Killed by: nothing of its own; a new one starts with an empty roster, and the
//! nodes, which hear nothing any more, report again. Everything from outside is looked at here before it counts: the header's
//! protocol and epoch, the sender, the length.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::message::{BoxedDowncastErr, SerializedMessage};
use ractor::{Actor, ActorProcessingErr, ActorRef, Message, RpcReplyPort, pg};
use ractor_cluster::NodeSessionMessage;
use rollout::id::{PolicyVersion, RolloutId};
use rollout::outcome::Fault;
use serde::Serialize;

use super::lent::Lent;
use super::roster::{Act, Roster};
use super::session::SessionEvent;
use super::shelf::Shelf;
use super::strangers::Strangers;
use super::weights::Published;
use super::wire::{
    self, Beat, BlobRef, Errand, Frame, Header, Hello, NodeKey, NodeRow, Role, ToHead, ToNode, Welcome, WireError,
};
use super::{HEADS, Link, group_of, newest};
use crate::crew::SampleJob;
use crate::executor::ExecJob;
use crate::fleet::FleetMsg;
use crate::generator::{Adoption, GeneratorMsg};
use crate::observe::{Observer, Progress};
use crate::pool::{PoolMsg, RemoteMsg};

mod errands;
mod generators;
mod start;
mod state;

use generators::Versions;
pub use generators::{Generating, Source};
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
    /// A connection that was no TLS where nothing else is let in.
    NoTls(String),
    Tick,
    /// A pool has started.
    Pool(ActorRef<PoolMsg>),
    /// From the pool: candidates for a node, each for the executor of that number.
    Execute {
        key: NodeKey,
        jobs: Vec<(u32, ExecJob)>,
    },
    /// From itself, behind all that was waiting: errands that are ready go out.
    Post,
    /// A fleet has started.
    Fleet(ActorRef<GeneratorMsg>),
    /// From the fleet: answers for a node's generator to sample.
    Sample {
        key: NodeKey,
        jobs: Vec<SampleJob>,
    },
    /// From the fleet: nobody waits for these any more.
    Unsample {
        key: NodeKey,
        rollouts: Vec<RolloutId>,
    },
    /// From the fleet: the newest version.
    Weights(Adoption),
    /// It is on the side channel, or cannot be.
    Published(PolicyVersion, Result<Published, Fault>),
    /// From the pool or the fleet: a node that is to leave has nothing under way.
    Idle {
        key: NodeKey,
    },
    /// The run is over: everybody may go. Answered once all who were told have hung up.
    Dismiss(RpcReplyPort<()>),
    Rows(RpcReplyPort<Vec<NodeRow>>),
    /// What was refused so far.
    Refusals(RpcReplyPort<Refusals>),
    /// All of it, for a state dump.
    State(RpcReplyPort<serde_json::Value>),
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
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
    /// `None`: generators cannot join.
    pub source: Option<Source>,
    pub shelf: Arc<Shelf>,
    pub observer: Arc<dyn Observer>,
}

pub struct HeadState {
    args: HeadArgs,
    myself: ActorRef<HeadMsg>,
    roster: Roster,
    pool: Option<ActorRef<PoolMsg>>,
    fleet: Option<ActorRef<GeneratorMsg>>,
    versions: Versions,
    /// Connections by the process at their other end.
    sessions: HashMap<NodeKey, ActorRef<NodeSessionMessage>>,
    strangers: Strangers,
    /// Candidates that lie on the shelf.
    lent: Lent,
    /// Leased, and not on their way yet; a `Post` is under way where there are any.
    ready: BTreeMap<NodeKey, Vec<Errand>>,
    refusals: Refusals,
    noted: Option<Instant>,
    began: Instant,
    /// Who was dismissed and is still connected, and who waits for that.
    going: Option<(BTreeSet<NodeKey>, RpcReplyPort<()>)>,
}

pub struct HeadGateway;

impl Actor for HeadGateway {
    type Msg = HeadMsg;
    type State = HeadState;
    type Arguments = HeadArgs;

    async fn pre_start(&self, myself: ActorRef<HeadMsg>, args: HeadArgs) -> Result<HeadState, ActorProcessingErr> {
        pg::join(HEADS.to_string(), vec![myself.get_cell()]);
        myself.send_interval(TICK, || HeadMsg::Tick);
        let (pool, fleet) = args.link.gateway_is(&myself);
        if let Some(fleet) = &fleet {
            let _ = fleet.cast(GeneratorMsg::Fleet(FleetMsg::Gateway(myself.clone())));
        }
        let sample_ms = args.source.as_ref().map_or(args.evaluation_ms, |source| source.sample_ms);
        Ok(HeadState {
            roster: Roster::new(args.beat, args.evaluation_ms).with_sampling(sample_ms),
            lent: Lent::new(args.shelf.clone()),
            ready: BTreeMap::new(),
            args,
            myself,
            pool,
            fleet,
            versions: Versions::default(),
            sessions: HashMap::new(),
            strangers: Strangers::default(),
            refusals: Refusals::default(),
            noted: None,
            began: Instant::now(),
            going: None,
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
            HeadMsg::NoTls(why) => {
                state.refusals.strangers += 1;
                state.note_rarely(why);
            }
            HeadMsg::Tick => {
                let acts = state.roster.tick(now);
                state.act(acts);
                let roster = &state.roster;
                state.lent.sweep(|key, lease| roster.holds(key, lease));
                state.strangers.end_late();
            }
            HeadMsg::Pool(pool) => {
                state.pool = Some(pool);
                let acts = state.roster.begin_anew(Role::Executor);
                state.act(acts);
            }
            HeadMsg::Fleet(fleet) => state.new_fleet(fleet),
            HeadMsg::Sample { key, jobs } => state.sample(key, jobs),
            HeadMsg::Unsample { key, rollouts } => state.unsample(key, rollouts),
            HeadMsg::Weights(adoption) => state.weights(adoption),
            HeadMsg::Published(policy, result) => state.published(policy, result),
            HeadMsg::Execute { key, jobs } => state.execute(key, &jobs),
            HeadMsg::Post => state.post(),
            HeadMsg::Idle { key } => {
                let acts = state.roster.idle(key);
                state.act(acts);
            }
            HeadMsg::Dismiss(reply) => {
                let keys = state.roster.forget_all();
                keys.iter().for_each(|key| state.say(*key, &ToNode::Dismiss { over: true }));
                state.going = Some((keys.into_iter().collect(), reply));
                state.gone();
            }
            HeadMsg::Rows(reply) => {
                let _ = reply.send(state.roster.rows(now));
            }
            HeadMsg::Refusals(reply) => {
                let _ = reply.send(state.refused());
            }
            HeadMsg::State(reply) => {
                let _ = reply.send(state.state());
            }
        }
        Ok(())
    }
}

impl HeadState {
    fn refused(&self) -> Refusals {
        Refusals { late: self.roster.late, ..self.refusals }
    }

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
            ToHead::Adopted { policy, serves } => return self.adopted(key, policy, serves),
            ToHead::Pong { leases } => self.roster.pong(now, key, &leases),
            ToHead::Done(answers) => return self.done(key, answers),
            ToHead::Leaving => self.roster.drain(key),
        };
        self.act(acts);
    }

    /// Whoever evaluates by another harness does not belong in this run; nor does a generator where none can join, or one whose name
    /// would fill an answer to an operator.
    fn unfit(&self, hello: &Hello) -> Option<String> {
        let words = [&hello.name, &hello.version, &hello.gpus];
        if let Some(long) = words.iter().find(|word| word.len() > WORD) {
            return Some(format!("its name, version or list of GPUs has {} bytes, the limit is {WORD}", long.len()));
        }
        let ours = sandbox::protocol_digest().0;
        if hello.role == Role::Generator && self.args.source.is_none() {
            return Some("generators cannot join this run: generator.kind is not \"burn\"".into());
        }
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
                self.gone();
            }
        }
    }

    /// Nobody who was dismissed is left?
    fn gone(&mut self) {
        let Some((mut left, reply)) = self.going.take() else { return };
        left.retain(|key| self.sessions.contains_key(key));
        if left.is_empty() {
            let _ = reply.send(());
        } else {
            self.going = Some((left, reply));
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

    fn act(&mut self, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Welcome { key, name } => self.welcome(key, name),
                Act::Ping { key } => self.say(key, &ToNode::Ping),
                Act::Dismiss { key } => self.say(key, &ToNode::Dismiss { over: false }),
                Act::Attach { key, role: Role::Executor, name, executors } => {
                    self.pool(RemoteMsg::Attach { gateway: self.myself.clone(), key, name, executors });
                }
                Act::Attach { key, role: Role::Generator, executors: places, .. } => {
                    self.fleet(FleetMsg::Attach { gateway: self.myself.clone(), key, places });
                    self.tell_version(key);
                }
                Act::Pause { key, role: Role::Executor, paused } => self.pool(RemoteMsg::Pause { key, paused }),
                Act::Pause { key, role: Role::Generator, paused } => self.fleet(FleetMsg::Pause { key, paused }),
                Act::Leave { key, role: Role::Executor } if self.pool.is_some() => {
                    self.pool(RemoteMsg::Leave { key });
                }
                Act::Leave { key, role: Role::Generator } if self.fleet.is_some() => {
                    self.fleet(FleetMsg::Leave { key });
                }
                // Nobody has given it anything.
                Act::Leave { key, .. } => drop(self.myself.cast(HeadMsg::Idle { key })),
                Act::Detach { key, role: Role::Executor, why } => self.pool(RemoteMsg::Detach { key, why }),
                Act::Detach { key, role: Role::Generator, why } => {
                    self.versions.gone(key);
                    self.fleet(FleetMsg::Detach { key, why });
                }
                Act::Failed { lease, fault } => self.lapse(lease, fault),
                Act::Close { key } => {
                    if let Some(session) = self.sessions.remove(&key) {
                        session.stop(Some("silent for too long".into()));
                    }
                }
                Act::Note(text) => self.note(text),
            }
        }
    }

    fn welcome(&mut self, key: NodeKey, name: String) {
        let source = self.args.source.as_ref().filter(|_| self.roster.role(key) == Some(Role::Generator));
        let welcome = Welcome {
            name,
            epoch: self.args.epoch,
            beat: self.args.beat,
            limit: self.args.limit as u32,
            bulk_port: self.args.bulk_port,
            kit: source.map_or_else(|| self.args.kit.clone(), |source| source.recipe.clone()),
        };
        let generates = source.is_some();
        self.say(key, &ToNode::Welcome(welcome));
        if generates {
            self.offer_to(key);
        }
    }
}
