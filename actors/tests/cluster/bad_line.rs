//! Runs over a line with delay, loss and little bandwidth, at the level of packets (`bench::cluster::link`): TCP's own retransmission, on
//! both ports. Needs the superuser and a TUN device (or `tc netem`); skipped with the reason where there are none.
//!
//! A process is in one network namespace, so these tests start themselves once more at an end of the line.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use actors::bench::cluster::link::{Link, Shape};
use actors::cluster::Cookie;
use actors::cluster::bulk::serve;
use actors::cluster::fetch::Client;
use actors::cluster::shelf::Shelf;

use crate::lab::{self, BEAT, COOKIE, Node};
use crate::side::noise;
use crate::{ledger, skip};

/// What stands before a command so that it runs at the other end.
const FAR: &str = "TROUPE_TEST_FAR";
/// For all that one of these processes does.
const LIMIT: Duration = Duration::from_secs(400);
const PORT: u16 = 7440;

fn line(seed: u64) -> Option<Link> {
    match Link::new(Path::new(env!("CARGO_BIN_EXE_troupe")), seed) {
        Ok(link) => {
            println!("the line is {}", link.kind());
            Some(link)
        }
        Err(why) => {
            skip::skipped(skip::Need::Line, format!("no bad line can be made here ({why})"));
            None
        }
    }
}

/// This test once more, at that end; killed when it is dropped.
struct Again(Child);

impl Again {
    fn start(link: &Link, end: usize, test: &str) -> Again {
        let inside = link.inside(end);
        let mut command = Command::new(&inside[0]);
        command.args(&inside[1..]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", &format!("bad_line::{test}"), "--nocapture"]);
        command.env(FAR, link.inside(1).join(" ")).stdin(Stdio::piped());
        Again(command.spawn().unwrap())
    }

    fn passes(mut self) {
        let until = Instant::now() + LIMIT;
        loop {
            match self.0.try_wait().unwrap() {
                Some(status) => return assert!(status.success(), "the test at the other end failed"),
                None => assert!(Instant::now() < until, "the test at the other end does not end"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node beyond the line.
fn beyond(far: &str, role: &str, name: &str, workers: u32) -> Node {
    let mut words = far.split(' ');
    let mut command = Command::new(words.next().unwrap());
    command.args(words).arg(env!("CARGO_BIN_EXE_troupe"));
    command.args(["join", &format!("10.197.0.1:{PORT}"), "--role", role, "--name", name]);
    command.args(["--workers", &workers.to_string(), "--set", "cluster.reconnect_pause_ms=500"]);
    command.args(["--set", "cluster.reconnect_s=60"]);
    command.current_dir(std::env::temp_dir()).env("TROUPE_COOKIE", COOKIE);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    Node::start(command)
}

/// 200 ms each way, and 5 % of all packets lost each way: heartbeats, errands and answers on one port, the kit and every version's
/// weights on the other. Verdicts, steps and the weights to the bit are those of one machine.
#[test]
fn a_run_over_a_line_with_delay_and_loss_ends_as_on_one_machine() {
    if let Ok(far) = std::env::var(FAR) {
        return at_the_head(&far);
    }
    let _alone = lab::alone();
    let Some(link) = line(1) else { return };
    link.set(Shape { delay: Duration::from_millis(200), loss: 0.05, ..Shape::default() }).unwrap();
    let began = Instant::now();
    Again::start(&link, 0, "a_run_over_a_line_with_delay_and_loss_ends_as_on_one_machine").passes();
    println!("{} s, {:?}", began.elapsed().as_secs(), link.counts());
}

fn at_the_head(far: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mut alone = ledger::run(&dir.path().join("here"), |_| {}, |_, _| 2);
    assert!(alone.endings["trained"] > 0 && alone.faults.is_empty(), "{alone:?}");
    let (note, notes) = channel();
    let (mut head, mut nodes) = (None, Vec::new());
    let mut over = ledger::run(
        &dir.path().join("there"),
        |_| {},
        |rig, crew| {
            let tasks = rig.entries().iter().map(|entry| (*entry.spec).clone()).collect();
            let generating = Some((ledger::generating(rig, 0), rig.policy.as_path()));
            let started = lab::head_that(&format!("10.197.0.1:{PORT}"), BEAT, 5, 1, note, tasks, generating);
            crew.cluster = Some(started.link());
            nodes = vec![beyond(far, "executor", "one", 2), beyond(far, "executor", "two", 2)];
            nodes.push(beyond(far, "generator", "three", 16));
            head = Some(started);
            0
        },
    );
    let head = head.unwrap();
    let done: Vec<(String, u64)> = head.rows().into_iter().map(|row| (row.name, row.done)).collect();
    let lost = notes.try_iter().filter(|note| note.contains("is lost")).count();
    println!("done by {done:?}; {lost} times a node was lost to chance; {over:?}");
    head.finish(true);
    // What chance kept silent for 5 s is tried again: nothing else may differ.
    assert!(over.faults.keys().all(|code| code == "F123" || code == "F124"), "{over:?}");
    assert!(lost > 0 || over.faults.is_empty(), "{over:?}");
    (alone.faults, over.faults) = Default::default();
    assert_eq!(over, alone);
    for node in nodes {
        let (code, said) = node.end();
        assert_eq!(code, Some(0), "{said}");
    }
}

/// Bytes of the blob: 35 s at 40 KB/s, more than one piece had before.
const SLOW: usize = 1_400_000;

/// 40 KB/s, and the cable is out in the middle of the only piece. Should fail with (not tried): 30 s for a request, and a cut piece begins anew (as it
/// was). then: nothing arrives.
#[test]
fn weights_arrive_over_a_line_of_40_kilobytes_a_second() {
    const NAME: &str = "weights_arrive_over_a_line_of_40_kilobytes_a_second";
    if std::env::var(FAR).is_ok() {
        return match std::net::TcpListener::bind(("10.197.0.1", PORT)) {
            Ok(listener) => offer(listener),
            Err(_) => fetch(),
        };
    }
    let Some(link) = line(2) else { return };
    link.set(Shape { delay: Duration::from_millis(50), rate: 40_000, ..Shape::default() }).unwrap();
    let _server = Again::start(&link, 0, NAME);
    let began = Instant::now();
    let client = Again::start(&link, 1, NAME);
    std::thread::sleep(Duration::from_secs(15));
    link.set(Shape { cut: true, ..Shape::default() }).unwrap();
    // Longer than a client waits for a byte: it asks again, for the rest.
    std::thread::sleep(Duration::from_secs(25));
    link.set(Shape { delay: Duration::from_millis(50), rate: 40_000, ..Shape::default() }).unwrap();
    client.passes();
    println!("{SLOW} bytes in {:.1} s, {:?}", began.elapsed().as_secs_f64(), link.counts());
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn offer(listener: std::net::TcpListener) {
    let shelf = Arc::<Shelf>::default();
    shelf.put(noise(SLOW));
    listener.set_nonblocking(true).unwrap();
    let runtime = runtime();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        tokio::spawn(serve(listener, shelf, Cookie::new(COOKIE).unwrap()));
        // Until it is killed.
        tokio::time::sleep(LIMIT).await;
    });
}

fn fetch() {
    let bytes = noise(SLOW);
    let blob = Shelf::default().put(bytes.clone());
    let client = Client::new("10.197.0.1", PORT, Cookie::new(COOKIE).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("weights");
    runtime().block_on(client.get_file(&blob, &to)).unwrap();
    assert!(std::fs::read(to).unwrap() == bytes);
}
