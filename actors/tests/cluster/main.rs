//! The cluster as processes: a head in this one, nodes as `troupe join`, candidates whose verdict hangs on their text alone.

#![allow(clippy::unwrap_used)]

mod bad_line;
mod drills;
mod dump;
mod generators;
mod insiders;
mod lab;
mod ledger;
mod members;
mod namespaces;
#[path = "../rig/mod.rs"]
mod rig;
mod side;
#[path = "../skip/mod.rs"]
mod skip;
mod strangers;
mod tls;
mod whole;
