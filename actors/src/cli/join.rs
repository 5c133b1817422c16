//! `troupe join`: this machine's executors, or its generator, work for a run of another one.

use std::sync::Arc;
use std::time::Duration;

use super::args_node::{JoinArgs, RoleArg};
use super::{Answer, Done, Failure, failure, output, run, runtime};
use crate::cluster::Cookie;
use crate::cluster::kit::Local;
use crate::cluster::node::{self, NodeArgs, NodeEnd, NodeError};
use crate::cluster::wire::Role;
use crate::errors::UserError;
use crate::observe::{Observer, Progress};
use crate::stop::StopToken;

/// A tied node that has been asked to leave ends what it has within this.
const LAST_WORK: Duration = Duration::from_secs(900);

/// A line for each thing worth one; a node has no screen of its own.
struct Lines;

impl Observer for Lines {
    fn on(&self, progress: Progress) {
        match progress {
            Progress::Note(text) => output::say(text),
            Progress::Fault { code, message } => output::say(format!("fault {code}: {message}")),
            _ => {}
        }
    }
}

/// # Errors
/// No `HOST:PORT`: nobody would ever answer there.
pub fn require_address(head: &str) -> Result<(), UserError> {
    let port =
        head.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_some_and(|port| port != 0) {
        return Ok(());
    }
    Err(UserError::new("this is no address of a head")
        .at("HOST:PORT")
        .found(format!("{head:?}"))
        .expected("a host and a port from 1 to 65535, such as gpu1:7700")
        .hint("it is the head's `cluster.listen`"))
}

pub fn join(args: JoinArgs) -> Done {
    require_address(&args.head)?;
    let config = run::configuration(&args.config)?;
    let stop = run::signals()?;
    let cookie = if args.tied { tied(&stop)? } else { Cookie::find(&config.cluster)? };
    let node = NodeArgs {
        head: args.head,
        cookie,
        name: args.name.unwrap_or_else(host_name),
        role: match args.role {
            RoleArg::Executor => Role::Executor,
            RoleArg::Generator => Role::Generator,
        },
        executors: args.workers,
        local: Local { config, gpus: args.gpus },
        observer: run::dumper("node", None, Arc::new(Lines))?,
        stop,
    };
    let here = std::env::temp_dir();
    let runtime = runtime()?;
    let ended = runtime.block_on(node::run(node));
    // Its executors' Python processes end with the threads.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    match ended {
        Ok(NodeEnd::RunOver) => output::say("the run is over"),
        Ok(NodeEnd::Drained) => output::say("drained: nothing is left to do here"),
        Ok(NodeEnd::Stopped) => return Err(Failure::Interrupted),
        Err(NodeError::User(error)) => return Err(error.into()),
        Err(NodeError::Run(error)) => return Err(failure::of_run(error, &here)),
        Err(NodeError::Fault(fault)) => return Err(fault.into()),
    }
    Ok(Answer::Yes)
}

/// The cookie from stdin; the node leaves when stdin ends, and does not outlive it by more than a while.
fn tied(stop: &StopToken) -> Result<Cookie, Failure> {
    let complain = |found: String| {
        UserError::new("no cookie came in").at("stdin").found(found).expected("the cookie in the first line (--tied)")
    };
    let line = stop.on_stdin_end(true).map_err(|e| complain(e.to_string()))?.unwrap_or_default();
    let cookie = Cookie::new(&line).map_err(complain)?;
    let asked = stop.clone();
    std::thread::spawn(move || {
        while !asked.asked() {
            std::thread::sleep(Duration::from_millis(200));
        }
        std::thread::sleep(LAST_WORK);
        std::process::exit(130);
    });
    Ok(cookie)
}

/// What the node is called where nobody says otherwise.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "node".into() } else { name.to_string() }
}
