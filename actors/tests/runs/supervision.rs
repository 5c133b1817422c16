//! The supervision table (`docs/supervision.md`), row by row: each actor is killed in the middle of a run, once, and
//! the run goes on to its end within a deadline; an actor that keeps dying ends the run with one clear fault.

use crate::rig;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use actors::bench::standins;
use actors::crew::{
    BoxFuture, Crew, SampleJob, SampledItem, Sampler, Taken, TrainError, TrainJob, TrainedItem, Trainer, Verifier,
    Weights,
};
use actors::driver::PhaseSpec;
use actors::generator::Adoption;
use actors::observe::Progress;
use actors::orchestrator::{OrchestratorArgs, OrchestratorMsg, RunEnd};
use actors::stop::StopToken;
use actors::store::rows::PhaseTag;
use actors::store::{Reader, StoreConfig, Writer};
use actors::supervise::{Role, fault};
use actors::wiring::Capacities;
use ractor::ActorRef;
use rig::Watch;
use rollout::id::{Epoch, PolicyVersion, RolloutId, StepId};
use rollout::journal::Snapshot;
use rollout::machine::MachineConfig;
use rollout::outcome::{ExecReport, Fault};
use rollout::task::Split;
use tokio::sync::oneshot;

/// Longest time any of these runs may take.
const DEADLINE: Duration = Duration::from_secs(60);
const STEPS: u64 = 6;

struct Played {
    end: RunEnd,
    endings: std::collections::BTreeMap<String, u64>,
    steps: usize,
    faults: Vec<String>,
    /// Steps that the summary counts as skipped.
    skipped: u64,
}

/// Plays a run of stand-ins in its own thread; `disturb` is called with the orchestrator's address after step 2.
fn play(crew: Crew, disturb: impl Fn(&ActorRef<OrchestratorMsg>) + Send + Sync + 'static) -> Played {
    play_at(1, crew, disturb)
}

fn play_at(
    staleness_max: u64,
    crew: Crew,
    disturb: impl Fn(&ActorRef<OrchestratorMsg>) + Send + Sync + 'static,
) -> Played {
    play_with(move |machine| machine.staleness_max = staleness_max, crew, disturb)
}

fn play_with(
    set: impl FnOnce(&mut MachineConfig) + Send + 'static,
    crew: Crew,
    disturb: impl Fn(&ActorRef<OrchestratorMsg>) + Send + Sync + 'static,
) -> Played {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let tasks = standins::tasks(4, Split::Train);
        let mut machine = MachineConfig {
            group_size: 4,
            groups_per_step: 4,
            credits: 48,
            drop_zero_variance: false,
            steps: STEPS,
            ..MachineConfig::default()
        };
        set(&mut machine);
        let writer = Writer::start(StoreConfig::new(path), Box::new(|_| {})).unwrap();
        let address: Arc<OnceLock<ActorRef<OrchestratorMsg>>> = Arc::new(OnceLock::new());
        let (known, disturbed) = (address.clone(), AtomicU64::new(0));
        let observer = Watch(move |progress| {
            if let (Progress::Step(row), Some(orchestrator)) = (progress, known.get())
                && row.step.0 >= 2
                && disturbed.fetch_add(1, Ordering::Relaxed) == 0
            {
                disturb(orchestrator);
            }
        });
        let (done, ended) = oneshot::channel();
        let args = OrchestratorArgs {
            crew,
            capacities: Capacities {
                credits: 48,
                executors: 2,
                executors_max: 2,
                execute_deadline: Duration::from_secs(2),
                train_deadline: Duration::from_secs(5),
                reuse_verdicts: false,
            },
            phases: vec![PhaseSpec::Rl {
                snapshot: Box::new(Snapshot::start(machine, tasks.iter().map(|t| t.spec.id.clone()).collect())),
                epoch: Epoch(1),
                policy: PolicyVersion(0),
                step: StepId(0),
                clock_ms: 0,
                restored: Vec::new(),
            }],
            tasks,
            store: writer.handle(),
            observer: Arc::new(observer),
            reward: reward::RewardConfig::default(),
            start: Adoption { weights: standins::weights(), policy: PolicyVersion(0) },
            time_limit_ms: 0,
            tick: Duration::from_millis(50),
            done,
        };
        let end = conduct_with(args, ended, &address);
        writer.stop().unwrap();
        let _ = sender.send(end);
    });
    let end = receiver.recv_timeout(DEADLINE).expect("the run must end within its deadline");
    let reader = Reader::open(dir.path()).unwrap();
    let config = actors::config::Config::builtin().unwrap();
    Played {
        skipped: actors::run::summarise(&config, dir.path(), false, Duration::ZERO).unwrap().skipped,
        end,
        endings: reader.endings(PhaseTag::Train).unwrap(),
        steps: reader.steps().unwrap().len(),
        faults: reader.faults().unwrap().into_iter().map(|f| f.code).collect(),
    }
}

fn conduct_with(
    args: OrchestratorArgs,
    ended: oneshot::Receiver<RunEnd>,
    address: &Arc<OnceLock<ActorRef<OrchestratorMsg>>>,
) -> RunEnd {
    actors::session::conduct_known(args, ended, &StopToken::default(), |actor| {
        let _ = address.set(actor);
    })
    .unwrap()
}

/// All rollouts have an ending and every step was taken, whatever died.
fn goes_on(played: &Played, code: &str) {
    assert_eq!(played.end, RunEnd::Completed);
    assert_eq!(played.steps as u64, STEPS);
    assert_eq!(played.endings.get("in_flight"), None, "{:?}", played.endings);
    assert_eq!(played.endings.get("trained"), Some(&(STEPS * 16)), "{:?}", played.endings);
    assert!(played.faults.iter().any(|f| f == code), "the death is on record: {:?}", played.faults);
}

fn half(n: u64) -> bool {
    n.is_multiple_of(2)
}

#[test]
fn a_killed_generator_is_replaced() {
    goes_on(&play(standins::crew(half), |o| drop(o.cast(OrchestratorMsg::Kill(Role::Generator)))), "F101");
}

#[test]
fn a_killed_judge_is_replaced() {
    goes_on(&play(standins::crew(half), |o| drop(o.cast(OrchestratorMsg::Kill(Role::Judge)))), "F102");
}

#[test]
fn a_killed_pool_is_replaced_with_its_executors() {
    goes_on(&play(standins::crew(half), |o| drop(o.cast(OrchestratorMsg::Kill(Role::Pool)))), "F103");
}

#[test]
fn a_killed_learner_is_replaced() {
    goes_on(&play(standins::crew(half), |o| drop(o.cast(OrchestratorMsg::Kill(Role::Learner)))), "F104");
}

#[test]
fn a_killed_executor_loses_only_its_evaluation() {
    // The killed one is told by an evaluation of its own, which does not end before that.
    let mut crew = standins::crew(half);
    let orchestrator: Arc<OnceLock<ActorRef<OrchestratorMsg>>> = Arc::default();
    let (known, once) = (orchestrator.clone(), Arc::new(AtomicU64::new(0)));
    crew.verifier = Arc::new(move |number: u32| {
        let condemned = Condemned { first: number == 0, orchestrator: known.clone(), once: once.clone() };
        Box::pin(async move { Ok(Box::new(condemned) as Box<dyn Verifier>) })
    });
    let played = play(crew, move |o| drop(orchestrator.set(o.clone())));
    goes_on(&played, "F103");
    assert_eq!(played.faults.len(), 1, "one evaluation was lost: {:?}", played.faults);
}

#[test]
fn a_killed_orchestrator_ends_the_run_with_a_fault() {
    let played = play(standins::crew(half), |orchestrator| orchestrator.kill());
    let RunEnd::Failed { fault, .. } = played.end else { panic!("{:?}", played.end) };
    assert_eq!(fault.code, "F109");
}

#[test]
fn executors_that_cannot_start_end_the_run_with_a_fault() {
    let mut crew = standins::crew(half);
    let tries = Arc::new(Mutex::new(0));
    let counted = tries.clone();
    crew.verifier = Arc::new(move |_| {
        *counted.lock().unwrap() += 1;
        Box::pin(async { Err(fault("F002", "no torch here")) })
    });
    let played = play(crew, |_| {});
    let RunEnd::Failed { fault, .. } = played.end else { panic!("{:?}", played.end) };
    assert_eq!(fault.code, "F103");
    assert!(fault.message.contains("no torch here"), "the cause is named: {}", fault.message);
    assert!(*tries.lock().unwrap() < 200, "restarts are bounded: {}", tries.lock().unwrap());
}

#[test]
fn an_evaluation_past_its_deadline_is_a_fault_and_the_run_goes_on() {
    let mut crew = standins::crew(half);
    let hung = Arc::new(AtomicU64::new(0));
    let first = hung.clone();
    crew.verifier = Arc::new(move |_| {
        let first = first.clone();
        Box::pin(async move { Ok(Box::new(HangsOnce(first)) as Box<dyn Verifier>) })
    });
    // Synchronous: no other group can take the place of the one that hangs.
    goes_on(&play_at(0, crew, |_| {}), "F107");
    assert!(hung.load(Ordering::Relaxed) > STEPS * 16);
}

/// Planted: the panic stays in the task's `JoinSet` (as it was). Seen: the run does not end within its deadline.
#[test]
fn a_verifier_that_panics_loses_only_its_evaluation() {
    let mut crew = standins::crew(half);
    let count = Arc::new(AtomicU64::new(0));
    crew.verifier = Arc::new(move |_| {
        let count = count.clone();
        Box::pin(async move { Ok(Box::new(PanicsOnce(count)) as Box<dyn Verifier>) })
    });
    // Synchronous: no other group can take the place of the one that is lost.
    let played = play_at(0, crew, |_| {});
    goes_on(&played, "F103");
    assert_eq!(played.faults.len(), 1, "one evaluation was lost: {:?}", played.faults);
}

/// Planted: a missed lease leaves no fault row (as it was). Seen: "the death is on record: []".
#[test]
fn a_stage_past_its_deadline_is_on_record_and_the_run_goes_on() {
    let mut crew = standins::crew(half);
    let hung = Arc::new(AtomicU64::new(0));
    crew.verifier = Arc::new(move |_| {
        let hung = hung.clone();
        Box::pin(async move { Ok(Box::new(HangsOnce(hung)) as Box<dyn Verifier>) })
    });
    // The machine's deadline strikes before the executor's own (2 s).
    let played = play_with(|machine| (machine.staleness_max, machine.execute_deadline_ms) = (0, 500), crew, |_| {});
    goes_on(&played, "F110");
}

/// Planted: only the observer is told (as it was). Seen: no F115 among the faults.
#[test]
fn a_skipped_step_is_on_record_and_in_the_summary() {
    let mut crew = standins::crew(half);
    let inner = crew.trainer.clone();
    crew.trainer = Arc::new(move || Ok(Box::new(SkipsThird(inner()?))));
    let played = play(crew, |_| {});
    goes_on(&played, "F115");
    assert_eq!((played.skipped, played.faults.len()), (1, 1), "{:?}", played.faults);
}

/// Planted: the stop has the learner's code and no root cause (as it was). Seen: left "F111", right "F112".
#[test]
fn a_broken_infrastructure_ends_the_run_with_its_own_code_and_the_root_cause() {
    let mut crew = standins::crew(half);
    crew.verifier = Arc::new(|_| Box::pin(async { Ok(Box::new(Broken) as Box<dyn Verifier>) }));
    let played = play_with(|machine| machine.lost_groups_limit = 3, crew, |_| {});
    let RunEnd::Failed { fault, .. } = played.end else { panic!("{:?}", played.end) };
    assert_eq!(fault.code, "F112", "{fault}");
    assert!(fault.message.contains("the last fault was F004: no device"), "{fault}");
}

/// Planted: every stop has the learner's code. Seen: left "F111", right "F114". That it stops at all:
/// `rollout/tests/limits.rs`.
#[test]
fn a_generator_that_never_adopts_ends_the_run() {
    let mut crew = standins::crew(half);
    let inner = crew.sampler.clone();
    crew.sampler = Arc::new(move |weights, policy| Ok(Box::new(Stubborn(inner(weights, policy)?))));
    let played = play_with(|machine| (machine.staleness_max, machine.adopt_deadline_ms) = (0, 200), crew, |_| {});
    let RunEnd::Failed { fault, .. } = played.end else { panic!("{:?}", played.end) };
    assert_eq!(fault.code, "F114", "{fault}");
    assert_eq!(played.faults, ["F110"; 3], "each miss is on record");
}

struct PanicsOnce(Arc<AtomicU64>);

impl Verifier for PanicsOnce {
    fn verify<'a>(
        &'a mut self,
        _: &'a rollout::task::TaskSpec,
        _: &'a rollout::outcome::Candidate,
    ) -> BoxFuture<'a, Result<ExecReport, Fault>> {
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            assert!(n != 20, "planted in the verifier");
            Ok(standins::report(n.is_multiple_of(2)))
        })
    }
}

struct Broken;

impl Verifier for Broken {
    fn verify<'a>(
        &'a mut self,
        _: &'a rollout::task::TaskSpec,
        _: &'a rollout::outcome::Candidate,
    ) -> BoxFuture<'a, Result<ExecReport, Fault>> {
        Box::pin(async { Err(fault("F004", "no device")) })
    }
}

struct SkipsThird(Box<dyn Trainer>);

impl Trainer for SkipsThird {
    fn newest(&self) -> Option<TrainedItem> {
        self.0.newest()
    }

    fn train(&mut self, job: &TrainJob) -> Result<TrainedItem, TrainError> {
        let item = self.0.train(job)?;
        Ok(TrainedItem { applied: job.step.0 != 3, ..item })
    }
}

/// Samples well and never takes new weights: its thread is stuck in there.
struct Stubborn(Box<dyn Sampler>);

impl Sampler for Stubborn {
    fn admit(&mut self, job: SampleJob) -> Result<(), Fault> {
        self.0.admit(job)
    }
    fn cancel(&mut self, rollout: RolloutId) {
        self.0.cancel(rollout);
    }
    fn adopt(&mut self, weights: Weights, policy: PolicyVersion) -> Result<Taken, Fault> {
        if policy > PolicyVersion(0) {
            std::thread::sleep(Duration::from_secs(5));
        }
        self.0.adopt(weights, policy)
    }
    fn busy(&self) -> bool {
        self.0.busy()
    }
    fn step(&mut self) -> Result<Vec<SampledItem>, Fault> {
        self.0.step()
    }
}

/// The first executor, once there is somebody to tell, has itself killed in the middle of an evaluation, once.
struct Condemned {
    first: bool,
    orchestrator: Arc<OnceLock<ActorRef<OrchestratorMsg>>>,
    once: Arc<AtomicU64>,
}

impl Verifier for Condemned {
    fn verify<'a>(
        &'a mut self,
        _: &'a rollout::task::TaskSpec,
        _: &'a rollout::outcome::Candidate,
    ) -> BoxFuture<'a, Result<ExecReport, Fault>> {
        Box::pin(async move {
            if let (true, Some(orchestrator)) = (self.first, self.orchestrator.get())
                && self.once.fetch_add(1, Ordering::Relaxed) == 0
            {
                let _ = orchestrator.cast(OrchestratorMsg::Kill(Role::Executor));
                std::future::pending::<()>().await;
            }
            Ok(standins::report(true))
        })
    }
}

struct HangsOnce(Arc<AtomicU64>);

impl Verifier for HangsOnce {
    fn verify<'a>(
        &'a mut self,
        _: &'a rollout::task::TaskSpec,
        _: &'a rollout::outcome::Candidate,
    ) -> actors::crew::BoxFuture<'a, Result<rollout::outcome::ExecReport, rollout::outcome::Fault>> {
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            if n == 20 {
                std::future::pending::<()>().await;
            }
            Ok(standins::report(n.is_multiple_of(2)))
        })
    }
}
