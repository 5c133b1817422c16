//! The cluster: executors and generators of other machines join a run, and leave it, while it goes on (docs/cluster.md).
//!
//! ```text
//!   head: troupe run                                              node: troupe join HOST:PORT --role executor
//!   pool <-- RemoteMsg -- head gateway == ractor_cluster, TCP == node gateway --> node loop --> pool --> executors
//!     +--- HeadMsg::Execute --^  |        heartbeats, errands,                      |
//!                           roster        answers: < 64 KiB                         |
//!                             side channel (HTTP, bulk_port) <-- kit, long ones ----+
//! ```
//!
//! Reading order: `wire` (what is said), `batch` (what goes out together), `roster` (who is alive, whose errand is whose; pure), `head`, `node`, `kit` (what a node
//! evaluates with), `shelf`, `lent`, `bulk`, `guests`, `pace` and `fetch` (the side channel), `crowd` and `strangers` (who has proved nothing yet), `peer`
//! (a connection to a head), `operator`.
//! A node's executors are members of the head's pool (`pool::remote`), so that queue, verdict reuse, leases, attempts and faults
//! are the same as for executors of its own. A node's generator is one of the head's fleet (`crate::fleet`): the same picture with `fleet` for
//! pool, `recipe` for kit, and `weights` on the side channel. One gateway a process is remotable; everything else is local.

use ractor::{ActorCell, ActorId, pg};

mod batch;
pub mod bulk;
pub mod cookie;
mod cookie_source;
mod crowd;
pub mod fetch;
pub mod guests;
pub mod head;
pub mod kit;
mod lent;
pub mod link;
pub mod node;
pub mod operator;
mod pace;
pub mod peer;
pub mod recipe;
pub mod roster;
pub mod session;
pub mod shelf;
mod strangers;
pub mod tls;
pub mod weights;
pub mod wire;

pub use cookie::Cookie;
pub use head::{Head, HeadConfig};
pub use kit::Kit;
pub use link::Link;

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
