//! `troupe nodes` and `troupe drain`: who works for a run, and who is to leave.

use std::time::Duration;

use super::args_node::{DrainArgs, HeadArgs, NodesArgs};
use super::{Answer, Done, Failure, join, output, run, runtime};
use crate::cluster::Cookie;
use crate::cluster::operator::{Drained, Operator};
use crate::cluster::wire::{NodeRow, Role};
use crate::errors::UserError;

/// The head's address, and what opens it.
fn head(args: &HeadArgs) -> Result<(String, Cookie), Failure> {
    let config = run::configuration(&args.config)?;
    let cookie = Cookie::find(&config.cluster)?;
    if let Some(head) = &args.head {
        join::require_address(head)?;
        return Ok((head.clone(), cookie));
    }
    if config.cluster.listen.is_empty() {
        return Err(UserError::new("which head?")
            .found("no --head, cluster.listen = \"\"")
            .expected("the address of a run's cluster.listen")
            .hint("--head HOST:PORT, or -c with the head's run file")
            .into());
    }
    // Whoever listens everywhere listens here.
    Ok((config.cluster.here(), cookie))
}

pub fn nodes(args: NodesArgs) -> Done {
    let (head, cookie) = head(&args.head)?;
    let rows = runtime()?.block_on(async { Operator::dial(&head, &cookie).await?.nodes().await })?;
    if args.json {
        output::pretty_json(&rows)?;
    } else {
        output::line(table(&rows))?;
    }
    Ok(Answer::Yes)
}

pub fn drain(args: DrainArgs) -> Done {
    let (head, cookie) = head(&args.head)?;
    let limit = Duration::from_secs(args.wait_s);
    let drained =
        runtime()?.block_on(async { Operator::dial(&head, &cookie).await?.drain(&args.node, limit).await })?;
    match drained {
        Drained::Gone => {
            output::say(format!("{} has ended what it had and left", args.node));
            Ok(Answer::Yes)
        }
        Drained::Waiting => {
            output::say(format!("{} gets nothing more and still works on what it has", args.node));
            Ok(if args.wait_s == 0 { Answer::Yes } else { Answer::No })
        }
        Drained::Unknown(names) => Err(UserError::new("there is no such node")
            .at(head)
            .found(&args.node)
            .expected(if names.is_empty() { "a node; there is none".to_string() } else { names.join(", ") })
            .hint("`troupe nodes` lists them")
            .into()),
    }
}

fn table(rows: &[NodeRow]) -> String {
    let mut out = vec![format!(
        "{:<24} {:<9} {:<9} {:>6} {:>5} {:>8} {:>5} {:>9} {:>8}  {}",
        "node", "role", "state", "places", "busy", "done", "lost", "silent ms", "since s", "GPUs"
    )];
    out.extend(rows.iter().map(|r| {
        format!(
            "{:<24} {:<9} {:<9} {:>6} {:>5} {:>8} {:>5} {:>9} {:>8}  {}",
            r.name,
            match r.role {
                Role::Executor => "executor",
                Role::Generator => "generator",
            },
            r.state,
            r.executors,
            r.busy,
            r.done,
            r.lost,
            r.silent_ms,
            r.since_ms / 1000,
            r.gpus
        )
    }));
    out.join("\n")
}
