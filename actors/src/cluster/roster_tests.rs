//! The roster under silence, sleep, second lives and forged answers.

use super::*;

const BEAT: Beat = Beat { period_ms: 1000, suspect_ms: 3000, dead_ms: 5000, lease_ms: 2000 };

fn hello(name: &str) -> Hello {
    Hello {
        role: Role::Executor,
        name: name.into(),
        version: "0".into(),
        harness: "h".into(),
        pid: 1,
        gpus: "none".into(),
    }
}

/// Two nodes with two executors each, ready at 0.
fn two() -> Roster {
    let mut roster = Roster::new(BEAT, 60_000);
    for (key, name) in [(1, "a"), (2, "b")] {
        assert_eq!(roster.hello(0, key, hello(name)), [Act::Welcome { key, name: name.into() }]);
        let acts = roster.ready(0, key, 2);
        assert_eq!(acts[1..], [Act::Attach { key, role: Role::Executor, name: name.into(), executors: 2 }]);
    }
    roster
}

fn without_notes(acts: Vec<Act>) -> Vec<Act> {
    acts.into_iter().filter(|act| !matches!(act, Act::Note(_))).collect()
}

/// Ticks as the shell does; `alive` are heard at each.
fn until(roster: &mut Roster, from_ms: u64, to_ms: u64, alive: &[(NodeKey, &[u64])]) -> Vec<(u64, Act)> {
    let mut all = Vec::new();
    for now in (from_ms..=to_ms).step_by(100) {
        for (key, held) in alive {
            all.extend(without_notes(roster.pong(now, *key, held)).into_iter().map(|act| (now, act)));
        }
        let acts = without_notes(roster.tick(now)).into_iter();
        all.extend(acts.filter(|act| !matches!(act, Act::Ping { .. })).map(|act| (now, act)));
    }
    all
}

#[test]
fn a_silent_node_is_suspected_then_given_up_and_costs_only_its_own_leases() {
    let mut roster = two();
    let mine = roster.assign(0, 1, 10, RolloutId(1), Attempt(1)).unwrap();
    let other = roster.assign(0, 2, 20, RolloutId(2), Attempt(1)).unwrap();
    let told = until(&mut roster, 100, 9000, &[(2, &[other])]);
    let why = "node a is lost: silent for 5000 ms".to_string();
    // Planted: silence is counted from the last ping instead of the last pong. Seen: nobody is ever given up.
    assert_eq!(
        told,
        [
            (3000, Act::Pause { key: 1, role: Role::Executor, paused: true }),
            (5000, Act::Detach { key: 1, role: Role::Executor, why }),
            (5000, Act::Close { key: 1 }),
        ]
    );
    assert_eq!((roster.done(1, mine), roster.late), (None, 1), "nothing of that life is taken");
    assert_eq!(roster.done(2, other).unwrap().rollout, RolloutId(2));
}

#[test]
fn a_suspect_that_answers_gets_work_again() {
    let mut roster = two();
    until(&mut roster, 100, 3500, &[(2, &[])]);
    assert_eq!(roster.rows(3500)[0].state, "suspect");
    assert_eq!(without_notes(roster.pong(3600, 1, &[])), [Act::Pause { key: 1, role: Role::Executor, paused: false }]);
    assert_eq!(until(&mut roster, 3600, 8000, &[(1, &[]), (2, &[])]), []);
}

#[test]
fn an_answer_counts_once_and_only_from_who_was_asked() {
    let mut roster = two();
    let lease = roster.assign(0, 1, 10, RolloutId(1), Attempt(3)).unwrap();
    assert_eq!(roster.done(2, lease), None, "forged by another node");
    let found = roster.done(1, lease).unwrap();
    assert_eq!((found.number, found.rollout, found.attempt), (10, RolloutId(1), Attempt(3)));
    assert_eq!(roster.done(1, lease), None, "a duplicate");
    assert_eq!(roster.late, 2);
}

#[test]
fn a_lease_that_a_living_node_does_not_name_is_lost_alone() {
    let mut roster = two();
    let kept = roster.assign(0, 1, 10, RolloutId(1), Attempt(1)).unwrap();
    let lost = roster.assign(0, 1, 11, RolloutId(2), Attempt(1)).unwrap();
    let told = until(&mut roster, 100, 2500, &[(1, &[kept]), (2, &[])]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(matches!(&told[0], (2000, Act::Failed { lease, .. }) if lease.rollout == RolloutId(2)), "{told:?}");
    assert_eq!(roster.done(1, lost), None);
    assert!(roster.done(1, kept).is_some());
}

#[test]
fn a_named_lease_has_an_end_too() {
    let mut roster = two();
    let lease = roster.assign(0, 1, 10, RolloutId(1), Attempt(1)).unwrap();
    let told = until(&mut roster, 100, 62_500, &[(1, &[lease]), (2, &[])]);
    assert!(matches!(&told[..], [(62_000, Act::Failed { fault, .. })] if fault.code == EXECUTOR_DEADLINE), "{told:?}");
}

/// Planted: no look at the distance of ticks. Seen: both nodes are given up at once.
#[test]
fn a_head_that_was_stopped_gives_its_nodes_their_time_anew() {
    let mut roster = two();
    let lease = roster.assign(0, 1, 10, RolloutId(1), Attempt(1)).unwrap();
    until(&mut roster, 100, 1000, &[(1, &[lease]), (2, &[])]);
    assert_eq!(until(&mut roster, 31_000, 32_900, &[]), [], "half a minute later");
    assert_eq!(roster.rows(32_900).len(), 2);
    assert!(roster.done(1, lease).is_some());
}

/// A head that is late at every look (2 s between two) hears one of its nodes and not the other.
#[test]
fn a_head_that_is_starved_still_gives_up_who_is_silent() {
    let mut roster = two();
    let mut lost = None;
    for now in (2000..60_000).step_by(2000) {
        roster.pong(now, 2, &[]);
        if roster.tick(now).iter().any(|act| matches!(act, Act::Detach { key: 1, .. })) {
            lost = Some(now);
            break;
        }
    }
    // Heard at 0, its time anew at 4000 and 6000 (the first look has no look before it), five seconds of silence from there.
    assert_eq!(lost, Some(12_000));
    assert_eq!(roster.rows(12_000).len(), 1, "the other one is there");
}

#[test]
fn a_second_life_of_a_connection_voids_the_first() {
    let mut roster = two();
    let old = roster.assign(0, 1, 10, RolloutId(1), Attempt(1)).unwrap();
    let acts = without_notes(roster.hello(50, 1, hello("a")));
    assert!(matches!(&acts[..], [Act::Detach { key: 1, .. }, Act::Welcome { key: 1, .. }]), "{acts:?}");
    assert_eq!(roster.done(1, old), None);
    assert_eq!(roster.rows(50)[0].state, "joining");
}

#[test]
fn a_drained_node_leaves_when_it_is_idle_and_not_before() {
    let mut roster = two();
    assert_eq!(roster.idle(1), [], "nobody asked it to go");
    assert_eq!(without_notes(roster.drain(1)), [Act::Leave { key: 1, role: Role::Executor }]);
    assert_eq!(roster.drain(1), [], "once is enough");
    assert_eq!(roster.rows(0)[0].state, "draining");
    assert_eq!(without_notes(roster.idle(1)), [Act::Dismiss { key: 1 }]);
    assert_eq!(roster.len(), 1);
    // One that still gets ready need not wait for that.
    roster.hello(0, 3, hello("c"));
    assert_eq!(without_notes(roster.drain(3)), [Act::Dismiss { key: 3 }]);
}

#[test]
fn a_new_pool_hears_of_all_who_are_ready_and_old_leases_are_void() {
    let mut roster = two();
    roster.hello(0, 3, hello("a"));
    assert_eq!(roster.name(3), Some("a-2"), "names are unique");
    let old = roster.assign(0, 2, 20, RolloutId(2), Attempt(1)).unwrap();
    roster.drain(2);
    assert_eq!(
        roster.begin_anew(Role::Executor),
        [
            Act::Attach { key: 1, role: Role::Executor, name: "a".into(), executors: 2 },
            Act::Attach { key: 2, role: Role::Executor, name: "b".into(), executors: 2 },
            Act::Leave { key: 2, role: Role::Executor },
        ]
    );
    assert_eq!(roster.done(2, old), None);
}

/// Planted: no limit (as it was). Seen: the pool is told of four billion executors.
#[test]
fn a_node_has_no_more_executors_than_a_node_may_have() {
    let mut roster = Roster::new(BEAT, 60_000);
    roster.hello(0, 1, hello("a"));
    let acts = without_notes(roster.ready(0, 1, u32::MAX));
    assert_eq!(acts, [Act::Attach { key: 1, role: Role::Executor, name: "a".into(), executors: 1024 }]);
}

/// The shell looks every 50 ms, and sometimes late. Planted: given up when `dead_ms` are over (as it was). Seen: after 5017 ms.
#[test]
fn silence_is_never_longer_than_dead_ms_when_the_head_is_awake() {
    for late in 0..50 {
        let mut roster = two();
        let (mut now, mut lost) = (0, None);
        while lost.is_none() && now < 9000 {
            now += 50 + u64::from(now % 7 == 0) * late;
            roster.pong(now, 2, &[]);
            let gone = roster.tick(now).into_iter().any(|act| matches!(act, Act::Detach { key: 1, .. }));
            lost = gone.then_some(now);
        }
        let lost = lost.expect("a silent node is given up");
        assert!((4850..=5000).contains(&lost), "after {lost} ms, {late} ms late");
    }
}

/// Generators are watched like executors, by the deadline of an answer; a new fleet's leases are not those of the pool.
#[test]
fn a_generators_leases_have_their_own_deadline_and_supervisor() {
    let mut roster = two().with_sampling(5_000);
    roster.hello(0, 3, Hello { role: Role::Generator, ..hello("g") });
    let acts = roster.ready(0, 3, 8);
    assert_eq!(acts[1..], [Act::Attach { key: 3, role: Role::Generator, name: "g".into(), executors: 8 }]);
    let (sampled, judged) =
        (roster.assign(0, 3, 0, RolloutId(1), Attempt(1)), roster.assign(0, 1, 9, RolloutId(2), Attempt(1)));
    let (sampled, judged) = (sampled.unwrap(), judged.unwrap());
    assert_eq!(roster.rollouts(3), [RolloutId(1)]);
    let mut failed = Vec::new();
    for now in (500..8000).step_by(500) {
        (1..=3).for_each(|key| drop(roster.pong(now, key, &[sampled, judged])));
        failed.extend(roster.tick(now).into_iter().filter_map(|act| match act {
            Act::Failed { lease, fault } => Some((now, lease.role, fault.code)),
            _ => None,
        }));
    }
    assert_eq!(failed, [(7000, Role::Generator, STAGE_DEADLINE.to_string())]);
    roster.assign(8000, 3, 0, RolloutId(4), Attempt(1));
    roster.assign(8000, 3, 0, RolloutId(5), Attempt(1));
    roster.forget(3, &[RolloutId(4)]);
    assert_eq!(roster.rollouts(3), [RolloutId(5)]);
    roster.begin_anew(Role::Generator);
    assert!(roster.rollouts(3).is_empty() && roster.rollouts(1) == [RolloutId(2)]);
}
