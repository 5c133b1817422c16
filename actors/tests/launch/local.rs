//! `troupe launch local`: a real run, and what may happen to it.

use std::os::unix::fs::PermissionsExt as _;

use rustix::process::Signal;

use crate::cli_common::Running;
use crate::field::{self, PATIENCE, command, gone, passed, process, signal, summary};

/// The head samples nothing and evaluates nothing: both are other processes. A node of each role is killed and comes back; Ctrl-C leaves a checkpoint and no process; the launcher is killed and nothing outlives it; the run
/// goes on each time and ends.
#[test]
fn a_local_launch_outlives_its_accidents_and_nothing_outlives_it() {
    let _alone = field::alone();
    let Some(place) = field::place(
        "[launch]\nworkers = 1\nexecutors = 2\ngenerators = 1\n[generator]\nhere = false\n[run]\nsteps = 60",
    ) else {
        return;
    };
    let mark = place.path().to_str().unwrap().to_string();
    let mut running = Running::start(command(&place, &["launch", "local", "--run-dir", "r"]), PATIENCE);
    running.wait_for("head         | step    1");
    let cookie = place.path().join("r/launch/cookie");
    assert_eq!(std::fs::metadata(&cookie).unwrap().permissions().mode() & 0o777, 0o600);
    let secret = std::fs::read_to_string(&cookie).unwrap();
    assert!(field::processes(&secret).is_empty(), "the cookie can be seen");
    // A node is killed. Its group goes with it, and another takes its name.
    signal(process(&mark, "--name executor-1"), Signal::KILL);
    running.wait_for("executor-1 ended (signal: 9");
    running.wait_for("executor-1   | joined");
    signal(process(&mark, "--name generator-1"), Signal::KILL);
    running.wait_for("generator-1 ended (signal: 9");
    running.wait_for("generator-1  | joined");
    running.wait_for("head         | step ");
    signal(running.pid() as i32, Signal::INT);
    let got = running.end();
    got.fails(130, &["stopping: the head has", "head         | stopped", "launch local --resume"]);
    gone(&mark);
    let (steps, interrupted) = summary(&place, "r").unwrap();
    assert!(interrupted && (1..60).contains(&steps), "{steps}");
    println!("interrupted after {steps} steps, {} passed", passed(&place, "r"));

    // The launcher is killed: head and nodes are tied to it, and the head writes a checkpoint.
    let mut running = Running::start(command(&place, &["launch", "local", "--resume", "r"]), PATIENCE);
    running.wait_for("head         | step ");
    signal(running.pid() as i32, Signal::KILL);
    gone(&mark);
    let (later, interrupted) = summary(&place, "r").unwrap();
    assert!(interrupted && (steps + 1..60).contains(&later), "{later}");
    drop(running);

    let args = ["launch", "local", "--resume", "r", "--set", "launch.executors=1"];
    let got = Running::start(command(&place, &args), PATIENCE).end();
    got.succeeds();
    assert!(got.out.contains("steps      60 (policy 60)"), "{}", got.out);
    assert!(!got.err.contains("executor-2"), "{}", got.err);
    gone(&mark);
    assert_eq!(summary(&place, "r").unwrap(), (60, false));
    let count = passed(&place, "r");
    println!("after both: {later} steps before the last start, {count} passed in all");
    assert!(count >= 240, "every answer of 60 steps was executed by a node: {count}");
}

/// Nodes that cannot live are given up, and a head that nobody evaluates for is not left to wait.
#[test]
fn a_launch_without_a_living_node_ends() {
    let _alone = field::alone();
    let Some(place) = field::place("[launch]\nrestarts = 1\n[cluster]\nreconnect_s = 1") else { return };
    // No head within a second: it is still at its warm start.
    let args = ["launch", "local", "--run-dir", "r", "--set", "sft.epochs=100000"];
    let got = Running::start(command(&place, &args), PATIENCE).end();
    got.fails(
        3,
        &[
            "executor-1 ended",
            "is given up after 1 restarts in a row",
            "no node is left",
            "every executor node was given up",
        ],
    );
    gone(place.path().to_str().unwrap());
}
