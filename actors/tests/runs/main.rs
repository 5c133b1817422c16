//! Whole runs, in this process and of the real program: the actor graph with a small policy, its generators and judges, what breaks
//! in them, and the command line as its users meet it.
//!
//! One program, not one a file: each would compile the policy's types anew.
#![allow(clippy::unwrap_used)]

#[path = "../cli_common/mod.rs"]
mod cli_common;
#[path = "../desk/mod.rs"]
mod desk;
#[path = "../endpoint/mod.rs"]
mod endpoint;
#[path = "../lab/mod.rs"]
mod lab;
#[path = "../rig/mod.rs"]
mod rig;
#[path = "../server/mod.rs"]
mod server;

mod bit_exact;
mod cli_errors;
mod cli_generator;
mod cli_kill;
mod cli_run;
mod cli_state;
mod cli_verify;
mod generation_gateway;
mod generation_reload;
mod generation_run;
mod generation_server;
mod kill;
mod llm_judge;
mod llm_judge_run;
mod plain_loop;
mod pool;
mod stop;
mod supervision;
mod verifier;
