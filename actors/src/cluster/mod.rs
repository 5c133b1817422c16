//! The cluster: executors of other machines join a run, and leave it, while it goes on (docs/cluster.md).
//!
//! ```text
//!   head: troupe run                                              node: troupe join HOST:PORT --role executor
//!   pool <-- RemoteMsg -- head gateway == ractor_cluster, TCP == node gateway --> node loop --> pool --> executors
//!     +--- HeadMsg::Execute --^  |        heartbeats, errands,                      |
//!                           roster        answers: < 64 KiB                         |
//!                             side channel (HTTP, bulk_port) <-- kit, long ones ----+
//! ```
//!
//! Reading order: `wire` (what is said), `roster` (who is alive, whose errand is whose; pure), `head`, `node`, `kit` (what a node
//! evaluates with), `shelf`, `lent`, `bulk`, `guests` and `fetch` (the side channel), `strangers` (who has proved nothing yet), `peer`
//! (a connection to a head), `operator`.
//! A node's executors are members of the head's pool (`pool::remote`), so that queue, verdict reuse, leases, attempts and faults
//! are the same as for executors of its own. One gateway a process is remotable; everything else is local.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ractor::{ActorCell, ActorId, ActorRef, pg};

use crate::pool::PoolMsg;

pub mod bulk;
pub mod cookie;
mod cookie_source;
pub mod fetch;
pub mod guests;
pub mod head;
pub mod kit;
mod lent;
pub mod node;
pub mod operator;
pub mod peer;
pub mod roster;
pub mod session;
pub mod shelf;
mod strangers;
pub mod wire;

pub use cookie::Cookie;
pub use head::{Head, HeadConfig};
pub use kit::Kit;

/// The process group of heads' gateways.
const HEADS: &str = "troupe.head";

/// The process group of one node's or operator's gateway.
fn group_of(key: wire::NodeKey) -> String {
    format!("troupe.node.{key:032x}")
}

/// The other process's member of a group, over the newest connection: an older one may not have been cleared away yet.
fn newest(group: String) -> Option<ActorCell> {
    let newest = |cell: &ActorCell| match cell.get_id() {
        ActorId::Remote { node_id, .. } => Some(node_id),
        ActorId::Local(_) => None,
    };
    pg::get_members(&group).into_iter().filter(|cell| newest(cell).is_some()).max_by_key(newest)
}

/// How the head's gateway and the pool find each other: both may die and be replaced.
#[derive(Clone, Default)]
pub struct Link(Arc<Mutex<Ends>>);

#[derive(Default)]
struct Ends {
    pool: Option<ActorRef<PoolMsg>>,
    gateway: Option<ActorRef<head::HeadMsg>>,
}

impl Link {
    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pool has started.
    pub fn pool_is(&self, pool: &ActorRef<PoolMsg>) {
        let mut ends = self.ends();
        ends.pool = Some(pool.clone());
        if let Some(gateway) = &ends.gateway {
            let _ = gateway.cast(head::HeadMsg::Pool(pool.clone()));
        }
    }

    /// A gateway has started; the present pool.
    fn gateway_is(&self, gateway: &ActorRef<head::HeadMsg>) -> Option<ActorRef<PoolMsg>> {
        let mut ends = self.ends();
        ends.gateway = Some(gateway.clone());
        ends.pool.clone()
    }

    /// The present gateway.
    pub fn gateway(&self) -> Option<ActorRef<head::HeadMsg>> {
        self.ends().gateway.clone()
    }
}
