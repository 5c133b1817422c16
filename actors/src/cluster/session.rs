//! What ractor_cluster tells about its connections, as events; and the names under which processes know each other.

use ractor::{ActorId, ActorRef};
use ractor_cluster::node::NodeServerSessionInformation;
use ractor_cluster::{NodeEventSubscription, NodeSessionMessage};

use super::wire::NodeKey;

/// One connection's life.
#[derive(Clone, Debug)]
pub enum SessionEvent {
    /// Somebody connected, or we have dialled, and nothing is proved yet.
    Opened { id: ActorId, session: ActorRef<NodeSessionMessage>, from: String, dialled: bool },
    /// The cookie is proved.
    Authenticated { id: ActorId, session: ActorRef<NodeSessionMessage>, key: Option<NodeKey> },
    /// Both know each other's gateways.
    Ready { id: ActorId },
    /// It has ended.
    Gone { id: ActorId, key: Option<NodeKey>, from: String },
}

/// Under which name a process shows itself to ractor_cluster.
pub fn node_name(key: NodeKey) -> String {
    format!("{key:032x}")
}

fn key_of(session: &NodeServerSessionInformation) -> Option<NodeKey> {
    let name = &session.peer_name.as_ref()?.name;
    NodeKey::from_str_radix(name.split_once('@')?.0, 16).ok()
}

/// Hands events on.
pub struct Watcher<F: Fn(SessionEvent) + Send + 'static>(pub F);

impl<F: Fn(SessionEvent) + Send + 'static> NodeEventSubscription for Watcher<F> {
    fn node_session_opened(&self, ses: NodeServerSessionInformation) {
        let (id, dialled) = (ses.actor.get_id(), !ses.is_server);
        (self.0)(SessionEvent::Opened { id, session: ses.actor, from: ses.peer_addr, dialled });
    }

    fn node_session_disconnected(&self, ses: NodeServerSessionInformation) {
        (self.0)(SessionEvent::Gone { id: ses.actor.get_id(), key: key_of(&ses), from: ses.peer_addr });
    }

    fn node_session_authenticated(&self, ses: NodeServerSessionInformation) {
        let key = key_of(&ses);
        (self.0)(SessionEvent::Authenticated { id: ses.actor.get_id(), session: ses.actor, key });
    }

    fn node_session_ready(&self, ses: NodeServerSessionInformation) {
        (self.0)(SessionEvent::Ready { id: ses.actor.get_id() });
    }
}
