//! `troupe launch slurm` on a real Slurm: submitted, grown, stopped by the signal before a time limit, resumed, cancelled.

use std::process::Command;

use serde_json::Value;

use crate::cli_common::{Got, Place, got};
use crate::field::{self, command, gone, passed, summary, wait_for};
use crate::slurm_lab::{Slurm, job_logs};

struct Lab {
    slurm: Slurm,
    place: Place,
}

impl Lab {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = command(&self.place, args);
        command.env("SLURM_CONF", self.slurm.config());
        command
    }

    fn troupe(&self, args: &[&str]) -> Got {
        println!("$ troupe {}", args.join(" "));
        let got = got(self.command(args));
        print!("{}{}", got.out, got.err);
        got
    }

    fn queue(&self) -> String {
        self.slurm.tool("squeue", &["--noheader", "--array", "--format=%i %j %T"]).unwrap_or_else(|e| e)
    }

    fn logs(&self) -> String {
        job_logs(&self.place.path().join("r/launch"))
    }

    /// Until no job is left.
    #[track_caller]
    fn over(&self) {
        wait_for("all jobs to end", || match self.queue() {
            none if none.trim().is_empty() => Ok(()),
            some => Err(format!("{some}\n{}\n{}", self.logs(), self.slurm.logs())),
        });
    }

    /// The nodes that the head knows.
    fn nodes(&self) -> Vec<Value> {
        let Ok(head) = std::fs::read_to_string(self.place.path().join("r/launch/head.address")) else {
            return Vec::new();
        };
        let args = ["nodes", "--json", "--head", head.trim(), "-c", "r/launch/cluster.toml"];
        let got = got(self.command(&args));
        serde_json::from_str(&got.out).unwrap_or_default()
    }

    /// Until so many nodes have evaluated something.
    #[track_caller]
    fn worked(&self, count: usize) {
        wait_for("nodes to work", || {
            let nodes = self.nodes();
            let done = |n: &Value| n["done"].as_u64().unwrap_or(0);
            match nodes.iter().filter(|n| done(n) > 0).count() >= count {
                true => {
                    for n in &nodes {
                        println!("node {} {} done {}", n["name"], n["state"], done(n));
                    }
                    Ok(())
                }
                false => Err(format!("{nodes:?}\n{}\n{}", self.queue(), self.logs())),
            }
        });
    }
}

fn lab(more: &str) -> Option<Lab> {
    let slurm = match Slurm::start() {
        Ok(slurm) => slurm,
        Err(reason) => {
            crate::skip::skipped(crate::skip::Need::Slurm, reason);
            return None;
        }
    };
    Some(Lab { place: field::place(more)?, slurm })
}

/// One that nobody has, and nobody has the next one either, for the side channel.
fn free_port() -> u16 {
    loop {
        let first = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX && std::net::TcpListener::bind(("0.0.0.0", port + 1)).is_ok() {
            return port;
        }
    }
}

#[test]
fn a_run_in_slurm_grows_and_ends() {
    let _alone = field::alone();
    let Some(lab) = lab("[run]\nsteps = 120\n[launch]\nexecutors = 1\nworkers = 1\nslurm_time = \"30\"") else {
        return;
    };
    let listen = format!("cluster.listen=0.0.0.0:{}", free_port());
    let got = lab.troupe(&["launch", "slurm", "--run-dir", "r", "--set", &listen]);
    assert_eq!(got.succeeds().out.lines().count(), 2, "{}", got.out);
    lab.worked(1);
    println!("{}", lab.queue());
    let secret = std::fs::read_to_string(lab.place.path().join("r/launch/cookie")).unwrap();
    assert!(field::processes(&secret).is_empty(), "the cookie can be seen");
    lab.troupe(&["launch", "slurm", "--grow", "1", "--run-dir", "r"]).succeeds();
    lab.worked(2);
    println!("{}", lab.queue());
    lab.over();
    print!("{}", lab.logs());
    assert_eq!(summary(&lab.place, "r").unwrap(), (120, false), "{}", lab.logs());
    let count = passed(&lab.place, "r");
    println!("{count} answers passed, all on executors that Slurm started");
    assert!(count >= 480, "{count}");
    // The head is gone: there is nothing to grow.
    let late = lab.troupe(&["launch", "slurm", "--grow", "1", "--run-dir", "r"]);
    late.fails(2, &["no job of Slurm's any more", "--resume"]);
    gone(lab.place.path().to_str().unwrap());
}

/// Ignored: Slurm's time limits are whole minutes, and this takes four of them.
#[test]
#[ignore = "takes four minutes; run it with `--ignored`"]
fn a_time_limit_and_a_cancelled_job_leave_a_checkpoint() {
    let _alone = field::alone();
    let Some(lab) = lab("[run]\nsteps = 400\n[launch]\nworkers = 1\nstop_s = 60") else { return };
    let listen = format!("cluster.listen=0.0.0.0:{}", free_port());
    // The signal comes 60 s before the end, and up to a minute earlier.
    let args = ["launch", "slurm", "--run-dir", "r", "--set", &listen, "--set", "launch.slurm_time=3"];
    lab.troupe(&args).succeeds();
    lab.worked(1);
    lab.over();
    let (steps, interrupted) = summary(&lab.place, "r").unwrap_or_else(|| panic!("{}", lab.logs()));
    println!("the time limit's signal came after {steps} steps");
    assert!(interrupted && steps < 400, "{}", lab.logs());
    lab.troupe(&["launch", "slurm", "--resume", "r", "--set", "launch.slurm_time=30"]).succeeds();
    lab.worked(1);
    let text = std::fs::read_to_string(lab.place.path().join("r/launch/slurm.json")).unwrap();
    let jobs: Value = serde_json::from_str(&text).unwrap();
    lab.slurm.tool("scancel", &[&jobs["head"].to_string()]).unwrap();
    wait_for("the head to end", || match lab.slurm.tool("squeue", &["--noheader", "--name=troupe-head"]) {
        Ok(none) if none.trim().is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let (later, interrupted) = summary(&lab.place, "r").unwrap();
    println!("cancelled after {later} steps: {}", lab.queue());
    assert!(interrupted && later >= steps, "{}", lab.logs());
    print!("{}", lab.logs());
}
