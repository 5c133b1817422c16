//! actors: the shells around the pure core. Each takes one kind of command and returns one kind of event; which event
//! leads to which command is decided in `rollout::machine`, never here.
//!
//! Reading order: `wiring` (the graph), `orchestrator`, `generator`, `judge`, `executor`, `learner`, `store`, `session`, `run`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod batch;
pub mod bench;
pub mod cluster;
pub mod codec;
pub mod crew;
pub mod cuda;
pub mod dashboard;
pub mod driver;
pub mod dump;
pub mod eval;
pub mod executor;
pub mod export;
pub mod fleet;
mod flow;
pub mod generator;
pub mod http;
pub mod inspect;
pub mod judge;
pub mod launch;
pub mod learner;
pub mod llm_judge;
pub mod logbook;
pub mod mailbox;
mod meters;
pub mod observe;
pub mod openai;
pub mod orchestrator;
pub mod outbox;
pub mod policy;
pub mod pool;
pub mod resume;
pub mod run;
mod run_dir;
pub mod scaling;
pub mod session;
pub mod sft;
pub mod stalls;
pub mod stop;
pub mod store;
pub mod summary;
pub mod supervise;
pub mod verdicts;
pub mod watch;
pub mod wiring;

// The command line's side.
pub mod cli;
pub mod config;
pub mod errors;
pub mod progress;
pub mod prompt;
pub mod tasks;
