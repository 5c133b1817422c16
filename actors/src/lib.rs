//! actors: the shells around the pure core. Each takes one kind of command and returns one kind of event; which event
//! leads to which command is decided in `rollout::machine`, never here.
//!
//! Reading order: `wiring` (the graph), `orchestrator`, `generator`, `judge`, `executor`, `learner`, `store`, `run`.

pub mod codec;
pub mod store;

pub mod observe;

// The command line's side.
pub mod cli;
pub mod config;
pub mod errors;
pub mod progress;
pub mod prompt;
pub mod tasks;
