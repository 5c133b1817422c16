//! Several hosts as network namespaces of this one: a bridge here, where the head listens, and a namespace for each node.
//!
//! Needs the superuser and `ip`; skipped with the reason where there are none. Delay and loss are in `bad_line`.

use std::process::Command;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::lab::{self, BEAT, COOKIE, Lab, Node, silent_ms, wait_for};
use crate::{ledger, skip};

/// A bridge and namespaces on it; gone when it is dropped. `subnet` keeps tests apart.
struct Net {
    subnet: u8,
    hosts: u8,
}

fn ip(args: &str) -> Result<(), String> {
    let out = Command::new("ip").args(args.split_whitespace()).output().map_err(|e| format!("ip: {e}"))?;
    if out.status.success() {
        Ok(())
    } else {
        Err(format!("ip {args}: {}", String::from_utf8_lossy(&out.stderr).trim()))
    }
}

impl Net {
    /// `None`, with the reason on stderr, where this machine does not allow it.
    fn new(subnet: u8, hosts: u8) -> Option<Net> {
        let net = Net { subnet, hosts };
        net.clear();
        match net.build() {
            Ok(()) => Some(net),
            Err(reason) => {
                skip::skipped(skip::Need::Namespaces, format!("no network namespaces here ({reason})"));
                None
            }
        }
    }

    fn build(&self) -> Result<(), String> {
        let Net { subnet: s, hosts } = *self;
        ip(&format!("link add trb{s} type bridge"))?;
        ip(&format!("addr add 10.199.{s}.1/24 dev trb{s}"))?;
        ip(&format!("link set trb{s} up"))?;
        for h in 2..2 + hosts {
            ip(&format!("netns add trn{s}x{h}"))?;
            ip(&format!("link add trv{s}x{h} type veth peer name eth0 netns trn{s}x{h}"))?;
            ip(&format!("link set trv{s}x{h} master trb{s} up"))?;
            ip(&format!("-n trn{s}x{h} addr add 10.199.{s}.{h}/24 dev eth0"))?;
            ip(&format!("-n trn{s}x{h} link set eth0 up"))?;
            ip(&format!("-n trn{s}x{h} link set lo up"))?;
        }
        Ok(())
    }

    fn clear(&self) {
        for h in 2..2 + self.hosts {
            let _ = ip(&format!("netns del trn{}x{h}", self.subnet));
            let _ = ip(&format!("link del trv{}x{h}", self.subnet));
        }
        let _ = ip(&format!("link del trb{}", self.subnet));
    }

    fn head(&self) -> String {
        format!("10.199.{}.1", self.subnet)
    }

    /// Executors in their namespace.
    fn join(&self, h: u8, address: &str, workers: u32) -> Node {
        self.enter(h, address, "executor", workers)
    }

    /// A node in its namespace.
    fn enter(&self, h: u8, address: &str, role: &str, workers: u32) -> Node {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("trn{}x{h}", self.subnet), env!("CARGO_BIN_EXE_troupe")]);
        command.args(["join", address, "--role", role, "--name", &format!("host-{h}")]);
        command.args(["--workers", &workers.to_string(), "--set", "cluster.reconnect_pause_ms=500"]);
        command.current_dir(std::env::temp_dir()).env("TROUPE_COOKIE", COOKIE).env_remove("RUST_LOG");
        command.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        Node::start(command)
    }

    /// Pulls a host's cable, or plugs it in.
    fn cable(&self, h: u8, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        ip(&format!("link set trv{}x{h} {state}", self.subnet)).unwrap();
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The whole actor graph with a real (tiny) policy, trained and evaluated: on one machine, then over four hosts, the head with the
/// learner, two with executors, and one with the only generator. Synchronous, so that even the weights have to be the same to the bit.
#[test]
fn a_run_over_four_hosts_ends_as_on_one_machine() {
    let _alone = lab::alone();
    let dir = tempfile::tempdir().unwrap();
    let alone = ledger::run(&dir.path().join("here"), |_| {}, |_, _| 2);
    assert!(alone.endings["trained"] > 0 && alone.faults.is_empty(), "{alone:?}");
    let Some(net) = Net::new(11, 3) else { return };
    let mut hosts = Vec::new();
    let (note, notes) = channel();
    let mut head = None;
    let over = ledger::run(
        &dir.path().join("there"),
        |_| {},
        |rig, crew| {
            let address = format!("{}:{}", net.head(), lab::ports());
            let tasks = rig.entries().iter().map(|entry| (*entry.spec).clone()).collect();
            let generating = Some((ledger::generating(rig, 0), rig.policy.as_path()));
            let started = lab::head_that(&address, BEAT, 5, 1, note, tasks, generating);
            crew.cluster = Some(started.link());
            hosts = (2..4).map(|h| net.join(h, &address, 2)).collect();
            // Before anything is sampled: a run of a second would be over without one that starts slowly.
            let ready = || started.rows().iter().filter(|row| row.state == "ready").count() == 2;
            wait_for("both hosts are there", || ready().then_some(()));
            hosts.push(net.enter(4, &address, "generator", 16));
            head = Some(started);
            0
        },
    );
    let head = head.unwrap();
    let done: Vec<(String, u64)> = head.rows().into_iter().map(|row| (row.name, row.done)).collect();
    println!("done by {done:?}; {over:?}");
    head.finish(true);
    assert_eq!(over, alone);
    assert!(done.len() == 3 && done.iter().all(|(_, n)| *n > 0), "all hosts took part: {done:?}");
    assert!(notes.try_iter().all(|note| !note.contains("lost")));
    for host in hosts {
        assert_eq!(host.end().0, Some(0));
    }
}

/// A cable is pulled for 30 s: no reset, no word.
#[test]
fn a_partition_is_noticed_and_healed() {
    let Some(net) = Net::new(12, 2) else { return };
    let lab: Lab = lab::lab_at(&net.head(), BEAT, 100);
    let _hosts: Vec<Node> = (2..4).map(|h| net.join(h, &lab.address, 2)).collect();
    lab.ready(2);
    lab.give(0..200, 1);
    wait_for("both work", || (lab.load().busy == 4).then_some(()));
    let began = Instant::now();
    net.cable(2, false);
    let silent = silent_ms(&lab.note("node host-2 is silent"));
    let suspected = began.elapsed().as_millis();
    let dead = silent_ms(&lab.note("node host-2 is lost"));
    let lost = began.elapsed().as_millis();
    let faults = lab.all_of(0..200, 0);
    assert!((1..=2).contains(&faults["F123"]) && faults.len() == 1, "{faults:?}");
    std::thread::sleep(Duration::from_secs(30).saturating_sub(began.elapsed()));
    let began = Instant::now();
    net.cable(2, true);
    lab.note("node host-2 joined with 2 executors");
    let back = began.elapsed().as_millis();
    println!(
        "cable pulled: suspected after {suspected} ms, lost after {lost} ms; back {back} ms after it was plugged in"
    );
    assert!(silent >= Some(2900) && dead >= Some(4900), "{silent:?} ms, {dead:?} ms: before the time was over");
    lab.give(100..110, 1);
    assert_eq!(lab.all_of(100..110, 0).len(), 0);
}
