//! A node: joins a head, does its duty (`executors`, `sampling`), and comes back when the connection breaks.
//!
//! One loop owns everything: the peer, and the duty with its actors (the same as in a head) and its table of errands. What comes
//! in from outside or from inside is an event of it.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use rollout::outcome::Fault;
use serde_json::{Value, json};

use self::executors::Executors;
use self::sampling::Sampling;
use super::batch;
use super::cookie::Cookie;
use super::fetch::Client;
use super::kit::Local;
use super::peer::{DialError, Heard, Peer};
use super::session::SessionEvent;
use super::wire::{self, Answer, Hello, Role, ToHead, ToNode, Welcome};
use crate::errors::UserError;
use crate::logbook::Logbook;
use crate::observe::{Observer, Progress, Source};
use crate::run::RunError;
use crate::stop::StopToken;
use crate::supervise::{LEASE_LOST, fault};

mod bench;
mod executors;
mod larder;
mod sampling;
#[cfg(test)]
mod scene;
mod seat;

/// How often silence and a wish to stop are looked for.
const TICK: Duration = Duration::from_millis(100);
/// The head's answer to a report for duty.
const WELCOME: Duration = Duration::from_secs(5);
/// Handshakes that a head ended after it had shown itself, none of them successful, before it is believed to mean it: so many, and over so
/// long, that it was not a flood that crowded them out, or a gateway's pause. Who ends a connection without a word is no head.
const REFUSED: u32 = 3;
const REFUSED_FOR: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// How often its state is noted.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// Things that happen inside and are seen to before the head is listened to again.
const AT_ONCE: usize = 64;
/// Of a fault's text, bytes: one that is too long for a message would never be heard of.
const FAULT_TEXT: usize = 8 * 1024;
/// Frames before a welcome, bytes.
const LIMIT: usize = 64 * 1024;

/// What `troupe join` was told.
pub struct NodeArgs {
    /// `HOST:PORT`.
    pub head: String,
    pub cookie: Cookie,
    pub name: String,
    pub role: Role,
    /// Executors, or answers at once. `None`: as many as the head says.
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

/// What a node does for its head. The connection, its silence and its end are the node's own.
trait Duty: Send {
    type Event: Send;

    const ROLE: Role;

    /// A new connection: reports what is ready, or begins to make it.
    fn welcomed(&mut self, line: &Line<'_>);

    /// What has happened inside meanwhile.
    fn already(&mut self) -> Option<Self::Event>;

    /// Answers that are ready to be told; afterwards there are none.
    fn answers(&mut self) -> Vec<Answer>;

    /// The next thing that happens inside; nothing is lost when it is not waited for to the end.
    fn next(&mut self) -> impl Future<Output = Self::Event> + Send;

    /// # Errors
    /// The node cannot go on.
    fn happened(&mut self, event: Self::Event, line: &Line<'_>) -> impl Future<Output = Result<(), NodeError>> + Send;

    /// By the head: a ping, or work.
    fn told(&mut self, said: ToNode, line: &Line<'_>);

    /// The connection is gone, and with it all errands.
    fn parted(&mut self);

    /// For a state dump.
    fn state(&self) -> Value;
}

/// One connection to the head, for its node's duty.
struct Line<'a> {
    args: &'a NodeArgs,
    peer: &'a Peer,
    welcome: &'a Welcome,
}

impl Line<'_> {
    fn note(&self, text: String) {
        self.args.observer.on(Progress::Note(text));
    }

    fn tell(&self, what: &ToHead) {
        if let Err(error) = self.peer.say(self.welcome.epoch, what, self.welcome.limit as usize) {
            tracing::warn!(%error, "a message to the head is not sent");
        }
    }

    fn answer(&self, mut answers: Vec<Answer>) {
        answers.iter_mut().for_each(shorten);
        for answers in batch::messages(answers, self.welcome.limit as usize) {
            self.tell(&ToHead::Done(answers));
        }
    }

    /// The head's side channel.
    fn client(&self) -> Result<Client, String> {
        let host = self.args.head.rsplit_once(':').map_or(self.args.head.as_str(), |(host, _)| host);
        Client::new(host, self.welcome.bulk_port, self.args.cookie.clone())
    }
}

struct Node<D> {
    args: NodeArgs,
    peer: Peer,
    duty: D,
    /// Of the present only: for a state dump.
    logbook: Logbook,
}

/// Runs until the node is dismissed, refused, or has tried for `cluster.reconnect_s` to find its head.
///
/// # Errors
/// Refused, no head, or executors that cannot be started.
pub async fn run(args: NodeArgs) -> Result<NodeEnd, NodeError> {
    let temp = std::env::temp_dir();
    let scratch = tempfile::Builder::new().prefix("troupe-node-").tempdir();
    let scratch = scratch.map_err(|e| UserError::io("make a temporary folder", &temp, &e))?;
    let folder = scratch.path().to_path_buf();
    let logbook = Logbook::in_memory();
    args.observer.may_look(Source::Folder(folder.clone()));
    args.observer.may_look(Source::Logbook(logbook.glance()));
    match args.role {
        Role::Executor => {
            let duty = Executors::new(args.executors, folder, logbook.clone());
            work(args, duty, logbook).await
        }
        Role::Generator => {
            let duty = Sampling::new(&args, folder).await?;
            work(args, duty, logbook).await
        }
    }
}

async fn work<D: Duty>(args: NodeArgs, duty: D, logbook: Logbook) -> Result<NodeEnd, NodeError> {
    let no_gateway = |e| NodeError::Fault(fault(LEASE_LOST, format!("no gateway can be started: {e}")));
    let peer = Peer::new(&args.cookie).await.map_err(no_gateway)?;
    let mut node = Node { args, peer, duty, logbook };
    let mut refused = Ended::default();
    loop {
        let welcome = match node.reach(&mut refused).await? {
            Ok(welcome) => welcome,
            Err(end) => return Ok(end),
        };
        node.logbook.happened("head", "joined", format!("{} as {}", node.args.head, welcome.name));
        let parting = node.serve(&welcome).await;
        node.peer.hang_up();
        node.duty.parted();
        match parting? {
            Parting::End(end) => return Ok(end),
            Parting::Lost(why) => {
                node.logbook.happened("head", "lost", &why);
                node.note(format!("{why}; looking for the head at {}", node.args.head));
            }
        }
    }
}

impl<D: Duty> Node<D> {
    fn note(&self, text: String) {
        self.args.observer.on(Progress::Note(text));
    }

    /// Connects and reports for duty, again and again.
    async fn reach(&mut self, refused: &mut Ended) -> Result<Result<Welcome, NodeEnd>, NodeError> {
        let cluster = self.args.local.config.cluster.clone();
        let (began, mut told) = (Instant::now(), String::new());
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
                    *refused = Ended::default();
                    return Ok(Ok(welcome));
                }
                Err(Turned::Away(reason)) => return Err(self.refused(reason).into()),
                Err(Turned::Handshake) => {
                    let over = began.elapsed() >= Duration::from_secs(cluster.reconnect_s);
                    if refused.means_it(Instant::now()) || (over && refused.times >= REFUSED) {
                        let reason = format!("it ended the handshake {} times", refused.times);
                        return Err(self.refused(reason).into());
                    }
                    "it ended the handshake (has it another cookie?)".to_string()
                }
                Err(Turned::Nobody(why)) => why,
            };
            if began.elapsed() >= Duration::from_secs(cluster.reconnect_s) {
                return Err(UserError::new("there is no head to join")
                    .at(&self.args.head)
                    .found(why)
                    .expected(format!("a run with cluster.listen at this address, within {} s", cluster.reconnect_s))
                    .hint("start `troupe run` first, or raise cluster.reconnect_s; nodes of a head with cluster.tls_cert need cluster.tls_ca")
                    .into());
            }
            if told != why {
                self.note(format!("no head at {} yet: {why}", self.args.head));
                told = why;
            }
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
            role: D::ROLE,
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
        let Node { args, peer, duty, logbook } = self;
        duty.welcomed(&Line { args, peer, welcome });
        let dead = Duration::from_millis(welcome.beat.dead_ms);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let (mut heard_at, mut leaving, mut noted_at) = (Instant::now(), false, None::<Instant>);
        loop {
            let went = tokio::select! {
                // What was heard while this process stood still counts before the silence does.
                biased;
                heard = peer.hear() => match heard {
                    None => return Ok(Parting::Lost("the gateway ended".into())),
                    Some(Heard::Session(SessionEvent::Gone { id, .. })) if peer.is_mine(id) => {
                        return Ok(Parting::Lost("the connection ended".into()));
                    }
                    Some(Heard::Session(_)) => Ok(()),
                    Some(Heard::Frame(bytes)) => {
                        heard_at = Instant::now();
                        match read(&bytes, welcome) {
                            Some(ToNode::Dismiss { over: true }) => return Ok(Parting::End(NodeEnd::RunOver)),
                            Some(ToNode::Dismiss { over: false }) => return Ok(Parting::End(NodeEnd::Drained)),
                            Some(said) => duty.told(said, &Line { args, peer, welcome }),
                            None => {}
                        }
                        Ok(())
                    }
                },
                _ = ticks.tick() => {
                    // Within that time: the next look would be after it.
                    if heard_at.elapsed() + TICK > dead {
                        return Ok(Parting::Lost(format!("the head is silent for {} ms", welcome.beat.dead_ms)));
                    }
                    if noted_at.is_none_or(|at| at.elapsed() >= NOTE_EVERY) {
                        noted_at = Some(Instant::now());
                        logbook.sample("node", json!({
                            "head": args.head, "name": welcome.name, "epoch": welcome.epoch, "leaving": leaving,
                            "head_heard_ms": heard_at.elapsed().as_millis() as u64, "duty": duty.state(),
                        }));
                    }
                    if args.stop.asked() && !leaving {
                        leaving = true;
                        let line = Line { args, peer, welcome };
                        line.note("asked to stop: ends what it has, then leaves (once more to end at once)".into());
                        line.tell(&ToHead::Leaving);
                    }
                    Ok(())
                }
                event = duty.next() => all(duty, event, &Line { args, peer, welcome }).await,
            };
            // What is ready goes out at once and together, also where the node cannot go on.
            Line { args, peer, welcome }.answer(duty.answers());
            went?;
        }
    }
}

/// What happened, and what has happened inside by then: its answers share their messages.
async fn all<D: Duty>(duty: &mut D, first: D::Event, line: &Line<'_>) -> Result<(), NodeError> {
    duty.happened(first, line).await?;
    // Bounded, so that pings are heard.
    for _ in 1..AT_ONCE {
        match duty.already() {
            Some(event) => duty.happened(event, line).await?,
            None => break,
        }
    }
    Ok(())
}

/// What the head says, if it is this head.
fn read(bytes: &[u8], welcome: &Welcome) -> Option<ToNode> {
    match wire::open::<ToNode>(bytes, welcome.limit as usize) {
        Ok((header, said)) if header.epoch == welcome.epoch => Some(said),
        Ok((header, _)) => {
            tracing::warn!(?header, "a message of another epoch changes nothing");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "a message that cannot be read");
            None
        }
    }
}

/// The beginning of a fault says most.
fn shorten(answer: &mut Answer) {
    if let Err(fault) = &mut answer.report
        && fault.message.len() > FAULT_TEXT
    {
        fault.message.truncate(fault.message.floor_char_boundary(FAULT_TEXT));
        fault.message.push_str(" ..");
    }
}

/// Handshakes that a head has ended.
#[derive(Default)]
struct Ended {
    times: u32,
    first: Option<Instant>,
}

impl Ended {
    /// Once more; whether it is a refusal.
    fn means_it(&mut self, now: Instant) -> bool {
        self.times += 1;
        now.duration_since(*self.first.get_or_insert(now)) >= REFUSED_FOR && self.times >= REFUSED
    }
}

enum Turned {
    Away(String),
    Handshake,
    Nobody(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Should fail with (not tried): three in a row are believed (as it was). then: a flood of a second ends a node.
    #[test]
    fn handshakes_that_a_flood_has_ended_are_no_refusal() {
        let (mut ended, began) = (Ended::default(), Instant::now());
        let at = |s: u64| began + Duration::from_secs(s);
        assert!((0..20).all(|s| !ended.means_it(at(s))));
        assert!(ended.means_it(at(30)));
        let mut rare = Ended::default();
        assert_eq!([0, 60, 61].map(|s| rare.means_it(at(s))), [false, false, true]);
    }

    /// Should fail with (not tried): nothing is cut (as it was). then: the message cannot be sealed.
    #[test]
    fn a_fault_of_any_length_fits_into_a_message() {
        let told = |text: String| {
            let mut answer = Answer { lease: 1, report: Err(fault(LEASE_LOST, text)) };
            shorten(&mut answer);
            assert!(wire::seal(1, 1, &ToHead::Done(vec![answer.clone()]), LIMIT).is_ok());
            answer.report.unwrap_err().message
        };
        // In the middle of a character of two bytes.
        let long = told(format!("x{}", "é".repeat(LIMIT)));
        assert_eq!(long, format!("x{} ..", "é".repeat(FAULT_TEXT / 2 - 1)));
        assert_eq!(told("short".into()), "short");
    }
}
