//! The viewers: what they read of a store that is being written, of a real run, of a copy; what the dashboard's server
//! answers and to whom; that what a model wrote stays text.
#![allow(clippy::unwrap_used)]

#[path = "../cli_common/mod.rs"]
mod cli_common;
#[path = "../../examples/inspect_store/fixture.rs"]
mod fixture;
#[path = "../rig/mod.rs"]
mod rig;

mod commands;
mod foreign;
mod pages;
mod reading;
mod server;
