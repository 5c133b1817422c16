//! The command line: what a user types becomes a call, an answer becomes text or JSON and an exit code.
//!
//! Data goes to stdout, talk to stderr. Exit codes: 0 done and good, 1 done and the answer is "no", 2 usage or
//! configuration, 3 a fault of ours, 130 interrupted.

mod args;
mod args_cluster;
mod args_launch;
mod args_node;
mod args_view;
pub(crate) mod arithmetic;
mod bench;
mod bench_cluster;
mod bench_cluster_drills;
mod bench_cluster_peer;
mod bench_device;
mod bench_generator;
mod bench_inspect;
mod bench_learner;
mod bench_verifier;
mod dashboard;
mod doctor;
mod explain;
mod export;
mod failure;
mod interrupt;
mod join;
mod launch;
mod lint;
mod nodes;
mod output;
mod pyenv;
mod rollouts;
mod run;
mod sft;
pub(crate) mod show;
mod source;
mod verify;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;

use crate::config::scope;
use crate::errors::UserError;

pub use args::Cli;
use args::Command;
#[cfg(test)]
pub(crate) use launch::knows_generators;
pub(crate) use verify::printable;

/// What a command that did its work found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Yes,
    No,
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    User(#[from] UserError),
    /// Ours.
    #[error("{code}: {message}")]
    Fault { code: String, message: String },
    /// Ours too, and no page of its own.
    #[error("{0}")]
    Broken(String),
    #[error("interrupted")]
    Interrupted,
    /// A process of ours ended with this code and has said why.
    #[error("exit code {0}")]
    Told(u8),
    /// Whoever read our output went away: nothing is wrong.
    #[error("output closed")]
    Closed,
}

impl Failure {
    /// The one table of exit codes. A full disk is nobody's slip, wherever it is met.
    fn exit_code(&self) -> u8 {
        match self {
            Failure::User(e) if e.disk_full => 3,
            Failure::User(_) => 2,
            Failure::Fault { .. } | Failure::Broken(_) => 3,
            Failure::Interrupted => 130,
            Failure::Told(code) => *code,
            Failure::Closed => 0,
        }
    }

    fn fault(code: impl Into<String>, message: impl std::fmt::Display) -> Failure {
        Failure::Fault { code: code.into(), message: message.to_string() }
    }
}

impl From<rollout::outcome::Fault> for Failure {
    fn from(fault: rollout::outcome::Fault) -> Failure {
        Failure::Fault { code: fault.code, message: fault.message }
    }
}

type Done = Result<Answer, Failure>;

/// Parses the arguments of this process and does what they say.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log();
    let code = match dispatch(cli) {
        Ok(Answer::Yes) => 0,
        Ok(Answer::No) => 1,
        Err(failure) => {
            output::complain(&failure);
            failure.exit_code()
        }
    };
    ExitCode::from(code)
}

fn dispatch(cli: Cli) -> Done {
    match cli.command {
        Command::Run(args) => {
            scope::RUN.require(&args.config.sets)?;
            run::run(args)
        }
        Command::Resume(args) => run::resume(args),
        Command::Sft(args) => {
            scope::SFT.require(&args.config.sets)?;
            sft::sft(args)
        }
        Command::Verify(args) => {
            scope::VERIFY.require(&args.config.sets)?;
            verify::verify(args)
        }
        Command::Lint(args) => lint::lint(args),
        Command::Rollouts(args) => rollouts::rollouts(args),
        Command::Dashboard(args) => dashboard::dashboard(args),
        Command::Watch(args) => watch::watch(args),
        Command::Export(args) => export::export(args),
        Command::Join(args) => {
            scope::JOIN.require(&args.config.sets)?;
            join::join(args)
        }
        Command::Nodes(args) => {
            scope::NODES.require(&args.head.config.sets)?;
            nodes::nodes(args)
        }
        Command::Drain(args) => {
            scope::DRAIN.require(&args.head.config.sets)?;
            nodes::drain(args)
        }
        Command::Launch(args) => launch::launch(args),
        Command::Doctor(args) => {
            scope::DOCTOR.require(&args.config.sets)?;
            doctor::doctor(args)
        }
        Command::Explain(args) => explain::explain(args),
        Command::Bench(args) => bench::bench(args),
    }
}

/// Diagnostics of the libraries, only when asked for with RUST_LOG.
fn start_log() {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
}

/// A runtime for the commands that wait for processes.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::Broken(format!("no runtime could be started: {e}")))
}
