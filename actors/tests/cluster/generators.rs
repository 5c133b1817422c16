//! Generators of other machines: they sample what one here would, adopt weights while they sample, come and go, and cost only their leases.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use actors::bench::ear;
use actors::cluster::fetch::Client;
use actors::cluster::wire::{Beat, BlobRef};
use actors::cluster::{Cookie, Head};
use actors::crew::{SampleJob, TaskEntry, Weights};
use actors::fleet::{Fleet, FleetArgs};
use actors::generator::{Adoption, GeneratorMsg};
use actors::orchestrator::OrchestratorMsg;
use actors::policy::cpu;
use model::lora::LoraConfig;
use model::lora::config::Target;
use ractor::{Actor, ActorRef};
use rollout::completion::Completion;
use rollout::id::{Attempt, PolicyVersion, RolloutId};
use rollout::outcome::Fault;
use tokio::runtime::Runtime;

use crate::lab::{self, Alone, BEAT, COOKIE, Node, PATIENCE, QUICK, STEADY, lost_places, silent_ms, wait_for};
use crate::ledger;
use crate::rig::Rig;

fn generator(address: &str, name: &str, places: u32, sets: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_troupe"));
    command.args(["join", address, "--role", "generator", "--name", name, "--workers", &places.to_string()]);
    command.args(["--set", "cluster.reconnect_s=30", "--set", "cluster.reconnect_pause_ms=500"]);
    for set in sets {
        command.args(["--set", set]);
    }
    command.current_dir(std::env::temp_dir()).env("TROUPE_COOKIE", COOKIE).env_remove("RUST_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Two runs of the same settings: with the generator here, and with one that joins. Weights and verdicts are the same to the bit, also
/// where only adapters travel.
#[test]
fn a_run_sampled_elsewhere_ends_as_one_that_is_sampled_here() {
    let _alone = lab::alone();
    let lora = LoraConfig { rank: 2, alpha: 4.0, targets: vec![Target::from_name("q_proj").unwrap()], rslora: false };
    for lora in [None, Some(lora)] {
        let dir = tempfile::tempdir().unwrap();
        let set = |rig: &mut Rig| rig.lora = lora.clone();
        let here = ledger::run(&dir.path().join("here"), set, |_, _| 2);
        assert!(here.endings["trained"] > 0 && here.faults.is_empty(), "{here:?}");
        let (note, _notes) = channel();
        let mut kept = None;
        let there = ledger::run(&dir.path().join("there"), set, |rig, crew| {
            let address = format!("127.0.0.1:{}", lab::ports());
            let generating = Some((ledger::generating(rig, 0), rig.policy.as_path()));
            let head = lab::head_that(&address, BEAT, 0, 1, note, Vec::new(), generating);
            crew.cluster = Some(head.link());
            kept = Some((Node::start(generator(&address, "far", 16, &[])), head));
            2
        });
        let (node, head) = kept.unwrap();
        let rows = head.rows();
        assert!(rows.len() == 1 && rows[0].done > 50 && rows[0].lost == 0, "{rows:?}");
        head.finish(true);
        assert_eq!(there, here);
        let (code, said) = node.end();
        assert_eq!(code, Some(0), "{said}");
    }
}

type Ended = (RolloutId, Attempt, Result<Arc<Completion>, Fault>);

enum Told {
    Ended(Ended),
    Adopted(u64),
}

/// A head with a fleet, and nothing of a run around it.
struct Room {
    head: Option<Head>,
    fleet: ActorRef<GeneratorMsg>,
    address: String,
    told: Receiver<Told>,
    notes: Receiver<String>,
    note: Sender<String>,
    _runtime: Runtime,
    entry: Arc<TaskEntry>,
    rig: Rig,
    beat: Beat,
    epoch: u64,
    _dir: tempfile::TempDir,
    _alone: Alone,
}

/// Tokens of one answer at most.
const TOKENS: usize = 100;

fn weights(rig: &Rig, seed: u64) -> Weights {
    let config = model::load_config(&rig.policy).unwrap();
    cpu::random(&config, seed)
}

fn open(rig: &Rig, address: &str, beat: Beat, epoch: u64, note: Sender<String>) -> Head {
    let mut generating = ledger::generating(rig, 0);
    // Long answers, so that there is always something under way.
    (generating.recipe.max_new_tokens, generating.recipe.eos) = (TOKENS, vec![]);
    lab::head_that(address, beat, 0, epoch, note, Vec::new(), Some((generating, Path::new(&rig.policy))))
}

fn room(beat: Beat) -> Room {
    let alone = lab::alone();
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path());
    let address = format!("127.0.0.1:{}", lab::ports());
    let (note, notes) = channel();
    let head = open(&rig, &address, beat, 1, note.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (to, told) = channel();
    let (start, link) = (Adoption { weights: weights(&rig, 0), policy: PolicyVersion(0) }, head.link());
    let factory = rig.crew().sampler;
    let fleet = runtime.block_on(async {
        let out = ear::listen(move |message| match message {
            OrchestratorMsg::Sampled(items) => items.into_iter().for_each(|item| {
                let _ = to.send(Told::Ended((item.rollout, item.attempt, Ok(item.completion))));
            }),
            OrchestratorMsg::Refused { rollout, attempt, fault } => {
                let _ = to.send(Told::Ended((rollout, attempt, Err(fault))));
            }
            OrchestratorMsg::Adopted { policy } => drop(to.send(Told::Adopted(policy.0))),
            _ => {}
        });
        let out = out.await.unwrap();
        let args = FleetArgs { factory, places: 0, start, orders: 64, link, out };
        Fleet::spawn(None, Fleet, args).await.unwrap().0
    });
    let entry = rig.entries().remove(0);
    Room {
        head: Some(head),
        fleet,
        address,
        told,
        notes,
        note,
        _runtime: runtime,
        entry,
        rig,
        beat,
        epoch: 1,
        _dir: dir,
        _alone: alone,
    }
}

/// Answers by rollout, faults by code, versions adopted.
type All = (BTreeMap<u64, Arc<Completion>>, BTreeMap<String, u64>, Vec<u64>);

impl Room {
    fn head(&self) -> &Head {
        self.head.as_ref().unwrap()
    }

    fn join(&self, name: &str, places: u32) -> Node {
        Node::start(generator(&self.address, name, places, &[]))
    }

    fn ready(&self, nodes: usize) {
        wait_for("generators are ready", || {
            let rows = self.head().rows();
            (rows.iter().filter(|row| row.state == "ready").count() == nodes && rows.len() == nodes).then_some(())
        });
    }

    fn busy(&self, least: u32) {
        let busy = || self.head().rows().iter().map(|row| row.busy).sum::<u32>();
        wait_for("generators are busy", || (busy() >= least).then_some(()));
    }

    fn job(&self, n: u64, attempt: u32, least: u64) -> SampleJob {
        let task = self.entry.clone();
        SampleJob { rollout: RolloutId(n), attempt: Attempt(attempt), task, seed: n, least: PolicyVersion(least) }
    }

    fn give(&self, rollouts: std::ops::Range<u64>, least: u64) {
        let jobs = rollouts.map(|n| self.job(n, 1, least)).collect();
        self.fleet.cast(GeneratorMsg::Sample(jobs)).unwrap();
    }

    fn adopt(&self, version: u64) {
        let adoption = Adoption { weights: weights(&self.rig, version), policy: PolicyVersion(version) };
        self.fleet.cast(GeneratorMsg::Adopt(adoption)).unwrap();
    }

    /// Every answer, those that a fault hit asked for again, as the machine does; the faults by code, and the versions adopted.
    fn all_of(&self, rollouts: std::ops::Range<u64>) -> All {
        let (mut answers, mut faults, mut adopted) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        // The time is for each next thing, not for all: a loaded machine is slow.
        while answers.len() < (rollouts.end - rollouts.start) as usize {
            match self.told.recv_timeout(PATIENCE).expect("every answer ends in time") {
                Told::Adopted(policy) => adopted.push(policy),
                Told::Ended((rollout, _, Ok(completion))) => {
                    assert_eq!(completion.tokens.len(), TOKENS);
                    assert_eq!(completion.prompt_tokens, self.entry.prompt.tokens);
                    assert!(answers.insert(rollout.0, completion).is_none(), "{rollout:?} is answered twice");
                }
                Told::Ended((rollout, attempt, Err(fault))) => {
                    *faults.entry(fault.code).or_default() += 1;
                    let again = self.job(rollout.0, attempt.0 + 1, 0);
                    self.fleet.cast(GeneratorMsg::Sample(vec![again])).unwrap();
                }
            }
        }
        (answers, faults, adopted)
    }

    fn note(&self, text: &str) -> String {
        self.told(text).pop().unwrap()
    }

    /// All notes up to the one that holds this text.
    fn told(&self, text: &str) -> Vec<String> {
        lab::told(&self.notes, text)
    }

    /// Another head continues the run; the fleet is a new one, as the process would be.
    fn restart_head(&mut self) {
        self.head.take().unwrap().finish(false);
        self.epoch += 1;
        self.head = Some(open(&self.rig, &self.address, self.beat, self.epoch, self.note.clone()));
        self.head().link().fleet_is(&self.fleet);
        // As a new process's fleet hears of the gateway.
        let gateway = self.head().link().gateway().unwrap();
        let message = actors::fleet::FleetMsg::Gateway(gateway);
        self.fleet.cast(GeneratorMsg::Fleet(message)).unwrap();
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.fleet.kill();
        if let Some(head) = self.head.take() {
            head.finish(true);
        }
    }
}

fn ms(since: Instant) -> u128 {
    since.elapsed().as_millis()
}

/// What a seed and a version sample is the same wherever it is sampled, and however often it had to be.
fn same(a: &BTreeMap<u64, Arc<Completion>>, b: &BTreeMap<u64, Arc<Completion>>) {
    for (n, completion) in a {
        assert_eq!(completion, &b[n], "rollout {n}");
    }
}

/// Planted: `fetch` takes every offer in turn. Seen: version 1 to 3 one after the other, and `adopted` has four entries.
///
/// Whether an answer is under way at the moment weights change is the machine's affair: a node that is quick has its eight places empty for
/// most of the time. So versions are offered, twelve at once, until it was so.
#[test]
fn weights_are_adopted_while_answers_are_under_way_and_versions_between_are_left_out() {
    const OFFERED: u64 = 12;
    let room = room(BEAT);
    let _node = room.join("one", 8);
    room.ready(1);
    room.give(0..400, 0);
    room.busy(8);
    let (mut answers, mut adopted, mut given, mut newest) = (BTreeMap::new(), Vec::new(), 400, 0);
    let mut mixed = 0;
    while mixed == 0 || adopted.last() != Some(&newest) {
        assert!(
            given < 200_000,
            "{mixed} of {given} answers over more than one version; adopted {adopted:?} of {newest}"
        );
        if mixed == 0 && adopted.last().copied().unwrap_or(0) == newest {
            (newest + 1..=newest + OFFERED).for_each(|version| room.adopt(version));
            newest += OFFERED;
        }
        // Work goes on until the newest is there: how long that takes is the machine's, too.
        let (some, faults, told) = room.all_of(0..200);
        assert!(faults.is_empty(), "{faults:?}");
        adopted.extend(told);
        mixed += some.values().filter(|c| c.spans.len() > 1).count();
        let before = answers.len();
        answers.extend(some);
        assert_eq!(answers.len(), before + 200, "none is answered twice");
        room.give(given..given + 200, 0);
        given += 200;
    }
    let (rest, faults, told) = room.all_of(0..400);
    assert!(faults.is_empty() && told.is_empty(), "{faults:?} {told:?}");
    answers.extend(rest);
    assert_eq!(answers.len() as u64, given, "every one is answered, and once");
    println!("adopted {adopted:?} of {newest}; {mixed} answers of {given} over more than one version");
    assert!((adopted.len() as u64) < newest, "{adopted:?} of {newest}: none was left out");
    // Nothing begins under an old version where a newer one is asked for.
    room.give(given..given + 20, newest);
    let (answers, ..) = room.all_of(given..given + 20);
    assert!(answers.values().all(|c| c.spans.len() == 1 && c.spans[0].policy.0 == newest));
}

/// SIGKILL, twenty times, while two generators sample: seen when the connection breaks, and only what it held is sampled again.
#[test]
fn twenty_killed_generators_cost_their_leases() {
    let room = room(STEADY);
    let _steady = room.join("steady", 4);
    room.ready(1);
    room.give(0..1500, 0);
    let (mut noticed, mut back) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let began = Instant::now();
        let mut victim = room.join("victim", 4);
        room.note("node victim joined");
        back.push(ms(began));
        let began = Instant::now();
        victim.0.kill().unwrap();
        room.note("node victim is lost");
        noticed.push(ms(began));
    }
    let (_, faults, _) = room.all_of(0..1500);
    noticed.sort_unstable();
    back.sort_unstable();
    println!("20 kills: noticed within {noticed:?} ms; joined within {back:?} ms; faults {faults:?}");
    assert!(faults.keys().all(|code| code == "F123") && faults.values().sum::<u64>() <= 80, "{faults:?}");
}

/// SIGSTOP, twenty times, of the same one; what it sampled is what the other would have.
#[test]
fn twenty_freezes_of_a_generator() {
    let room = room(QUICK);
    let _steady = room.join("steady", 4);
    room.ready(1);
    room.give(0..100, 0);
    let (before, ..) = room.all_of(0..100);
    let victim = room.join("victim", 4);
    room.ready(2);
    // The same seeds once more.
    room.give(0..3000, 0);
    let (mut noticed, mut back, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..20 {
        let began = Instant::now();
        victim.signal("STOP");
        notes.extend(room.told("node victim is lost"));
        noticed.push(ms(began));
        let began = Instant::now();
        victim.signal("CONT");
        notes.extend(room.told("node victim joined"));
        back.push(ms(began));
    }
    let (answers, faults, _) = room.all_of(0..3000);
    noticed.sort_unstable();
    back.sort_unstable();
    println!("20 freezes (dead after 1000 ms): lost after {noticed:?} ms; back after {back:?} ms; faults {faults:?}");
    same(&before, &answers);
    notes.extend(room.notes.try_iter());
    // A machine that stalls gives somebody up once more, and says so.
    let most = lost_places(&notes, 4, 4);
    assert!(faults.keys().all(|code| code == "F123") && faults.values().sum::<u64>() <= most, "{faults:?} of {most}");
    let lost = notes.iter().filter(|note| note.contains(" is lost: silent")).map(|note| silent_ms(note));
    assert!(lost.clone().count() >= 20 && lost.clone().all(|ms| ms >= Some(950)), "{:?}", lost.collect::<Vec<_>>());
}

#[test]
fn a_frozen_generator_is_noticed_by_the_defaults() {
    let room = room(BEAT);
    let victim = room.join("victim", 4);
    room.ready(1);
    room.give(0..1000, 0);
    room.busy(4);
    let began = Instant::now();
    victim.signal("STOP");
    let silent = silent_ms(&room.note("node victim is silent"));
    let suspected = ms(began);
    let dead = silent_ms(&room.note("node victim is lost"));
    println!("SIGSTOP: suspected after {suspected} ms, lost after {} ms", ms(began));
    assert!(silent >= Some(2900) && dead >= Some(4900), "{silent:?} ms, {dead:?} ms: before the time was over");
}

/// Drained while it samples: it ends what it has, and nothing is sampled twice.
#[test]
fn a_drained_generator_loses_nothing() {
    let room = room(BEAT);
    let node = room.join("one", 4);
    let _other = room.join("two", 4);
    room.ready(2);
    room.give(0..600, 0);
    room.busy(6);
    node.signal("INT");
    let (code, said) = node.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("drained"), "{said}");
    let (_, faults, _) = room.all_of(0..600);
    assert!(faults.is_empty(), "{faults:?}");
}

/// The head goes and comes back with the next epoch: the generator reports with the weights that it has.
#[test]
fn a_generator_finds_a_resumed_head_again() {
    let mut room = room(STEADY);
    let node = room.join("one", 4);
    room.ready(1);
    room.give(0..50, 0);
    assert!(room.all_of(0..50).1.is_empty());
    let began = Instant::now();
    room.restart_head();
    room.ready(1);
    println!("the generator is back {} ms after the head went", ms(began));
    room.give(50..100, 0);
    assert!(room.all_of(50..100).1.is_empty());
    room.head.take().unwrap().finish(true);
    let (code, said) = node.end();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.matches("joined").count(), 2, "{said}");
}

/// The gateway dies: what was out is a fault, a new one takes its place, and the generator reports again.
#[test]
fn a_gateway_that_dies_costs_what_was_out() {
    // A node notices it by silence alone, after `dead_ms`.
    let room = room(BEAT);
    let _node = room.join("one", 4);
    room.ready(1);
    room.give(0..2000, 0);
    room.busy(4);
    room.head().link().gateway().unwrap().kill();
    let (_, faults, _) = room.all_of(0..2000);
    println!("faults {faults:?}");
    assert!(faults.keys().all(|code| code == "F123") && (1..=8).contains(&faults["F123"]), "{faults:?}");
}

/// Strangers at a generator's own port (`cluster.peer_listen`): noise, endless heads, half a request, no proof. It samples on, and whoever has
/// the cookie is answered.
#[test]
fn strangers_at_a_generators_own_port_do_not_hurt_it() {
    let room = room(BEAT);
    let own = format!("127.0.0.1:{}", lab::ports());
    let _node = Node::start(generator(&room.address, "one", 4, &[&format!("cluster.peer_listen={own}")]));
    room.ready(1);
    room.give(0..200, 0);
    let long = format!("GET /blob/{} HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(64), "y".repeat(300_000));
    let asks: [&[u8]; 5] =
        [&[0xff; 5000], long.as_bytes(), b"GET /blob/", b"", b"GET /blob/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n"];
    let mut open = Vec::new();
    for n in 0..200 {
        let mut stream = TcpStream::connect(&own).unwrap();
        // One that is refused may be closed while it is still at it.
        let _ = stream.write_all(asks[n % asks.len()]);
        open.push(stream);
    }
    let ask = |cookie: &str| {
        let (host, port) = own.rsplit_once(':').unwrap();
        let client = Client::new(host, port.parse().unwrap(), Cookie::new(cookie).unwrap()).unwrap();
        room._runtime.block_on(client.get(&BlobRef { digest: "a".repeat(64), bytes: 5 })).unwrap_err()
    };
    let (friend, stranger) = (ask(COOKIE), ask("another cookie of good length"));
    assert!(friend.contains("404") && stranger.contains("401"), "{friend}; {stranger}");
    for stream in &mut open {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = Vec::new();
        // Closed in order or reset; not left open.
        lab::closed(stream.read_to_end(&mut answer));
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let (_, faults, _) = room.all_of(0..200);
    assert!(faults.is_empty(), "{faults:?}");
}
