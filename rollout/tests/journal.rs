//! The journal's format: replay, gaps, digests; and what the machine costs in time and memory.

mod support;

use std::time::Duration;

use rollout::event::{Command, Event, Judgement};
use rollout::id::{Epoch, PolicyVersion, StepId};
use rollout::journal::{CommandDigest, JournalError, Record, Snapshot, replay};
use rollout::machine::MachineConfig;
use rollout::reward::Reward;
use support::profile::tasks;
use support::shell::{attempt, small, subject};

/// Runs `steps` steps in order and calls `each` after every event.
fn play(config: MachineConfig, mut each: impl FnMut(&Snapshot, Record)) -> Snapshot {
    let mut snapshot = Snapshot::start(config, tasks(10));
    let mut policy = 0;
    let mut todo = std::collections::VecDeque::new();
    let mut events = std::collections::VecDeque::new();
    events.push_back(Event::Started { epoch: Epoch(1), policy: PolicyVersion(0), step: StepId(0) });
    let mut now_ms = 0;
    loop {
        while let Some(event) = events.pop_front() {
            now_ms += 1;
            let (record, commands) = snapshot.on(now_ms, event);
            each(&snapshot, record);
            todo.extend(commands);
        }
        let Some(command) = todo.pop_front() else { return snapshot };
        let (rollout, attempt) = (subject(&command), attempt(&command));
        match (command, rollout, attempt) {
            (Command::Sample { .. }, Some(rollout), Some(attempt)) => {
                events.push_back(Event::Sampled { rollout, attempt, oldest: PolicyVersion(policy), tokens: 1 })
            }
            (Command::Judge { .. }, Some(rollout), Some(attempt)) => {
                events.push_back(Event::Judged { rollout, attempt, ruling: Judgement::Admitted })
            }
            (Command::Execute { .. }, Some(rollout), Some(attempt)) => {
                let reward = Reward { plan: rollout.0 as f64, code: (rollout.0 % 2) as f64 };
                events.push_back(Event::Executed { rollout, attempt, reward })
            }
            (Command::Train { step, .. }, ..) => {
                events.push_back(Event::Trained { step, policy: PolicyVersion(step.0), applied: true })
            }
            (Command::Adopt { policy: newest }, ..) => {
                policy = newest.0;
                events.push_back(Event::Adopted { policy: newest })
            }
            _ => {}
        }
    }
}

#[test]
fn replay_gives_the_same_machine_from_any_snapshot() {
    let (mut snapshots, mut records) = (Vec::new(), Vec::new());
    let end = play(small(), |snapshot, record| {
        snapshots.push(snapshot.clone());
        records.push(record);
    });
    assert_eq!(replay(Snapshot::start(small(), tasks(10)), records.iter().cloned()), Ok(end.clone()));
    for (n, snapshot) in snapshots.into_iter().enumerate().step_by(7) {
        assert_eq!(snapshot.next_seq, n as u64 + 1);
        // Records before the snapshot are passed over.
        assert_eq!(replay(snapshot, records.iter().cloned()), Ok(end.clone()));
    }
}

#[test]
fn a_gap_is_an_error() {
    let mut records = Vec::new();
    play(small(), |_, record| records.push(record));
    records.remove(5);
    let error = replay(Snapshot::start(small(), tasks(10)), records);
    assert_eq!(error, Err(JournalError::Gap { expected: 5, found: 6 }));
}

#[test]
fn the_digest_tells_commands_apart() {
    let digest = |commands: Vec<Command>| {
        let mut digest = CommandDigest::default();
        digest.add(&commands);
        digest
    };
    let (a, b) = (Command::Adopt { policy: PolicyVersion(1) }, Command::Finish);
    assert_ne!(digest(vec![a.clone()]), digest(vec![Command::Adopt { policy: PolicyVersion(2) }]));
    assert_ne!(digest(vec![a.clone(), b.clone()]), digest(vec![b.clone(), a.clone()]));
    assert_ne!(digest(vec![a.clone()]), digest(vec![a.clone(), a.clone()]));
    let mut parts = digest(vec![a.clone()]);
    parts.add(std::slice::from_ref(&b));
    assert_eq!(parts, digest(vec![a, b]));
    // FNV-1a, 128 bits, of "Finish\n".
    assert_eq!(digest(vec![Command::Finish]).to_string(), "1 commands, d0f1b706f44ff78d1ba370260128bb10");
}

fn big(credits: u32) -> MachineConfig {
    let groups_per_step = credits / 16;
    MachineConfig { group_size: 8, groups_per_step, credits, steps: u64::from(400_000 / credits), ..small() }
}

fn bytes(snapshot: &Snapshot) -> usize {
    bincode::serde::encode_to_vec(snapshot, bincode::config::standard()).map_or(0, |bytes| bytes.len())
}

#[test]
fn memory_does_not_grow_with_the_run() {
    // The largest snapshot in the first 40 steps and in the last 40 of 800.
    let config = MachineConfig { steps: 800, staleness_max: 1, ..small() };
    let (mut early, mut late) = (0, 0);
    play(config, |snapshot, _| match snapshot.machine.step().0 {
        0..40 => early = early.max(bytes(snapshot)),
        760.. => late = late.max(bytes(snapshot)),
        _ => {}
    });
    // Numbers grow by some digits; 32,000 rollouts would need 200 kB.
    assert!(early > 500 && late < early + early / 2, "{early} bytes became {late}");
}

/// Time this thread has spent on a processor: what else the machine does does not count.
fn spent() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel keeps the time of threads");
    Duration::from_nanos(text.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number"))
}

/// An event must not cost a pass over what is in flight: 64 times the credits may cost some levels of a tree and cache
/// misses, not 64 times the time.
#[test]
fn the_cost_of_an_event_does_not_grow_with_what_is_in_flight() {
    let per_event_ns = |credits: u32| {
        let measure = || {
            let mut events = 0u64;
            let start = spent();
            play(big(credits), |_, _| events += 1);
            (spent() - start).as_nanos() as u64 / events
        };
        measure().min(measure())
    };
    let (few, many) = (per_event_ns(256), per_event_ns(16_384));
    eprintln!("{few} ns an event with 256 credits, {many} ns with 16,384");
    assert!(many < 8 * few, "{few} ns an event with 256 credits, {many} ns with 16,384");
}
