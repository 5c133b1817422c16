//! The parts of the cluster that read what others send, compiled from the files of `actors` alone: without network, model and store
//! a target is built in a minute.

#[path = "../../actors/src/cluster/bulk.rs"]
pub mod bulk;
#[path = "../../actors/src/cluster/cookie.rs"]
pub mod cookie;
#[path = "../../actors/src/cluster/guests.rs"]
pub mod guests;
#[path = "../../actors/src/cluster/roster.rs"]
pub mod roster;
#[path = "../../actors/src/cluster/shelf.rs"]
pub mod shelf;
#[path = "../../actors/src/cluster/wire.rs"]
pub mod wire;
