//! Ways a run ends early: Ctrl-C, a time limit, a full disk. Nothing is lost, and the next process goes on.

use crate::rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actors::crew::{Crew, TrainError};
use actors::observe::{Progress, RunPhase, Silent};
use actors::orchestrator::RunEnd;
use actors::stop::StopToken;
use actors::store::rows::PhaseTag;
use actors::store::{StoreConfig, Writer};
use actors::supervise::fault;
use model::guard::{GuardConfig, Reaction};
use rig::{Rig, Watch};

fn complete(rig: &Rig) {
    let reader = rig.reader();
    let endings = reader.endings(PhaseTag::Train).unwrap();
    assert_eq!(endings.get("in_flight"), None, "{endings:?}");
    let per_step = u64::from(rig.machine.group_size * rig.machine.groups_per_step);
    assert_eq!(endings.get("trained"), Some(&(rig.machine.steps * per_step)), "{endings:?}");
    let steps: Vec<u64> = reader.steps().unwrap().iter().map(|row| row.step.0).collect();
    assert_eq!(steps, (1..=rig.machine.steps).collect::<Vec<_>>());
}

#[test]
fn a_stop_in_the_middle_lets_go_and_a_resume_completes() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(dir.path());
    rig.machine.staleness_max = 1;
    // Many more than pass until the wish is seen, on a loaded machine too.
    rig.machine.steps = 60;
    // Executing is what a step waits for: there is always something under way, also when the wish is seen between two of them.
    rig.execute_delay = Duration::from_millis(50);
    let stop = StopToken::default();
    let asked = stop.clone();
    let observer = Watch(move |progress| {
        if matches!(progress, Progress::Step(row) if row.step.0 == 2) {
            asked.ask();
        }
    });
    assert_eq!(rig.play(rig.crew(), Arc::new(observer), &stop, |_| {}), RunEnd::Stopped);
    let reader = rig.reader();
    let endings = reader.endings(PhaseTag::Train).unwrap();
    assert_eq!(endings.get("in_flight"), None, "all let go: {endings:?}");
    assert!(endings.get("stopped").is_some_and(|n| *n > 0), "{endings:?}");
    let steps = reader.steps().unwrap().len() as u64;
    assert!((2..60).contains(&steps), "{steps}");
    assert_eq!(reader.meta("done.train").unwrap(), None);
    rig.execute_delay = Duration::ZERO;
    assert_eq!(rig.play(rig.crew(), Arc::new(Silent), &StopToken::default(), |_| {}), RunEnd::Completed);
    complete(&rig);
}

/// The run ends with the checkpoint of the step that rang, and a resume with another limit goes on from there.
#[test]
fn the_guard_stops_the_run_after_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(dir.path());
    rig.machine.steps = 6;
    // One pass: behaviour and learner agree to rounding, and a limit of zero is passed by rounding.
    rig.guard = GuardConfig { mismatch: Reaction::Stop, mismatch_kl_max: 0.0, ..GuardConfig::default() };
    let end = rig.play(rig.crew(), Arc::new(Silent), &StopToken::default(), |_| {});
    let RunEnd::Failed { fault, disk_full: false } = end else { panic!("{end:?}") };
    assert_eq!(fault.code, "F119");
    assert!(fault.message.contains("after 1: learner and sampler are"), "{fault}");
    let reader = rig.reader();
    let steps = reader.steps().unwrap();
    assert_eq!(steps.iter().map(|row| (row.step.0, row.applied)).collect::<Vec<_>>(), [(1, false)]);
    let newest = rig.checkpoints().newest().unwrap().unwrap();
    assert_eq!((newest.step.0, newest.policy.0), (1, 1));
    assert!(reader.faults().unwrap().iter().any(|f| f.code == "F119"));
    assert_eq!(reader.meta("done.train").unwrap(), None);
    rig.guard = GuardConfig::default();
    assert_eq!(rig.play(rig.crew(), Arc::new(Silent), &StopToken::default(), |_| {}), RunEnd::Completed);
    complete(&rig);
}

#[test]
fn a_stop_during_an_evaluation_keeps_its_verdicts() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(dir.path());
    rig.machine.steps = 1;
    rig.eval_samples = 20;
    // Seconds for all of them: a wish that is seen late still meets some that go on.
    rig.execute_delay = Duration::from_millis(100);
    let stop = StopToken::default();
    let asked = stop.clone();
    let observer = Watch(move |progress| {
        if matches!(progress, Progress::Eval { phase: RunPhase::EvalBefore, done, .. } if done >= 5) {
            asked.ask();
        }
    });
    assert_eq!(rig.play(rig.crew(), Arc::new(observer), &stop, |_| {}), RunEnd::Stopped);
    let kept: Vec<_> = rig.reader().evaluated(PhaseTag::EvalBefore).unwrap();
    assert!((5..80).contains(&kept.len()), "{} verdicts", kept.len());
    rig.execute_delay = Duration::ZERO;
    assert_eq!(rig.play(rig.crew(), Arc::new(Silent), &StopToken::default(), |_| {}), RunEnd::Completed);
    let all = rig.reader().evaluated(PhaseTag::EvalBefore).unwrap();
    assert_eq!(all.len(), 80);
    assert!(kept.iter().all(|verdict| all.contains(verdict)), "what was known stays as it was");
}

#[test]
fn a_time_limit_ends_rl_but_not_the_evaluation_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(dir.path());
    rig.machine.steps = 100_000;
    rig.eval_samples = 2;
    rig.execute_delay = Duration::from_millis(5);
    let end = rig.play(rig.crew(), Arc::new(Silent), &StopToken::default(), |args| args.time_limit_ms = 6000);
    assert_eq!(end, RunEnd::Completed);
    let reader = rig.reader();
    assert!((1..5_000).contains(&reader.steps().unwrap().len()));
    assert_eq!(reader.evaluated(PhaseTag::EvalAfter).unwrap().len(), 8);
    assert!(reader.meta("done.train").unwrap().is_some());
}

#[test]
fn a_full_disk_ends_the_run_with_one_fault_and_a_resume_completes() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(dir.path());
    rig.machine.steps = 30;
    let told = Arc::new(AtomicU64::new(0));
    let count = told.clone();
    let observer = Watch(move |progress| {
        if matches!(progress, Progress::Fault { .. }) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let config = StoreConfig { max_pages: Some(90), ..StoreConfig::new(rig.run_dir.clone()) };
    let writer = Writer::start(config, Box::new(|_| {})).unwrap();
    let end = rig.play_with(&writer, rig.crew(), Arc::new(observer), &StopToken::default(), |_| {});
    assert!(writer.stop().is_err());
    let RunEnd::Failed { fault, disk_full } = end else { panic!("{end:?}") };
    assert_eq!((fault.code.as_str(), disk_full), ("F105", true), "{fault}");
    assert_eq!(told.load(Ordering::Relaxed), 1, "one clear fault");
    let before = rig.reader().steps().unwrap().len();
    assert!(before < 30);
    assert_eq!(rig.play(rig.crew(), Arc::new(Silent), &StopToken::default(), |_| {}), RunEnd::Completed);
    complete(&rig);
}

#[test]
fn a_checkpoint_that_cannot_be_written_ends_the_run_and_a_resume_completes() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(dir.path());
    rig.machine.steps = 4;
    // In place of the folder of checkpoints there is a file.
    let inner = rig.crew();
    let (trainer, place) = (inner.trainer.clone(), rig.run_dir.join("checkpoints"));
    let broken =
        Crew { trainer: Arc::new(move || Ok(Box::new(Blocked { inner: trainer()?, place: place.clone() }))), ..inner };
    let end = rig.play(broken, Arc::new(Silent), &StopToken::default(), |_| {});
    let RunEnd::Failed { fault, .. } = end else { panic!("{end:?}") };
    assert_eq!(fault.code, "F106", "{fault}");
    std::fs::remove_file(rig.run_dir.join("checkpoints")).unwrap();
    assert_eq!(rig.play(rig.crew(), Arc::new(Silent), &StopToken::default(), |_| {}), RunEnd::Completed);
    complete(&rig);
}

struct Blocked {
    inner: Box<dyn actors::crew::Trainer>,
    place: std::path::PathBuf,
}

impl actors::crew::Trainer for Blocked {
    fn newest(&self) -> Option<actors::crew::TrainedItem> {
        self.inner.newest()
    }

    fn train(&mut self, job: &actors::crew::TrainJob) -> Result<actors::crew::TrainedItem, TrainError> {
        std::fs::write(&self.place, "in the way").map_err(|e| TrainError { fatal: true, fault: fault("F106", e) })?;
        self.inner.train(job)
    }
}
