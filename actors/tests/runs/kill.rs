//! SIGKILL at random moments, again and again, until the run is complete: the store opens each time, no rollout is
//! trained twice, none is lost without a reason, and the steps are those of one history.
//!
//! The run is a child process of this test binary (the ignored test below), with a tiny real policy, real checkpoints
//! and all three phases.

use crate::rig;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::codec;
use actors::crew::{Crew, TrainError, TrainJob, TrainedItem, Trainer};
use actors::observe::Progress;
use actors::orchestrator::RunEnd;
use actors::stop::StopToken;
use actors::store::StoreError;
use actors::store::rows::PhaseTag;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rig::{Rig, Watch};
use rollout::event::{Command as Order, Ending};
use rollout::id::{RolloutId, StepId};
use rollout::journal::Snapshot;

const DIR: &str = "TROUPE_TEST_KILL_DIR";
/// At least; killed more often until the two limits below are met too.
const KILLS: usize = 24;
/// Of all kills, at least this many must have found the run further than the kill before.
const PROGRESSED: usize = 10;
/// And this many lives must have come as far as `Started`.
const LIVES: u32 = 15;
/// For one life to get to its work.
const LIFE: Duration = Duration::from_secs(120);
/// So many lives are far more than it takes.
const LIVES_MAX: usize = 300;

fn rig(dir: &Path) -> Rig {
    let mut rig = Rig::new(dir);
    rig.machine.steps = 240;
    rig.machine.staleness_max = 1;
    rig.eval_samples = 6;
    rig.execute_delay = Duration::from_millis(8);
    rig
}

/// Not a test: what the child process does.
#[test]
#[ignore = "run by the test below"]
fn child() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let rig = rig(&dir);
    let log = dir.join("trained.log");
    let inner = rig.crew();
    let trainer = inner.trainer.clone();
    let crew =
        Crew { trainer: Arc::new(move || Ok(Box::new(Logged { inner: trainer()?, log: log.clone() }))), ..inner };
    let begun = dir.join("begun");
    let observer = Watch(move |progress| {
        if matches!(progress, Progress::Phase(_)) {
            std::fs::write(&begun, "").unwrap();
        }
    });
    let end = rig.play(crew, Arc::new(observer), &StopToken::default(), |_| {});
    assert_eq!(end, RunEnd::Completed);
    std::fs::write(dir.join("done"), "").unwrap();
}

/// Writes down what is trained on, before it is.
struct Logged {
    inner: Box<dyn Trainer>,
    log: PathBuf,
}

impl Trainer for Logged {
    fn newest(&self) -> Option<TrainedItem> {
        self.inner.newest()
    }

    fn train(&mut self, job: &TrainJob) -> Result<TrainedItem, TrainError> {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let batch: Vec<_> = job.samples.iter().map(|s| (&s.prompt, &s.tokens, s.code_advantage.to_bits())).collect();
        // In one piece, on a line of its own and with its end: the next life goes on in this file, wherever this one was killed.
        file.write_all(format!("\n{} {batch:?} end\n", job.step).as_bytes()).unwrap();
        self.inner.train(job)
    }
}

/// Planted: every kill within 30 ms of the start, before anything happens. Seen: "kills, 0 of a run gone on, 0 lives, and
/// not done".
#[test]
fn killed_at_random_moments_it_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(dir.path());
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let begun = dir.path().join("begun");
    let (mut kills, mut progressed) = (0, 0);
    let mut furthest = Reached::default();
    loop {
        let lives = furthest.lives;
        assert!(kills < LIVES_MAX, "{kills} kills, {progressed} of a run gone on, {lives} lives, and not done");
        let _ = std::fs::remove_file(&begun);
        let mut child = rig::child_process(module_path!(), DIR, dir.path());
        if kills < KILLS || progressed < PROGRESSED || lives < LIVES {
            // One in six at any moment of the start, the others at any moment of the work: a busy machine starts slowly.
            let at_work = kills % 6 != 5;
            let deadline = Instant::now() + LIFE;
            while at_work && !begun.exists() {
                assert!(Instant::now() < deadline, "after {kills} kills a life does not come to its work");
                std::thread::sleep(Duration::from_millis(2));
            }
            let most = if at_work { 400 } else { 120 };
            std::thread::sleep(Duration::from_millis(rng.random_range(1..most)));
            child.kill().unwrap();
            let _ = child.wait();
            kills += 1;
            if dir.path().join("done").exists() {
                break;
            }
            let reached = check_consistent(&rig);
            progressed += usize::from(reached.events > furthest.events || reached.step > furthest.step);
            furthest = reached;
        } else {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            break;
        }
    }
    assert!(kills >= 20, "only {kills} kills before the end: make the run longer");
    eprintln!("{progressed} of {kills} kills met a run that had gone on, {} lives came as far as RL", furthest.lives);
    let enough = progressed >= PROGRESSED && furthest.lives >= LIVES;
    assert!(enough, "{progressed} of {kills} kills met a run that had gone on, {} lives: too short", furthest.lives);
    check_complete(&rig, &dir.path().join("trained.log"));
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default)]
struct Reached {
    /// Answers evaluated and events journalled.
    events: u64,
    /// Of the checkpoint.
    step: u64,
    /// Epochs in the journal.
    lives: u32,
}

/// What holds at any moment: the store opens and its journal replays to a ledger that closes.
fn check_consistent(rig: &Rig) -> Reached {
    let reader = match actors::store::Reader::open(&rig.run_dir) {
        Ok(reader) => reader,
        Err(StoreError::Missing(_) | StoreError::Unbegun(_)) => {
            // Killed before the tables were in it; the next start makes them.
            assert_eq!(rig.checkpoints().newest().unwrap(), None);
            return Reached::default();
        }
        Err(error) => panic!("a kill left a store that cannot be opened: {error}"),
    };
    let plan = rig.plan();
    let mut machine = Snapshot::start(plan.machine, plan.train);
    for record in reader.journal_from(0).unwrap() {
        machine.apply(&record).unwrap();
    }
    assert!(machine.machine.ledger().closes(), "{:?}", machine.machine.ledger());
    if let Some(snapshot) = reader.snapshot().unwrap() {
        // The snapshot is what the journal says: decode(encode(x)) is part of it.
        let again: Snapshot = codec::decode(&codec::encode(&snapshot).unwrap()).unwrap();
        assert_eq!(again, snapshot);
    }
    // A checkpoint is never ahead of the journal by more than the step that the journal says is being trained.
    let step = rig.checkpoints().newest().unwrap().map_or(0, |m| m.step.0);
    assert!(step <= machine.machine.step().0 + 1, "checkpoint of step {step}, journal at {}", machine.machine.step());
    let evaluated: usize =
        [PhaseTag::EvalBefore, PhaseTag::EvalAfter].iter().map(|tag| reader.evaluated(*tag).unwrap().len()).sum();
    let lives = machine.machine.epoch().map_or(0, |epoch| epoch.0);
    Reached { events: machine.next_seq + evaluated as u64, step, lives }
}

fn check_complete(rig: &Rig, log: &Path) {
    let reader = rig.reader();
    let plan = rig.plan();

    // The whole journal, from the first event on, over all lives.
    let mut machine = Snapshot::start(plan.machine.clone(), plan.train.clone());
    let mut ends: BTreeMap<RolloutId, Ending> = BTreeMap::new();
    let mut sampled = BTreeSet::new();
    let mut trained_in: BTreeMap<StepId, Vec<RolloutId>> = BTreeMap::new();
    for record in reader.journal_from(0).unwrap() {
        for command in machine.apply(&record).unwrap() {
            match command {
                Order::Sample { rollout, .. } => drop(sampled.insert(rollout)),
                Order::End { rollout, ending } => {
                    assert_eq!(ends.insert(rollout, ending), None, "rollout {rollout} ended twice");
                    if let Ending::Trained(step) = ending {
                        trained_in.entry(step).or_default().push(rollout);
                    }
                }
                _ => {}
            }
        }
    }
    let ledger = machine.machine.ledger();
    assert!(ledger.closes());
    assert_eq!(ledger.in_flight, 0);
    assert_eq!(ends.keys().copied().collect::<BTreeSet<_>>(), sampled, "none lost without a reason");
    let mut by_reason: BTreeMap<String, usize> = BTreeMap::new();
    ends.values()
        .filter(|e| !matches!(e, Ending::Trained(_)))
        .for_each(|e| *by_reason.entry(format!("{e:?}")).or_default() += 1);
    let missing: Vec<u64> = (1..=plan.machine.steps).filter(|s| !trained_in.contains_key(&StepId(*s))).collect();
    assert_eq!(missing, Vec::<u64>::new(), "steps without rollouts; endings besides trained: {by_reason:?}");

    // The store's rows say the same as the journal.
    let mut rows = BTreeMap::new();
    reader
        .each_summary(|row| {
            if row.phase == PhaseTag::Train {
                rows.insert(RolloutId(row.id), (row.ending.clone(), row.step));
            }
            true
        })
        .unwrap();
    assert_eq!(rows.len(), ends.len());
    for (rollout, ending) in &ends {
        let (text, step) = &rows[rollout];
        match ending {
            Ending::Trained(at) => assert_eq!((text.as_deref(), *step), (Some("trained"), Some(at.0))),
            Ending::Dropped(_) => assert!(text.is_some() && step.is_none(), "{rollout}: {text:?} {step:?}"),
        }
    }

    // Steps are durable once each, in order; a step that was begun again was begun with the same batch.
    let steps: Vec<u64> = reader.steps().unwrap().iter().map(|row| row.step.0).collect();
    assert_eq!(steps, (1..=plan.machine.steps).collect::<Vec<_>>());
    assert_eq!(rig.checkpoints().newest().unwrap().unwrap().policy.0, plan.machine.steps);
    let mut batches: BTreeMap<u64, String> = BTreeMap::new();
    for line in std::fs::read_to_string(log).unwrap().lines() {
        let Some((step, batch)) = line.strip_suffix(" end").and_then(|line| line.split_once(' ')) else { continue };
        let known = batches.entry(step.parse().unwrap()).or_insert_with(|| batch.to_string());
        assert_eq!(known, batch, "step {step} was begun again with another batch");
    }
    assert_eq!(batches.len() as u64, plan.machine.steps, "every step is written down before it is taken");
    let lines = std::fs::read_to_string(rig.run_dir.join("metrics.jsonl")).unwrap();
    for line in lines.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }

    // Every held-out answer was evaluated once, before and after.
    for phase in [PhaseTag::EvalBefore, PhaseTag::EvalAfter] {
        let answers = reader.evaluated(phase).unwrap().len() as u64;
        assert_eq!(answers, plan.evaluated.len() as u64 * plan.eval_samples, "{phase:?}");
    }
}
