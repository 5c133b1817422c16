//! A node on another host, as a command line of this machine's `ssh`.
//!
//! The node is tied to it: the first line of its stdin is the cookie, and when stdin ends, because the launcher ended or the
//! connection broke, the node leaves. Nothing secret is on a command line, and no file is left on the host.

use std::process::Command;

use super::plan::{Part, Place};
use crate::config::Config;
use crate::errors::UserError;

/// Seconds: to connect, and without a word before the connection counts as broken.
const CONNECT_S: u32 = 10;
const ALIVE_S: u32 = 5;
const ALIVE_TIMES: u32 = 3;

/// The arguments of `ssh` for a part on a host.
///
/// # Errors
/// A text that no shell can be given.
pub fn args(config: &Config, part: &Part) -> Result<Vec<String>, UserError> {
    let launch = &config.launch;
    let host = match &part.place {
        Place::Host(host) => host.clone(),
        _ => String::new(),
    };
    let mut args: Vec<String> = vec!["-T".into()];
    if let Some(file) = launch.ssh_config_path() {
        args.extend(["-F".into(), file.display().to_string()]);
    }
    for option in [
        "BatchMode=yes".to_string(),
        format!("ConnectTimeout={CONNECT_S}"),
        format!("ServerAliveInterval={ALIVE_S}"),
        format!("ServerAliveCountMax={ALIVE_TIMES}"),
        // A connection that is shared with others would outlive us.
        "ControlMaster=no".into(),
        "ControlPath=none".into(),
        "ExitOnForwardFailure=yes".into(),
    ] {
        args.extend(["-o".into(), option]);
    }
    if let (true, Some((_, port))) = (launch.ssh_tunnel, config.cluster.endpoint()) {
        let here = config.cluster.here();
        let target = here.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host);
        for port in [port, config.cluster.side_port()] {
            args.extend(["-R".into(), format!("127.0.0.1:{port}:{target}:{port}")]);
        }
    }
    args.extend(["--".into(), host, remote(&launch.ssh_workdir, part)?]);
    Ok(args)
}

/// What the host's shell is told.
fn remote(workdir: &str, part: &Part) -> Result<String, UserError> {
    let words = std::iter::once(part.program.as_str()).chain(part.args.iter().map(String::as_str));
    let join = |words: Vec<&str>| {
        shlex::try_join(words).map_err(|e| {
            UserError::new("this cannot be said to another machine's shell")
                .at(&part.name)
                .found(e)
                .expected("texts without NUL")
        })
    };
    let run = format!("exec {}", join(words.collect())?);
    Ok(if workdir.is_empty() { run } else { format!("cd {} && {run}", join(vec![workdir])?) })
}

/// As a person would type it.
///
/// # Errors
/// As [`args`].
pub fn shown(config: &Config, part: &Part) -> Result<String, UserError> {
    let args = args(config, part)?;
    let words = std::iter::once("ssh").chain(args.iter().map(String::as_str));
    Ok(shlex::try_join(words).unwrap_or_default())
}

/// The process to start here.
///
/// # Errors
/// As [`args`].
pub fn command(config: &Config, part: &Part) -> Result<Command, UserError> {
    let mut command = Command::new("ssh");
    command.args(args(config, part)?);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::super::plan::Role;
    use super::*;

    fn part() -> Part {
        Part {
            name: "executor@h".into(),
            role: Role::Executor,
            place: Place::Host("me@h".into()),
            count: 1,
            program: "/opt/my tools/troupe".into(),
            args: vec!["join".into(), "it's:1".into()],
            gpus: 0,
            cpus: 0,
            mem_mb: 0,
        }
    }

    #[test]
    fn the_hosts_shell_gets_every_word_whole() {
        let config = Config::load(&[], &["launch.ssh_workdir=/a b".into()]).unwrap();
        let args = args(&config, &part()).unwrap();
        let told = args.last().unwrap();
        assert_eq!(args[args.len() - 3..args.len() - 1], ["--", "me@h"]);
        let heard = shlex::split(told).unwrap();
        assert_eq!(heard, ["cd", "/a b", "&&", "exec", "/opt/my tools/troupe", "join", "it's:1"]);
        assert!(!args.iter().any(|a| a == "-R"));
    }

    #[test]
    fn a_tunnel_carries_both_ports() {
        let sets = ["launch.ssh_tunnel=true", "cluster.listen=0.0.0.0:7000", "cluster.bulk_port=7100"];
        let config = Config::load(&[], &sets.map(String::from)).unwrap();
        let args = args(&config, &part()).unwrap().join(" ");
        assert!(args.contains("-R 127.0.0.1:7000:127.0.0.1:7000 -R 127.0.0.1:7100:127.0.0.1:7100"), "{args}");
    }
}
