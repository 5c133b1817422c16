//! The pool's side of other nodes: their executors become members when the head's gateway says so, and what they held is
//! faulted when it says that they are gone.

use ractor::{ActorRef, ActorStatus};

use super::PoolState;
use super::slots::{Hands, Slot};
use crate::cluster::head::HeadMsg;
use crate::cluster::wire::NodeKey;
use crate::executor::{ExecJob, ExecutedItem};
use crate::supervise::{NODE_LOST, fault};

/// The first number of a remote executor: far above `executor.workers_max`.
const FIRST: u32 = 1 << 16;

/// From the head's gateway.
#[derive(Debug)]
pub enum RemoteMsg {
    /// A node's executors are there.
    Attach { gateway: ActorRef<HeadMsg>, key: NodeKey, name: String, executors: u32 },
    /// No more jobs for the node for now, or again.
    Pause { key: NodeKey, paused: bool },
    /// No more jobs; tell the gateway when it has ended all it has.
    Leave { key: NodeKey },
    /// The node is gone.
    Detach { key: NodeKey, why: String },
    /// From a node's executors, by number.
    Done(Vec<(u32, ExecutedItem)>),
}

/// Whom to send jobs through.
#[derive(Default)]
pub(super) struct Remotes {
    gateway: Option<ActorRef<HeadMsg>>,
    next: u32,
    /// Told to leave, and not yet reported as idle.
    leaving: Vec<NodeKey>,
    names: Vec<(NodeKey, String)>,
}

impl Remotes {
    pub(super) fn names(&self) -> impl Iterator<Item = (NodeKey, &str)> {
        self.names.iter().map(|(key, name)| (*key, name.as_str()))
    }

    pub(super) fn name(&self, key: NodeKey) -> &str {
        self.names().find(|(known, _)| *known == key).map_or("a node", |(_, name)| name)
    }

    /// False where nobody is there to take jobs.
    pub(super) fn reachable(&self) -> bool {
        self.gateway.as_ref().is_some_and(|gateway| gateway.get_status() < ActorStatus::Stopping)
    }

    /// What a gateway has that dies now is faulted when it is found dead.
    pub(super) fn send(&self, key: NodeKey, jobs: Vec<(u32, ExecJob)>) {
        if let Some(gateway) = &self.gateway {
            let _ = gateway.cast(HeadMsg::Execute { key, jobs });
        }
    }
}

impl PoolState {
    pub(super) fn remote(&mut self, message: RemoteMsg) {
        match message {
            RemoteMsg::Attach { gateway, key, name, executors } => {
                tracing::info!(node = name, executors, "a node's executors join the pool");
                // Nodes may find the next gateway before the end of the last one is seen here.
                if self.remote.gateway.as_ref().is_some_and(|known| known.get_id() != gateway.get_id()) {
                    self.lose_gateway();
                }
                self.remote.gateway = Some(gateway);
                self.args.logbook.happened(format!("node {name}"), "joined", format!("{executors} executors"));
                self.remote.names.retain(|(known, _)| *known != key);
                self.remote.names.push((key, name));
                for _ in 0..executors {
                    let number = FIRST + self.remote.next;
                    self.remote.next = (self.remote.next + 1) % (u32::MAX - FIRST);
                    self.slots.insert(number, Slot::of(Hands::Remote(key)));
                }
            }
            RemoteMsg::Pause { key, paused } => {
                self.node_happened(key, if paused { "silent" } else { "heard again" }, "");
                self.slots.values_mut().filter(|slot| slot.hands.of(key)).for_each(|slot| slot.paused = paused);
            }
            RemoteMsg::Leave { key } => {
                self.node_happened(key, "leaving", "ends what it has");
                self.slots.values_mut().filter(|slot| slot.hands.of(key)).for_each(|slot| slot.leaving = true);
                self.remote.leaving.push(key);
            }
            RemoteMsg::Detach { key, why } => {
                self.detach(|slot| slot.hands.of(key), &why);
                self.node_gone(key, &why);
            }
            RemoteMsg::Done(items) => items.into_iter().for_each(|(number, item)| self.done(number, item)),
        }
    }

    fn node_happened(&self, key: NodeKey, what: &str, detail: &str) {
        self.args.logbook.happened(format!("node {}", self.remote.name(key)), what, detail);
    }

    fn node_gone(&mut self, key: NodeKey, why: &str) {
        if self.remote.names().any(|(known, _)| known == key) {
            self.node_happened(key, "gone", why);
            self.remote.names.retain(|(known, _)| *known != key);
        }
    }

    fn detach(&mut self, gone: impl Fn(&Slot) -> bool, why: &str) {
        let numbers: Vec<u32> = self.slots.iter().filter(|(_, slot)| gone(slot)).map(|(number, _)| *number).collect();
        for number in numbers {
            if let Some(job) = self.slots.remove(&number).and_then(|slot| slot.job) {
                self.fail(job, &fault(NODE_LOST, why));
            }
        }
    }

    /// Members of nodes that leave go when their node has nothing under way; then the gateway may let it go.
    pub(super) fn release_idle_nodes(&mut self) {
        let slots = &mut self.slots;
        let gateway = &self.remote.gateway;
        let mut gone = Vec::new();
        self.remote.leaving.retain(|key| {
            if slots.values().any(|slot| slot.hands.of(*key) && slot.job.is_some()) {
                return true;
            }
            slots.retain(|_, slot| !slot.hands.of(*key));
            gone.push(*key);
            if let Some(gateway) = gateway {
                let _ = gateway.cast(HeadMsg::Idle { key: *key });
            }
            false
        });
        gone.into_iter().for_each(|key| self.node_gone(key, "it has ended what it had"));
    }

    /// A gateway that died took every node's errands with it; the next one has its nodes report again.
    pub(super) fn look_after_gateway(&mut self) {
        let dead = |gateway: &ActorRef<HeadMsg>| gateway.get_status() >= ActorStatus::Stopping;
        if self.remote.gateway.as_ref().is_some_and(dead) {
            self.lose_gateway();
        }
    }

    fn lose_gateway(&mut self) {
        self.remote.gateway = None;
        self.remote.leaving.clear();
        self.args.logbook.happened("gateway", "died", "every node reports again");
        self.remote.names.clear();
        self.detach(|slot| matches!(slot.hands, Hands::Remote(_)), "the head's gateway died");
    }
}
