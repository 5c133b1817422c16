//! A head with a pool and no executors of its own, and nodes to join it.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actors::bench::ear;
use actors::cluster::head::Generating;
use actors::cluster::kit::{Kit, Work, stand_in};
use actors::cluster::wire::{Beat, NodeRow};
use actors::cluster::{Cookie, Head, HeadConfig};
use actors::executor::ExecJob;
use actors::observe::{Observer, Progress};
use actors::orchestrator::OrchestratorMsg;
use actors::pool::{Pool, PoolArgs, PoolMsg};
use actors::scaling::Load;
use ractor::{Actor, ActorRef};
use rollout::id::{Attempt, Digest, RolloutId, TaskId};
use rollout::outcome::{Candidate, Fault, Ruling};
use rollout::task::{Split, TaskSpec};
use tokio::runtime::Runtime;

pub const COOKIE: &str = "a cookie for the tests of the cluster";
/// Far above what anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// A cluster's defaults.
pub const BEAT: Beat = Beat { period_ms: 1000, suspect_ms: 3000, dead_ms: 5000, lease_ms: 10_000 };
/// For drills in which somebody is silent until it is given up.
pub const QUICK: Beat = Beat { period_ms: 100, suspect_ms: 500, dead_ms: 1000, lease_ms: 1000 };

/// Where nobody is silent on purpose: a machine that stalls gives nobody up.
pub const STEADY: Beat = Beat { period_ms: 100, suspect_ms: 30_000, dead_ms: 60_000, lease_ms: 3000 };

/// Whether it passed, or the fault's code.
pub type Verdict = Result<bool, Fault>;

struct Notes(Sender<String>);

impl Observer for Notes {
    fn on(&self, progress: Progress) {
        if let Progress::Note(text) = progress {
            let _ = self.0.send(text);
        }
    }
}

pub struct Lab {
    pub head: Option<Head>,
    pub pool: ActorRef<PoolMsg>,
    pub address: String,
    pub notes: Receiver<String>,
    pub ended: Receiver<(RolloutId, Attempt, Verdict)>,
    pub runtime: Runtime,
    takes_ms: u64,
    beat: Beat,
    epoch: u64,
    note: Sender<String>,
    _alone: Alone,
}

/// Process groups are the process's: one head at a time, as outside of tests.
pub type Alone = MutexGuard<'static, ()>;

pub fn alone() -> Alone {
    static HEADS: Mutex<()> = Mutex::new(());
    HEADS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two ports in a row that nobody has.
pub fn ports() -> u16 {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

pub fn head(address: &str, beat: Beat, takes_ms: u64, epoch: u64, note: Sender<String>) -> Head {
    head_with(address, beat, takes_ms, epoch, note, vec![task()])
}

fn task() -> TaskSpec {
    TaskSpec { id: TaskId("t".into()), level: 1, split: Split::Train, tags: vec![], source: String::new() }
}

pub fn head_with(
    address: &str,
    beat: Beat,
    takes_ms: u64,
    epoch: u64,
    note: Sender<String>,
    tasks: Vec<TaskSpec>,
) -> Head {
    head_that(address, beat, takes_ms, epoch, note, tasks, None)
}

/// With generators, where they may join.
pub fn head_that(
    address: &str,
    beat: Beat,
    takes_ms: u64,
    epoch: u64,
    note: Sender<String>,
    tasks: Vec<TaskSpec>,
    generating: Option<(Generating, &Path)>,
) -> Head {
    Head::start_with(head_config(address, beat, takes_ms, epoch, note, tasks), generating).unwrap()
}

pub fn head_config(
    address: &str,
    beat: Beat,
    takes_ms: u64,
    epoch: u64,
    note: Sender<String>,
    tasks: Vec<TaskSpec>,
) -> HeadConfig {
    HeadConfig {
        listen: address.into(),
        bulk_port: 0,
        cookie: Cookie::new(COOKIE).unwrap(),
        epoch,
        beat,
        limit: 64 * 1024,
        kit: Kit { work: Work::StandIn { takes_ms }, tasks, deadline_ms: 30_000, executors: 1 },
        observer: Arc::new(Notes(note)),
    }
}

pub fn lab(beat: Beat, takes_ms: u64) -> Lab {
    lab_at("127.0.0.1", beat, takes_ms)
}

pub fn lab_at(host: &str, beat: Beat, takes_ms: u64) -> Lab {
    lab_with(host, beat, takes_ms, Cookie::new(COOKIE).unwrap())
}

pub fn lab_with(host: &str, beat: Beat, takes_ms: u64, cookie: Cookie) -> Lab {
    let alone = alone();
    let port = ports();
    let address = format!("{host}:{port}");
    let (note, notes) = channel();
    let config = head_config(&address, beat, takes_ms, 1, note.clone(), vec![task()]);
    let head = Head::start(HeadConfig { cookie, ..config }).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (to, ended) = channel();
    let link = head.link();
    let pool = runtime.block_on(async {
        let out = ear::listen(move |message| {
            let OrchestratorMsg::Executed(items) = message else { return };
            for item in items {
                let verdict = item.result.map(|report| report.outcome.is_correct());
                let _ = to.send((item.rollout, item.attempt, verdict));
            }
        });
        let out = out.await.unwrap();
        let args = PoolArgs {
            factory: stand_in(Duration::ZERO),
            saturated: None,
            llm_judge: None,
            workers: 0,
            workers_max: 0,
            deadline: PATIENCE,
            reuse_verdicts: false,
            verdicts_max: 0,
            logbook: Default::default(),
            cluster: Some(link),
            out,
        };
        Pool::spawn(None, Pool, args).await.unwrap().0
    });
    Lab { head: Some(head), pool, address, notes, ended, runtime, takes_ms, beat, epoch: 1, note, _alone: alone }
}

/// What the stand-in says of this text, anywhere.
pub fn passes(source: &str) -> bool {
    blake3_first(source).is_multiple_of(3)
}

fn blake3_first(source: &str) -> u8 {
    let digest = actors::cluster::shelf::digest(source.as_bytes());
    u8::from_str_radix(&digest[..2], 16).unwrap()
}

pub fn source(n: u64, bytes: usize) -> String {
    format!("n = {n}\n{}", "#".repeat(bytes))
}

impl Lab {
    pub fn head(&self) -> &Head {
        self.head.as_ref().unwrap()
    }

    /// The head's process dies without a word, and another continues the run. The pool lives on here, as a resumed run's would.
    pub fn restart_head(&mut self) {
        self.head.take().unwrap().finish(false);
        self.epoch += 1;
        // The port may be held for a moment.
        let head = head(&self.address, self.beat, self.takes_ms, self.epoch, self.note.clone());
        head.link().pool_is(&self.pool);
        self.head = Some(head);
    }

    pub fn command(&self, name: &str, workers: u32) -> Command {
        self.command_at(&self.address, name, workers)
    }

    pub fn command_at(&self, address: &str, name: &str, workers: u32) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_troupe"));
        command.args(["join", address, "--role", "executor", "--name", name, "--workers", &workers.to_string()]);
        command.args(["--set", "cluster.reconnect_s=30", "--set", "cluster.reconnect_pause_ms=500"]);
        // Its stderr is read at its end: a log would fill the pipe.
        command.current_dir(std::env::temp_dir()).env("TROUPE_COOKIE", COOKIE).env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    pub fn join(&self, name: &str, workers: u32) -> Node {
        Node::start(self.command(name, workers))
    }

    /// Nodes with all their executors in the pool.
    pub fn ready(&self, nodes: usize) -> Vec<NodeRow> {
        wait_for("nodes are ready", || {
            let rows = self.head().rows();
            (rows.iter().filter(|row| row.state == "ready").count() == nodes && rows.len() == nodes).then_some(rows)
        })
    }

    pub fn give(&self, rollouts: std::ops::Range<u64>, attempt: u32) {
        self.give_long(rollouts, attempt, 0);
    }

    pub fn give_long(&self, rollouts: std::ops::Range<u64>, attempt: u32, bytes: usize) {
        let job = |n: u64| {
            let task =
                TaskSpec { id: TaskId("t".into()), level: 1, split: Split::Train, tags: vec![], source: String::new() };
            let candidate = Candidate { source: source(n, bytes), digest: Digest(n.to_string()) };
            let ruling = Arc::new(Ruling::Admit { candidate, findings: vec![] });
            ExecJob { rollout: RolloutId(n), attempt: Attempt(attempt), task: Arc::new(task), ruling }
        };
        self.pool.cast(PoolMsg::Execute(rollouts.map(job).collect())).unwrap();
    }

    pub fn load(&self) -> Load {
        self.runtime.block_on(self.pool.call(PoolMsg::Load, Some(PATIENCE))).unwrap().unwrap()
    }

    /// Gives every rollout again that a fault hit, as the machine does, until all have an answer; the faults by code.
    pub fn all_of(&self, rollouts: std::ops::Range<u64>, bytes: usize) -> BTreeMap<String, u64> {
        let (mut answered, mut faults) = (BTreeMap::new(), BTreeMap::new());
        // The time is for each next thing, not for all: a loaded machine is slow.
        while answered.len() < (rollouts.end - rollouts.start) as usize {
            let (rollout, attempt, verdict) = self.ended.recv_timeout(PATIENCE).expect("every rollout ends in time");
            match verdict {
                Ok(passed) => {
                    assert_eq!(passed, passes(&source(rollout.0, bytes)), "{rollout:?}");
                    assert_eq!(answered.insert(rollout, attempt), None, "{rollout:?} is answered twice");
                }
                Err(fault) => {
                    *faults.entry(fault.code).or_default() += 1;
                    self.give_long(rollout.0..rollout.0 + 1, attempt.0 + 1, bytes);
                }
            }
        }
        faults
    }

    /// The note that holds this text.
    pub fn note(&self, text: &str) -> String {
        self.told(text).pop().unwrap()
    }

    /// All notes up to the one that holds this text.
    pub fn told(&self, text: &str) -> Vec<String> {
        told(&self.notes, text)
    }
}

/// All notes up to the one that holds this text.
pub fn told(notes: &Receiver<String>, text: &str) -> Vec<String> {
    let (until, mut all) = (Instant::now() + PATIENCE, Vec::new());
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let note = notes.recv_timeout(left).unwrap_or_else(|_| panic!("no note with `{text}`"));
        let last = note.contains(text);
        all.push(note);
        if last {
            return all;
        }
    }
}

/// How long the head says a node was silent, when it suspected it or gave it up. From the moment of the signal it may be less: silence counts
/// from the last word.
pub fn silent_ms(note: &str) -> Option<u64> {
    note.split_once("silent for ")?.1.split_once(" ms")?.0.parse().ok()
}

/// Executors or places of nodes that are lost, of all that these notes say: no more can be faulted. Of the victim so many, of another so many.
pub fn lost_places(notes: &[String], victim: u64, other: u64) -> u64 {
    let lost = notes.iter().filter(|note| note.contains(" is lost"));
    lost.map(|note| if note.contains("node victim ") { victim } else { other }).sum()
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.pool.kill();
        if let Some(head) = self.head.take() {
            head.finish(true);
        }
    }
}

/// The other side has ended the connection, in order or not: a read with a deadline did not come to it.
#[track_caller]
pub fn closed(read: std::io::Result<usize>) {
    let late = |e: &std::io::Error| matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
    assert!(!read.as_ref().is_err_and(late), "the connection is left open: {read:?}");
}

/// Polls until there is something; panics after `PATIENCE`.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A `troupe join`; killed when it is dropped.
pub struct Node(pub Child);

impl Node {
    pub fn start(mut command: Command) -> Node {
        Node(command.spawn().unwrap())
    }

    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status().unwrap().success());
    }

    /// Ends by itself: exit code and what it said.
    pub fn end(mut self) -> (Option<i32>, String) {
        let status = wait_for("a node ends", || self.0.try_wait().unwrap());
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.0.stderr.take().unwrap(), &mut said).unwrap();
        (status.code(), said)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
