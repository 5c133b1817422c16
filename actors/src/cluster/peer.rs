//! This process as a peer of a head: one gateway, one connection at a time, every wait with a deadline.
//!
//! The gateway only hands on what it hears; whoever owns the `Peer` decides. Its own listener is on the loopback and nobody is
//! told of it: nodes do not talk to each other.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ractor::message::{BoxedDowncastErr, SerializedMessage};
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, Message, pg};
use ractor_cluster::node::NodeConnectionMode;
use ractor_cluster::{NodeServer, NodeServerMessage, NodeSessionMessage, client_connect};
use rand::RngExt as _;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::cookie::Cookie;
use super::session::{SessionEvent, Watcher, node_name};
use super::tls::Tls;
use super::wire::{self, Frame, NodeKey, WireError};
use super::{HEADS, group_of, newest};

/// TCP, and then the handshake.
const CONNECT: Duration = Duration::from_secs(5);
/// What fits between the gateway and its owner. The head's errands bound it.
const INBOX: usize = 4096;
/// Frames around a message.
pub const FRAME_SLACK: u64 = 4096;

/// What a gateway hears.
#[derive(Debug)]
pub enum Heard {
    Frame(Vec<u8>),
    Session(SessionEvent),
}

/// Frames are the only thing that comes over the wire.
impl Message for Heard {
    fn serializable() -> bool {
        true
    }

    fn serialize(self) -> Result<SerializedMessage, BoxedDowncastErr> {
        match self {
            Heard::Frame(args) => Ok(SerializedMessage::Cast { variant: String::new(), args, metadata: None }),
            Heard::Session(_) => Err(BoxedDowncastErr),
        }
    }

    fn deserialize(message: SerializedMessage) -> Result<Self, BoxedDowncastErr> {
        Ok(Heard::Frame(wire::bytes_of(message)))
    }
}

struct Gateway {
    key: NodeKey,
}

impl Actor for Gateway {
    type Msg = Heard;
    type State = mpsc::Sender<Heard>;
    type Arguments = mpsc::Sender<Heard>;

    async fn pre_start(
        &self,
        myself: ActorRef<Heard>,
        out: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        pg::join(group_of(self.key), vec![myself.get_cell()]);
        Ok(out)
    }

    async fn handle(&self, _: ActorRef<Heard>, heard: Heard, out: &mut Self::State) -> Result<(), ActorProcessingErr> {
        // Full: the owner is far behind. A lost heartbeat comes again, a lost errand is F124.
        if out.try_send(heard).is_err() {
            tracing::warn!("a message from the head is dropped: too many wait");
        }
        Ok(())
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("no connection: {0}")]
    Unreachable(String),
    /// A head that showed itself ended the handshake: it has another cookie.
    #[error("the other side ended the handshake")]
    Refused,
    /// The other side ended the connection without a word: a tunnel whose head is away, or no head at all.
    #[error("the other side ended the connection without a word")]
    Wordless,
    #[error("no answer within {} s", CONNECT.as_secs())]
    Silent,
}

/// A process that is connected to a head, or will be.
pub struct Peer {
    pub key: NodeKey,
    server: ActorRef<NodeServerMessage>,
    gateway: ActorRef<Heard>,
    inbox: mpsc::Receiver<Heard>,
    tls: Option<Tls>,
    /// The connection that was opened last, proved or not: left open it would keep later ones of the same name out.
    session: Option<ActorRef<NodeSessionMessage>>,
    /// At its other end, once it is ready.
    head: Option<ActorCell>,
}

impl Peer {
    /// # Errors
    /// No port on the loopback.
    pub async fn new(cookie: &Cookie) -> Result<Peer, String> {
        let key: NodeKey = rand::rng().random();
        let (out, inbox) = mpsc::channel(INBOX);
        let (gateway, _) = Gateway::spawn(None, Gateway { key }, out).await.map_err(|e| e.to_string())?;
        let server = NodeServer::new(
            0,
            cookie.text().to_string(),
            node_name(key),
            "node".into(),
            None,
            Some(NodeConnectionMode::Isolated),
        )
        .with_listen_addr(IpAddr::V4(Ipv4Addr::LOCALHOST))
        .with_max_inbound_frame_size(2 * 64 * 1024 + FRAME_SLACK);
        let (server, _) = NodeServer::spawn(None, server, ()).await.map_err(|e| e.to_string())?;
        let to = gateway.clone();
        let subscription = Box::new(Watcher(move |event| drop(to.cast(Heard::Session(event)))));
        let subscribe = NodeServerMessage::SubscribeToEvents { id: "gateway".into(), subscription };
        server.cast(subscribe).map_err(|e| e.to_string())?;
        Ok(Peer { key, server, gateway, inbox, tls: cookie.tls().cloned(), session: None, head: None })
    }

    /// One try. What was heard before is forgotten. Where it fails nothing stays open.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn connect(&mut self, address: &str) -> Result<(), DialError> {
        self.hang_up();
        while let Ok(heard) = self.inbox.try_recv() {
            if let Heard::Session(SessionEvent::Opened { session, .. }) = heard {
                session.stop(None);
            }
        }
        let ended = self.dial(address).await;
        if ended.is_err() {
            self.hang_up();
        }
        ended
    }

    async fn dial(&mut self, address: &str) -> Result<(), DialError> {
        match timeout(CONNECT, self.open(address)).await {
            Err(_) => return Err(DialError::Silent),
            Ok(Err(error)) => return Err(DialError::Unreachable(error)),
            Ok(Ok(())) => {}
        }
        timeout(CONNECT, self.handshake()).await.unwrap_or(Err(DialError::Silent))
    }

    async fn open(&self, address: &str) -> Result<(), String> {
        let encrypted = match &self.tls {
            Some(tls) => tls.dial(address).await,
            None => None,
        };
        let Some(stream) = encrypted else {
            return client_connect(&self.server, address).await.map_err(|e| e.to_string());
        };
        let opened = NodeServerMessage::ConnectionOpened { stream: Box::new(stream?), is_server: false };
        self.server.cast(opened).map_err(|e| e.to_string())
    }

    async fn handshake(&mut self) -> Result<(), DialError> {
        while let Some(heard) = self.inbox.recv().await {
            match heard {
                // In order: one that an earlier try opened late is told before ours.
                Heard::Session(SessionEvent::Opened { session, dialled: true, .. }) => {
                    self.hang_up();
                    self.session = Some(session);
                }
                // The end of an older connection may be told only now.
                Heard::Session(SessionEvent::Gone { id, key, .. }) if self.opened(id) => {
                    // Its name comes with its challenge.
                    return Err(if key.is_some() { DialError::Refused } else { DialError::Wordless });
                }
                Heard::Session(SessionEvent::Ready { id }) if self.opened(id) => {
                    let head = newest(HEADS.to_string());
                    self.head = Some(head.ok_or(DialError::Unreachable("whoever is there is no head".into()))?);
                    return Ok(());
                }
                Heard::Session(_) | Heard::Frame(_) => {}
            }
        }
        Err(DialError::Wordless)
    }

    fn opened(&self, id: ActorId) -> bool {
        self.session.as_ref().is_some_and(|session| session.get_id() == id)
    }

    /// Ends the connection, if there is one, also in the middle of its handshake.
    pub fn hang_up(&mut self) {
        self.head = None;
        if let Some(session) = self.session.take() {
            session.stop(None);
        }
    }

    /// Whether this is the connection that has ended.
    pub fn is_mine(&self, id: ActorId) -> bool {
        self.head.is_some() && self.opened(id)
    }

    /// The next thing heard; `None` never comes while the peer lives.
    pub async fn hear(&mut self) -> Option<Heard> {
        self.inbox.recv().await
    }

    /// Says something to the head. That it is said does not mean that it arrives.
    ///
    /// # Errors
    /// It is too long.
    pub fn say<T: Serialize>(&self, epoch: u64, what: &T, limit: usize) -> Result<(), WireError> {
        self.say_frame(wire::seal(self.key, epoch, what, limit)?);
        Ok(())
    }

    /// Bytes as they are.
    pub fn say_frame(&self, frame: Frame) {
        if let Some(head) = &self.head {
            let _ = head.send_message(frame);
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.hang_up();
        self.gateway.stop(None);
        self.server.stop(None);
    }
}
