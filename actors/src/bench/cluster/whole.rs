//! A whole run as the head of a cluster, in a process that may be killed: machine, judge, journal, store, checkpoints and gateway as
//! in `troupe run`; only the update, and sampling where nodes do not do it, cost nothing, and nodes evaluate stand-ins. Started in the same folder again it
//! goes on as `troupe resume` does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rollout::curriculum::CurriculumKind;
use rollout::id::{Digest, PolicyVersion};
use rollout::machine::MachineConfig;
use rollout::outcome::Fault;
use rollout::task::Split;
use tokio::sync::oneshot;

use super::sampled::sampled;
use crate::bench::standins;
use crate::cluster::kit::{Kit, Work};
use crate::cluster::{Cookie, Head, HeadConfig};
use crate::config::Cluster;
use crate::crew::{Crew, TrainError, TrainJob, TrainedItem, Trainer, Weights};
use crate::dump::Dumper;
use crate::errors::{UserError, disk_full};
use crate::eval::EvalLimits;
use crate::generator::Adoption;
use crate::observe::{Observer, Progress, Source};
use crate::orchestrator::{OrchestratorArgs, RunEnd};
use crate::policy::{Checkpoints, Manifest};
use crate::resume::{Plan, restore};
use crate::run::RunError;
use crate::session::conduct;
use crate::stop::StopToken;
use crate::store::rows::Op;
use crate::store::{Reader, StoreConfig, Writer};
use crate::supervise::{CHECKPOINT, fault};
use crate::wiring::Capacities;

const TASKS: usize = 16;
const GROUP_SIZE: u32 = 4;
const GROUPS_PER_STEP: u32 = 4;
/// More than any drill takes: it is ended by its signal.
const STEPS: u64 = 1_000_000;
/// Bytes of one stand-in checkpoint: a full disk hits it too.
const CHECKPOINT_BYTES: usize = 256 << 10;
const LIMIT: Duration = Duration::from_secs(60);
const EPOCH: &str = "cluster_epoch";

/// Settings of the head's process.
#[derive(Clone, Debug)]
pub struct Whole {
    pub dir: PathBuf,
    pub listen: String,
    pub cookie: Cookie,
    pub takes_ms: u64,
    pub credits: u32,
    /// Nodes sample, from a tiny policy; the head does not.
    pub sampled: bool,
}

/// The run's settings: the same in every life.
pub fn plan(credits: u32) -> Plan {
    let machine = MachineConfig {
        group_size: GROUP_SIZE,
        groups_per_step: GROUPS_PER_STEP,
        // The learner takes no time: what waits for a frozen node would be stale, and its loss no fault. Here each is tried again.
        staleness_max: STEPS,
        credits,
        curriculum: CurriculumKind::Uniform,
        drop_zero_variance: false,
        steps: STEPS,
        // As long as drills take nothing away: what a dead head or node held is tried again.
        retries: 100,
        execute_deadline_ms: 120_000,
        ..MachineConfig::default()
    };
    let train = standins::tasks(TASKS, Split::Train).iter().map(|task| task.spec.id.clone()).collect();
    let limits = EvalLimits { credits: 1, retries: 1, sample_ms: 1000, judge_ms: 1000, execute_ms: 1000 };
    Plan { machine, train, train_mixture: Vec::new(), evaluated: Vec::new(), eval_samples: 0, seed: 1, limits }
}

/// Takes its steps at once, and leaves a durable checkpoint of each.
struct Steps {
    checkpoints: Checkpoints,
    weights: Weights,
}

impl Steps {
    fn item(&self, manifest: Manifest) -> TrainedItem {
        let Manifest { step, policy, digest, applied, report, .. } = manifest;
        TrainedItem { step, policy, applied, report, digest, weights: self.weights.clone(), tokens: Vec::new() }
    }

    fn save(&self, manifest: &Manifest) -> std::io::Result<()> {
        let folder = self.checkpoints.path(manifest.policy);
        std::fs::create_dir_all(&folder)?;
        crate::policy::write_atomically(&folder.join("weights"), &vec![1; CHECKPOINT_BYTES])?;
        self.checkpoints.publish(manifest)
    }
}

impl Trainer for Steps {
    fn newest(&self) -> Option<TrainedItem> {
        self.checkpoints.newest().ok().flatten().map(|manifest| self.item(manifest))
    }

    fn train(&mut self, job: &TrainJob) -> Result<TrainedItem, TrainError> {
        let before = self.newest().map_or(PolicyVersion(0), |item| item.policy);
        let report = serde_json::json!({ "loss": 0.0 });
        let manifest =
            self.checkpoints.manifest(job.step, PolicyVersion(before.0 + 1), Digest(String::new()), true, report);
        match self.save(&manifest) {
            Ok(()) => Ok(self.item(manifest)),
            Err(e) => {
                let fault: Fault =
                    fault(CHECKPOINT, format!("the checkpoint of step {} cannot be written: {e}", job.step));
                Err(TrainError { fault, fatal: disk_full(&e) })
            }
        }
    }
}

/// Says each note on stderr: the drill reads it.
struct Said;

impl Observer for Said {
    fn on(&self, progress: Progress) {
        match progress {
            Progress::Note(text) => eprintln!("{text}"),
            Progress::Fault { code, message } => eprintln!("fault {code}: {message}"),
            _ => {}
        }
    }
}

/// Until it is stopped, killed, or cannot go on.
///
/// # Errors
/// A port that is taken, a store that cannot be written, a run that failed (F105, F106).
pub fn head(whole: &Whole, stop: &StopToken) -> Result<(), RunError> {
    let no_signal = |source| RunError::Io { doing: "cannot listen for SIGUSR1 in", path: whole.dir.clone(), source };
    let observer: Arc<dyn Observer> = Dumper::listen("head", Some(&whole.dir), Arc::new(Said)).map_err(no_signal)?;
    std::fs::create_dir_all(whole.dir.join("checkpoints"))
        .map_err(|e| UserError::io("make the run directory", &whole.dir, &e))?;
    let writer = Writer::start(StoreConfig::new(whole.dir.clone()), Box::new(|e| eprintln!("the store failed: {e}")))?;
    let store = writer.handle();
    store.send(vec![Op::Meta { key: "config", value: "a drill".into() }])?;
    store.flush(LIMIT)?;
    let reader = Reader::open(&whole.dir)?;
    let epoch = reader.meta(EPOCH)?.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) + 1;
    store.send(vec![Op::Meta { key: EPOCH, value: epoch.to_string() }])?;
    store.flush(LIMIT)?;
    let checkpoints = Checkpoints::new(&whole.dir, 1);
    let io = |source| RunError::Io { doing: "cannot read the checkpoints in", path: whole.dir.clone(), source };
    let newest = checkpoints.newest().map_err(io)?;
    let policy = newest.as_ref().map_or(PolicyVersion(0), |manifest| manifest.policy);
    let restored = restore(&reader, &plan(whole.credits), newest.as_ref())?;
    drop(reader);
    store.send(restored.repairs)?;
    let tasks = standins::tasks(TASKS, Split::Train);
    let settings = Cluster::default();
    let sampled = whole.sampled.then(|| sampled(&whole.dir, epoch, &tasks)).transpose()?;
    let weights = sampled.as_ref().map_or_else(standins::weights, |sampled| sampled.weights.clone());
    let config = HeadConfig {
        listen: whole.listen.clone(),
        bulk_port: 0,
        cookie: whole.cookie.clone(),
        epoch,
        beat: settings.beat(),
        limit: settings.max_message_bytes,
        kit: Kit {
            work: Work::StandIn { takes_ms: whole.takes_ms },
            tasks: tasks.iter().map(|task| (*task.spec).clone()).collect(),
            deadline_ms: 60_000,
            executors: 1,
        },
        observer: observer.clone(),
    };
    let generating = sampled.map(|sampled| (sampled.generating, sampled.policy));
    let head = Head::start_with(config, generating.as_ref().map(|(g, policy)| (g.clone(), policy.as_path())))?;
    eprintln!("the head listens, epoch {epoch}");
    observer.may_look(Source::Cluster(head.link()));
    let of_steps = weights.clone();
    let crew = Crew {
        trainer: Arc::new(move || Ok(Box::new(Steps { checkpoints: checkpoints.clone(), weights: of_steps.clone() }))),
        cluster: Some(head.link()),
        ..standins::crew(|_| true)
    };
    let (done, ended) = oneshot::channel();
    let args = OrchestratorArgs {
        crew,
        capacities: Capacities {
            credits: whole.credits as usize,
            executors: 0,
            executors_max: 0,
            execute_deadline: Duration::from_secs(60),
            train_deadline: Duration::from_secs(60),
            reuse_verdicts: false,
        },
        tasks,
        phases: restored.phases,
        store,
        observer,
        reward: reward::RewardConfig::default(),
        start: Adoption { weights, policy },
        time_limit_ms: 0,
        tick: Duration::from_millis(100),
        done,
    };
    let end = conduct(args, ended, stop);
    head.finish(matches!(end, Ok(RunEnd::Completed)));
    match end? {
        RunEnd::Failed { fault, disk_full } => {
            let hint = if disk_full { "free some space, then start it again" } else { "start it again" };
            Err(RunError::Fault { fault, hint: hint.into() })
        }
        RunEnd::Completed | RunEnd::Stopped => Ok(writer.stop()?),
    }
}

/// What a store says of a run that has ended for now.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Books {
    pub sampled: u64,
    pub trained: u64,
    pub in_flight: u64,
    pub dropped: u64,
    pub steps: u64,
    /// Faults of ours by code.
    pub faults: std::collections::BTreeMap<String, u64>,
    /// What is wrong; nothing, if all is well.
    pub wrong: Vec<String>,
}

/// Replays the journal from the first event on and compares it with the rows.
///
/// # Errors
/// The store cannot be read, or the journal does not fit together.
pub fn books(dir: &Path, credits: u32) -> Result<Books, RunError> {
    use rollout::event::{Command, Ending};
    let reader = Reader::open(dir)?;
    let plan = plan(credits);
    let mut machine = rollout::journal::Snapshot::start(plan.machine, plan.train);
    let mut books = Books { faults: reader.fault_counts()?, ..Books::default() };
    let (mut sampled, mut ends) = (std::collections::BTreeSet::new(), std::collections::BTreeMap::new());
    for record in reader.journal_from(0)? {
        for command in machine.apply(&record).map_err(crate::resume::ResumeError::from)? {
            match command {
                Command::Sample { rollout, .. } => drop(sampled.insert(rollout)),
                Command::End { rollout, ending } => {
                    let twice = ends.insert(rollout, ending).is_some();
                    books.wrong.extend(twice.then(|| format!("rollout {rollout} ended twice")));
                }
                _ => {}
            }
        }
    }
    books.sampled = sampled.len() as u64;
    books.trained = ends.values().filter(|ending| matches!(ending, Ending::Trained(_))).count() as u64;
    books.dropped = ends.len() as u64 - books.trained;
    books.in_flight = sampled.iter().filter(|rollout| !ends.contains_key(rollout)).count() as u64;
    if !machine.machine.ledger().closes() {
        books.wrong.push(format!("the ledger does not close: {:?}", machine.machine.ledger()));
    }
    if books.in_flight != machine.machine.ledger().in_flight {
        books.wrong.push(format!("{} in flight, the ledger says {:?}", books.in_flight, machine.machine.ledger()));
    }
    let rows = reader.endings(crate::store::rows::PhaseTag::Train)?;
    // The last words of a head that was killed may not be in the rows yet: `troupe resume` writes them again.
    let trained = rows.get("trained").copied().unwrap_or(0);
    if trained > books.trained {
        books.wrong.push(format!("{trained} rows are trained, the journal knows {}", books.trained));
    }
    let steps: Vec<u64> = reader.steps()?.iter().map(|row| row.step.0).collect();
    books.steps = steps.len() as u64;
    if steps != (1..=books.steps).collect::<Vec<_>>() {
        books.wrong.push("steps are missing, or twice".into());
    }
    Ok(books)
}
