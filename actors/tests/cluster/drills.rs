//! What goes wrong with nodes and heads, and what it costs: only leases.

use std::time::{Duration, Instant};

use actors::bench::cluster::relay;

use crate::lab::{BEAT, Node, PATIENCE, QUICK, STEADY, lab, lost_places, passes, silent_ms, source, wait_for};

fn ms(since: Instant) -> u128 {
    since.elapsed().as_millis()
}

/// SIGKILL: seen when the connection breaks.
#[test]
fn a_killed_node_costs_its_leases_and_nothing_else() {
    let lab = lab(BEAT, 150);
    let mut victim = lab.join("victim", 2);
    let _other = lab.join("other", 2);
    lab.ready(2);
    // Work for seconds, so that the victim has some when the signal comes.
    lab.give(0..200, 1);
    wait_for("both work", || (lab.load().busy == 4).then_some(()));
    let began = Instant::now();
    victim.0.kill().unwrap();
    lab.note("node victim is lost");
    let noticed = ms(began);
    let faults = lab.all_of(0..200, 0);
    println!("SIGKILL noticed after {noticed} ms; faults {faults:?}");
    assert!(faults.len() == 1 && (1..=2).contains(&faults["F123"]), "only what it held: {faults:?}");
    // And another one takes its place.
    let began = Instant::now();
    let _next = lab.join("next", 2);
    lab.ready(2);
    println!("replaced after {} ms", ms(began));
}

/// SIGSTOP: as a machine that freezes, or a cable that is pulled. TCP says nothing; the heartbeat does.
#[test]
fn a_frozen_node_is_noticed_within_five_seconds_and_comes_back() {
    let lab = lab(BEAT, 100);
    let victim = lab.join("victim", 2);
    let _other = lab.join("other", 2);
    lab.ready(2);
    // Work for seconds, so that the victim has some when the signal comes.
    lab.give(0..200, 1);
    wait_for("both work", || (lab.load().busy == 4).then_some(()));
    let began = Instant::now();
    victim.signal("STOP");
    let silent = silent_ms(&lab.note("node victim is silent"));
    let suspected = ms(began);
    let dead = silent_ms(&lab.note("node victim is lost"));
    let lost = ms(began);
    let faults = lab.all_of(0..200, 0);
    println!("SIGSTOP: suspected after {suspected} ms, lost after {lost} ms; faults {faults:?}");
    // On an idle machine 3 and 5 s; how much later on a loaded one is the machine's, not the head's.
    assert!(silent >= Some(2900) && dead >= Some(4900), "{silent:?} ms, {dead:?} ms: before the time was over");
    assert!((1..=2).contains(&faults["F123"]), "{faults:?}");
    let began = Instant::now();
    victim.signal("CONT");
    lab.note("node victim joined with 2 executors");
    println!("back at work {} ms after SIGCONT", ms(began));
    lab.give(100..104, 1);
    assert_eq!(lab.all_of(100..104, 0).len(), 0);
}

/// A node that slept through its death has answers in hand: they change nothing.
#[test]
fn a_zombie_answers_nothing() {
    let lab = lab(BEAT, 3000);
    let victim = lab.join("victim", 1);
    lab.ready(1);
    lab.give(0..1, 1);
    wait_for("it works", || (lab.load().busy == 1).then_some(()));
    victim.signal("STOP");
    lab.note("node victim is lost");
    let (rollout, _, verdict) = lab.ended.recv().unwrap();
    assert_eq!((rollout.0, verdict.unwrap_err().code.as_str()), (0, "F123"));
    victim.signal("CONT");
    lab.note("node victim joined");
    // The old errand ends there within 3 s; nothing may come of it.
    assert!(lab.ended.recv_timeout(Duration::from_millis(4500)).is_err(), "a dead lease was answered");
    lab.give(0..1, 2);
    assert_eq!(lab.all_of(0..1, 0).len(), 0);
}

/// Twenty kills in a row while work goes on: nothing is lost, nothing is answered twice, nothing hangs.
#[test]
fn twenty_kills_in_a_row() {
    let lab = lab(STEADY, 20);
    let _steady = lab.join("steady", 1);
    lab.ready(1);
    let (mut noticed, mut back) = (Vec::new(), Vec::new());
    lab.give(0..400, 1);
    for n in 0..20 {
        let began = Instant::now();
        let mut victim = lab.join("victim", 3);
        lab.note("node victim joined");
        back.push(ms(began));
        std::thread::sleep(Duration::from_millis(17 * n));
        let began = Instant::now();
        victim.0.kill().unwrap();
        lab.note("node victim is lost");
        noticed.push(ms(began));
    }
    let faults = lab.all_of(0..400, 0);
    noticed.sort_unstable();
    back.sort_unstable();
    println!("20 kills: noticed within {noticed:?} ms; joined within {back:?} ms; faults {faults:?}");
    assert!(faults.keys().all(|code| code == "F123") && faults.values().sum::<u64>() <= 60, "{faults:?}");
}

/// Twenty freezes in a row, of the same node: each costs what it held, and it comes back each time.
#[test]
fn twenty_freezes_in_a_row() {
    let lab = lab(QUICK, 30);
    let _steady = lab.join("steady", 1);
    let victim = lab.join("victim", 2);
    lab.ready(2);
    lab.give(0..1500, 1);
    let (mut noticed, mut back, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..20 {
        let began = Instant::now();
        victim.signal("STOP");
        notes.extend(lab.told("node victim is lost"));
        noticed.push(ms(began));
        let began = Instant::now();
        victim.signal("CONT");
        notes.extend(lab.told("node victim joined"));
        back.push(ms(began));
    }
    let faults = lab.all_of(0..1500, 0);
    noticed.sort_unstable();
    back.sort_unstable();
    println!("20 freezes (dead after 1000 ms): lost after {noticed:?} ms; back after {back:?} ms; faults {faults:?}");
    notes.extend(lab.notes.try_iter());
    // A machine that stalls gives somebody up once more, and says so.
    let most = lost_places(&notes, 2, 1);
    assert!(faults.keys().all(|code| code == "F123") && faults.values().sum::<u64>() <= most, "{faults:?} of {most}");
    let lost = notes.iter().filter(|note| note.contains(" is lost: silent")).map(|note| silent_ms(note));
    assert!(lost.clone().count() >= 20 && lost.clone().all(|ms| ms >= Some(950)), "{:?}", lost.collect::<Vec<_>>());
}

/// The head goes and comes back with the next epoch: nodes report again by themselves.
#[test]
fn nodes_find_a_resumed_head_again() {
    let mut lab = lab(STEADY, 50);
    let node = lab.join("one", 2);
    lab.ready(1);
    let began = Instant::now();
    lab.restart_head();
    lab.ready(1);
    println!("the node is back {} ms after the head went", ms(began));
    lab.give(0..10, 1);
    assert_eq!(lab.all_of(0..10, 0).len(), 0);
    lab.head.take().unwrap().finish(true);
    let (code, said) = node.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.matches("joined").count() == 2, "{said}");
}

/// 200 ms each way, and one piece in twenty 600 ms: slower, and nothing else.
#[test]
fn a_slow_and_lossy_network_costs_time_only() {
    let lab = lab(BEAT, 200);
    let through = relay::start(lab.address.clone(), Duration::from_millis(200)).unwrap();
    let began = Instant::now();
    let _far = Node::start(lab.command_at(&through, "far", 4));
    lab.ready(1);
    let joined = ms(began);
    let began = Instant::now();
    lab.give(0..60, 1);
    let faults = lab.all_of(0..60, 0);
    let took = ms(began);
    println!(
        "200 ms away: joined after {joined} ms; 60 candidates of 200 ms on 4 executors in {took} ms; faults {faults:?}"
    );
    assert!(faults.is_empty(), "{faults:?}");
    let rows = lab.head().rows();
    assert_eq!((rows.len(), rows[0].lost, rows[0].done), (1, 0, 60));
}

/// The old life's evaluation goes on while the same attempt at the same rollout comes with another text. Should fail with (not tried): the node knows errands by
/// rollout and attempt (as it was). then: the first text's verdict.
#[test]
fn a_resumed_head_hears_the_verdict_of_the_text_that_it_gave() {
    let mut lab = lab(STEADY, 4000);
    let _node = lab.join("one", 1);
    lab.ready(1);
    let verdict = |bytes| passes(&source(0, bytes));
    let other = (1..1000).find(|bytes| verdict(*bytes) != verdict(0)).unwrap();
    lab.give_long(0..1, 1, 0);
    wait_for("it is out", || (lab.load().busy == 1).then_some(()));
    std::thread::sleep(Duration::from_millis(300));
    lab.restart_head();
    let (_, _, lost) = lab.ended.recv_timeout(PATIENCE).unwrap();
    assert_eq!(lost.unwrap_err().code, "F123");
    lab.ready(1);
    lab.give_long(0..1, 1, other);
    let (rollout, attempt, told) = lab.ended.recv_timeout(PATIENCE).unwrap();
    assert_eq!((rollout.0, attempt.0, told), (0, 1, Ok(verdict(other))));
}
