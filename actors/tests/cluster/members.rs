//! Joining, working, draining, leaving, and what an operator sees of it.

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::lab::{BEAT, COOKIE, Lab, Node, QUICK, lab, passes, source, wait_for};

fn troupe(lab: &Lab, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_troupe"));
    command.args(args).args(["--head", &lab.address]).env("TROUPE_COOKIE", COOKIE).stdin(Stdio::null());
    let out = command.current_dir(std::env::temp_dir()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

/// Prints the time from `troupe join` to the first verdict (the goal is 5 s; `troupe bench cluster` measures it). No Python is imported here.
#[test]
fn a_node_joins_a_running_job_and_answers() {
    let lab = lab(BEAT, 50);
    lab.give(0..4, 1);
    assert_eq!((lab.load().executors, lab.load().queued), (0, 4), "nobody is there");
    let began = Instant::now();
    let _node = lab.join("one", 2);
    let (_, _, verdict) = lab.ended.recv_timeout(Duration::from_secs(60)).unwrap();
    let took = began.elapsed();
    println!("from `troupe join` to the first verdict: {} ms", took.as_millis());
    assert!(verdict.is_ok(), "{verdict:?} after {took:?}");
    assert_eq!(lab.load().executors, 2);
}

/// Planted: `Act::Leave` is not passed to the pool and the node is dismissed at once. Seen: F123 for what it held.
#[test]
fn a_drained_node_loses_nothing_and_the_others_go_on() {
    let lab = lab(BEAT, 200);
    let (one, _two) = (lab.join("one", 2), lab.join("two", 2));
    lab.ready(2);
    lab.give(0..120, 1);
    wait_for("both work", || (lab.load().busy == 4).then_some(()));
    let (code, _, err) = troupe(&lab, &["drain", "one"]);
    assert_eq!(code, Some(0), "{err}");
    let (code, said) = one.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("joined") && said.contains("drained"), "{said}");
    let rows = lab.ready(1);
    assert_eq!((rows[0].name.as_str(), rows[0].executors), ("two", 2));
    assert_eq!(lab.all_of(0..120, 0).len(), 0, "no fault: nothing was lost");
}

#[test]
fn ctrl_c_at_a_node_ends_its_work_first() {
    let lab = lab(BEAT, 3000);
    let node = lab.join("one", 2);
    lab.ready(1);
    lab.give(0..2, 1);
    wait_for("it works", || (lab.load().busy == 2).then_some(()));
    node.signal("INT");
    let (code, said) = node.end();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(lab.all_of(0..2, 0).len(), 0);
}

#[test]
fn an_operator_sees_the_nodes_and_is_told_what_there_is() {
    let lab = lab(BEAT, 10);
    let _nodes = [lab.join("same", 1), lab.join("same", 3)];
    lab.ready(2);
    lab.give(0..9, 1);
    assert_eq!(lab.all_of(0..9, 0).len(), 0);
    let (code, out, err) = troupe(&lab, &["nodes", "--json"]);
    assert_eq!(code, Some(0), "{err}");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&out).unwrap();
    let mut names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["same", "same-2"], "names are unique");
    assert_eq!(rows.iter().map(|row| row["done"].as_u64().unwrap()).sum::<u64>(), 9);
    let (code, out, _) = troupe(&lab, &["nodes"]);
    assert!(code == Some(0) && out.lines().count() == 3 && out.contains("ready"), "{out}");
    let (code, _, err) = troupe(&lab, &["drain", "other"]);
    assert_eq!(code, Some(2));
    for part in ["no such node", "found:", "same-2", "hint:"] {
        assert!(err.contains(part), "{err}");
    }
}

#[test]
fn nodes_go_when_the_run_is_over() {
    let mut lab = lab(BEAT, 10);
    let node = lab.join("one", 1);
    lab.ready(1);
    lab.head.take().unwrap().finish(true);
    let (code, said) = node.end();
    assert_eq!((code, said.contains("the run is over")), (Some(0), true), "{said}");
}

/// The verdict is a function of the text: the test's own oracle and the nodes' stand-in agree, and both verdicts occur.
#[test]
fn the_stand_in_tells_texts_apart() {
    let passed = (0..40).filter(|n| passes(&source(*n, 0))).count();
    assert!((5..25).contains(&passed), "{passed}");
}

/// A tunnel takes connections in and ends them while its head is away. Should fail with (not tried): every handshake that ends counts as refused (as it was). then:
/// the node leaves with code 2.
#[test]
fn a_tunnel_whose_head_is_away_is_no_refusal() {
    let lab = lab(QUICK, 10);
    let tunnel = TcpListener::bind("127.0.0.1:0").unwrap();
    let through = tunnel.local_addr().unwrap().to_string();
    let (here, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let (flag, count, head) = (here.clone(), ended.clone(), lab.address.clone());
    std::thread::spawn(move || {
        for near in tunnel.incoming().flatten() {
            if !flag.load(Ordering::Relaxed) {
                count.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let far = TcpStream::connect(&head).unwrap();
            for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        }
    });
    let mut node = Node::start(lab.command_at(&through, "one", 1));
    wait_for("it tries again and again", || (ended.load(Ordering::Relaxed) >= 6).then_some(()));
    assert_eq!(node.0.try_wait().unwrap(), None, "it left");
    here.store(true, Ordering::Relaxed);
    lab.ready(1);
}
