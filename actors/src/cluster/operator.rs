//! `troupe nodes` and `troupe drain`: an operator is a peer that asks and goes.

use std::time::{Duration, Instant};

use super::cookie::Cookie;
use super::peer::{DialError, Heard, Peer};
use super::session::SessionEvent;
use super::wire::{self, NodeRow, ToHead, ToNode, WireError};
use crate::errors::UserError;

/// One answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How often a drained node is looked for.
const LOOK: Duration = Duration::from_millis(300);
const LIMIT: usize = 64 * 1024;

/// A connection to a head.
pub struct Operator {
    peer: Peer,
    head: String,
}

/// What became of a node that was to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drained {
    Gone,
    /// It still works.
    Waiting,
    /// There is none; the names that there are.
    Unknown(Vec<String>),
}

impl Operator {
    /// # Errors
    /// No head, or not its cookie.
    pub async fn dial(head: &str, cookie: &Cookie) -> Result<Operator, UserError> {
        let complain = |found: String, expected: &str| {
            UserError::new("the head cannot be asked")
                .at(head)
                .found(found)
                .expected(expected)
                .hint("the address is the head's cluster.listen; the cookie is its cookie")
        };
        let mut peer = Peer::new(cookie).await.map_err(|e| complain(e, "a free port on the loopback"))?;
        match peer.connect(head).await {
            Ok(()) => Ok(Operator { peer, head: head.to_string() }),
            Err(error @ DialError::Refused) => Err(complain(error.to_string(), "the head's cookie")),
            Err(error) => Err(complain(error.to_string(), "a run with cluster.listen at this address")),
        }
    }

    async fn ask(&mut self, what: &ToHead) -> Result<ToNode, UserError> {
        let complain = |found: String| {
            UserError::new("the head does not answer")
                .at(&self.head)
                .found(found)
                .expected(format!("an answer within {} s", ANSWER.as_secs()))
                .hint("is it the same version of Troupe? `troupe --version` on both")
        };
        self.peer.say(0, what, LIMIT).map_err(|e| complain(e.to_string()))?;
        let answer = async {
            while let Some(heard) = self.peer.hear().await {
                match heard {
                    Heard::Frame(bytes) => match wire::open::<ToNode>(&bytes, LIMIT) {
                        Ok((_, answer)) => return Ok(answer),
                        Err(error @ WireError::Protocol { .. }) => return Err(error.to_string()),
                        Err(_) => {}
                    },
                    Heard::Session(SessionEvent::Gone { id, .. }) if self.peer.is_mine(id) => break,
                    Heard::Session(_) => {}
                }
            }
            Err("the connection ended".into())
        };
        let answer = tokio::time::timeout(ANSWER, answer).await.unwrap_or_else(|_| Err("silence".into()));
        answer.map_err(complain)
    }

    /// All nodes.
    ///
    /// # Errors
    /// The head does not answer.
    pub async fn nodes(&mut self) -> Result<Vec<NodeRow>, UserError> {
        let mut all: Vec<NodeRow> = Vec::new();
        loop {
            if let ToNode::Nodes { rows, last } = self.ask(&ToHead::List { from: all.len() as u32 }).await? {
                let stuck = rows.is_empty();
                all.extend(rows);
                if last || stuck {
                    return Ok(all);
                }
            }
        }
    }

    /// Has a node end what it has and leave; waits for that until `deadline`.
    ///
    /// # Errors
    /// The head does not answer.
    pub async fn drain(&mut self, name: &str, deadline: Duration) -> Result<Drained, UserError> {
        let until = Instant::now() + deadline;
        if let ToNode::Draining { found: false, names } = self.ask(&ToHead::Drain { name: name.into() }).await? {
            return Ok(Drained::Unknown(names));
        }
        loop {
            if !self.nodes().await?.iter().any(|row| row.name == name) {
                return Ok(Drained::Gone);
            }
            if Instant::now() >= until {
                return Ok(Drained::Waiting);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
