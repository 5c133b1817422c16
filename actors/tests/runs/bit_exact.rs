//! Resuming is exact: a run that is killed again and again trains on the same batches, to the bit, and ends with the same weights and
//! optimizer as one that nobody disturbed, although evaluations take as long as they like and end in any order.
//!
//! Synchronous (`staleness_max` = 0), with the tiny real policy, real checkpoints, groups without variance dropped, a curriculum
//! that follows the results, the guard's memory, and several passes a step.

use crate::rig;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::crew::{BoxFuture, Crew, TrainError, TrainJob, TrainedItem, Trainer, Verifier};
use actors::orchestrator::RunEnd;
use actors::stop::StopToken;
use actors::store::rows::PhaseTag;
use model::guard::{GuardConfig, Reaction};
use model::lora::{LoraConfig, Target};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rig::{Rig, Watch};
use rollout::curriculum::CurriculumKind;
use rollout::outcome::{Candidate, ExecReport, Fault};
use rollout::task::TaskSpec;

const DIR: &str = "TROUPE_TEST_EXACT_DIR";
/// A file in the run's folder that asks for adapters.
const LORA: &str = "lora";
const STEPS: u64 = 20;
const KILLS: usize = 6;
/// For one life to take one step.
const DEADLINE: Duration = Duration::from_secs(240);

fn rig(dir: &Path) -> Rig {
    let mut rig = Rig::new(dir);
    rig.machine.steps = STEPS;
    rig.machine.drop_zero_variance = true;
    rig.machine.zero_variance_limit = 2;
    rig.machine.curriculum = CurriculumKind::Frontier;
    rig.loss.epochs = 2;
    if dir.join(LORA).exists() {
        let targets = vec![Target::QProj, Target::VProj, Target::UpProj, Target::DownProj];
        rig.lora = Some(LoraConfig { rank: 4, alpha: 8.0, targets, rslora: false });
        rig.loss.kl_coef = 0.02;
    }
    // Rings now and then, and halves the rate.
    rig.guard = GuardConfig {
        gradient_spike: Reaction::LowerRate,
        gradient_spike_factor: 1.2,
        window: 4,
        ..GuardConfig::default()
    };
    rig
}

/// As `rig::ByTag`, after a while that nobody knows.
struct Moody(rig::ByTag);

impl Verifier for Moody {
    fn verify<'a>(&'a mut self, task: &'a TaskSpec, c: &'a Candidate) -> BoxFuture<'a, Result<ExecReport, Fault>> {
        self.0.delay = Duration::from_micros(rand::rng().random_range(0..12_000));
        self.0.verify(task, c)
    }
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
    let crew = Crew {
        trainer: Arc::new(move || Ok(Box::new(Logged { inner: trainer()?, log: log.clone() }))),
        verifier: Arc::new(|_| {
            Box::pin(async { Ok(Box::new(Moody(rig::ByTag { delay: Duration::ZERO })) as Box<dyn Verifier>) })
        }),
        ..inner
    };
    let end = rig.play(crew, Arc::new(Watch(|_| {})), &StopToken::default(), |_| {});
    assert_eq!(end, RunEnd::Completed);
    std::fs::write(dir.join("done"), "").unwrap();
}

/// Writes down what is trained on, to the bit, and the digest of all that comes of it.
struct Logged {
    inner: Box<dyn Trainer>,
    log: PathBuf,
}

impl Trainer for Logged {
    fn newest(&self) -> Option<TrainedItem> {
        self.inner.newest()
    }

    fn train(&mut self, job: &TrainJob) -> Result<TrainedItem, TrainError> {
        let bits = |x: f32| x.to_bits();
        let batch: Vec<_> = job
            .samples
            .iter()
            .map(|s| {
                let floats = [s.plan_advantage, s.code_advantage, s.plan_weight, s.code_weight].map(bits);
                (&s.prompt, &s.tokens, s.logprobs.iter().copied().map(bits).collect::<Vec<_>>(), floats)
            })
            .collect();
        self.write(&format!("{} batch {batch:?}", job.step));
        let item = self.inner.train(job)?;
        self.write(&format!("{} digest {}", job.step, item.digest.0));
        Ok(item)
    }
}

impl Logged {
    fn write(&self, line: &str) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        // In one piece, on a line of its own and with its end: the next life goes on in this file, wherever this one was killed.
        file.write_all(format!("\n{line} end\n").as_bytes()).unwrap();
    }
}

/// Plays the run to its end, killed at most `kills` times at random moments after it has begun; how often it was.
fn play(dir: &Path, kills: usize) -> usize {
    std::fs::create_dir_all(dir).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut killed = 0;
    while killed < kills {
        let (reached, deadline) = (steps(dir), Instant::now() + DEADLINE);
        let mut child = rig::child_process(module_path!(), DIR, dir);
        // Until it has gone on, then a little: in the middle of whatever comes next.
        while steps(dir) == reached && !dir.join("done").exists() {
            assert!(Instant::now() < deadline, "after {killed} kills step {reached} does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(rng.random_range(0..120_000)));
        child.kill().unwrap();
        let _ = child.wait();
        if dir.join("done").exists() {
            return killed;
        }
        killed += 1;
    }
    let output = rig::child_process(module_path!(), DIR, dir).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    killed
}

fn steps(dir: &Path) -> usize {
    std::fs::read_to_string(dir.join("trained.log")).map_or(0, |text| whole(&text).count())
}

/// Lines with their end; a killed process may leave half of one.
fn whole(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.strip_suffix(" end"))
}

/// What each step trained on, and what it came to where its process lived to say so. A step that was taken twice, because its
/// process died before it was durable, has to be the same both times.
fn history(dir: &Path) -> BTreeMap<(u64, String), String> {
    let text = std::fs::read_to_string(dir.join("trained.log")).unwrap();
    let mut found = BTreeMap::new();
    for line in whole(&text) {
        let mut parts = line.splitn(3, ' ');
        let (step, what, rest) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        let before = found.insert((step.parse().unwrap(), what.to_owned()), rest.to_owned());
        assert!(before.is_none_or(|b| b == rest), "step {step} was taken twice, with another {what}");
    }
    found
}

/// Planted: `staleness_max = 1`. Seen: "step 10 has another batch". Planted: a loaded checkpoint forgets the guard's memory. Seen: "step 4
/// has another digest".
#[test]
fn a_run_that_is_killed_and_resumed_equals_one_that_is_not() {
    killed_equals_calm(false);
}

/// Only adapters are in the checkpoints; what generators sample with is merged anew from the base each time. Planted: a loaded
/// checkpoint does not merge. Seen: "step 2 has another batch".
#[test]
fn a_run_with_adapters_that_is_killed_and_resumed_equals_one_that_is_not() {
    killed_equals_calm(true);
}

fn killed_equals_calm(lora: bool) {
    let dir = tempfile::tempdir().unwrap();
    let (calm, wild) = (dir.path().join("calm"), dir.path().join("wild"));
    for dir in [&calm, &wild] {
        std::fs::create_dir_all(dir).unwrap();
        if lora {
            std::fs::write(dir.join(LORA), "").unwrap();
        }
    }
    assert_eq!(play(&calm, 0), 0);
    let kills = play(&wild, KILLS);
    assert!(kills >= 3, "the run ended after {kills} kills: make it longer");
    let (calm_history, wild_history) = (history(&calm), history(&wild));
    assert_eq!(calm_history.len() as u64, 2 * STEPS);
    for ((step, what), line) in &calm_history {
        match wild_history.get(&(*step, what.clone())) {
            Some(other) => assert!(line == other, "step {step} has another {what}"),
            None => assert_eq!(what, "digest", "step {step} was never trained"),
        }
    }
    assert!(wild_history.len() + kills >= calm_history.len(), "no more digests are missing than it was killed");
    let newest = |dir: &Path| rig(dir).checkpoints().newest().unwrap().unwrap();
    let (a, b) = (newest(&calm), newest(&wild));
    assert_eq!((a.step, a.policy, &a.digest), (b.step, b.policy, &b.digest));
    // Times apart, the reports are the same numbers.
    let numbers = |mut report: serde_json::Value| {
        report.as_object_mut().unwrap().remove("seconds");
        report
    };
    assert_eq!(numbers(a.report), numbers(b.report));
    let ledger = |dir: &Path| rig(dir).reader().endings(PhaseTag::Train).unwrap();
    assert_eq!(ledger(&calm), ledger(&wild), "what became of the rollouts");
    let state = std::fs::read(rig(&calm).checkpoints().path(a.policy).join("manifest.json")).unwrap();
    assert_eq!(String::from_utf8(state).unwrap().contains("\"base\""), lora, "what is saved is what is trained");
    eprintln!("{kills} kills, {STEPS} steps equal to the bit");
}
