//! The orchestrator's bookkeeping: payloads of rollouts in flight, events in, outbox out. No messages, no `async`.
//! What goes wrong and what ends is in `flow/ends.rs`.
//!
//! An event and what follows from it are collected as one batch for the store; the batch is sent before the outbox is.

mod ends;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use reward::score::{Scored, score};
use rollout::completion::Completion;
use rollout::event::{Command, Event, Judgement, TrainGroup};
use rollout::id::{Attempt, PolicyVersion, RolloutId, StepId, TaskId};
use rollout::outcome::{Fault, Outcome, Ruling};
use rollout::reward::Reward;

use crate::batch;
use crate::crew::{SampleJob, SampledItem, TaskEntry, TrainJob, TrainedItem};
use crate::driver::{Decision, Driver, PhaseSpec, run_phase};
use crate::executor::{ExecJob, ExecutedItem};
use crate::generator::Adoption;
use crate::judge::{JudgeJob, JudgedItem};
use crate::meters::Meters;
use crate::observe::{Observer, Progress};
use crate::orchestrator::{RunEnd, StopReason};
use crate::outbox::{Outbox, Stage};
use crate::scaling::Hint;
use crate::stalls::{Stalls, Worker};
use crate::store::rows::{Op, PhaseTag, RowPatch, StepRow};
use crate::store::{StoreError, StoreHandle};
use crate::supervise::{LEARNER_FAILED, LLM_JUDGE_BUDGET, fault};

struct Flight {
    task: Arc<TaskEntry>,
    attempt: Attempt,
    stage: Stage,
    completion: Option<Arc<Completion>>,
    ruling: Option<Arc<Ruling>>,
    correct: bool,
}

pub struct Flow {
    tasks: HashMap<TaskId, Arc<TaskEntry>>,
    phases: VecDeque<PhaseSpec>,
    store: StoreHandle,
    observer: Arc<dyn Observer>,
    reward: reward::RewardConfig,
    time_limit_ms: u64,

    driver: Driver,
    phase: PhaseTag,
    /// The present phase's clock: milliseconds, counted on over epochs in RL.
    clock: (Instant, u64),
    flights: HashMap<RolloutId, Flight>,
    newest: Adoption,
    /// The version that generators said they have; RL's rollouts may begin under it.
    adopted: PolicyVersion,
    /// The step that waits for its barrier.
    undurable: Option<Box<TrainJob>>,
    /// The step the learner has, and what its batch is made of.
    training: Option<(StepId, Attempt)>,
    about: serde_json::Map<String, serde_json::Value>,
    /// Its rollouts, in the order of its samples.
    batch: Vec<RolloutId>,
    stopped: Option<StopReason>,
    /// Why the numerical guard ends the run.
    pub(super) halted: Option<Fault>,
    /// The last fault that was noted: most likely the root of whatever ends the run.
    last_fault: Option<Fault>,
    end: Option<RunEnd>,
    ops: Vec<Op>,
    outbox: Outbox,
    meters: Meters,
    stalls: Stalls,
    began: Instant,
}

impl Flow {
    pub fn new(
        tasks: Vec<Arc<TaskEntry>>,
        phases: Vec<PhaseSpec>,
        store: StoreHandle,
        observer: Arc<dyn Observer>,
        reward: reward::RewardConfig,
        start: Adoption,
        time_limit_ms: u64,
    ) -> Flow {
        Flow {
            tasks: tasks.into_iter().map(|entry| (entry.spec.id.clone(), entry)).collect(),
            phases: phases.into(),
            store,
            observer,
            reward,
            time_limit_ms,
            driver: Driver::Idle,
            phase: PhaseTag::EvalBefore,
            clock: (Instant::now(), 0),
            flights: HashMap::new(),
            adopted: start.policy,
            newest: start,
            undurable: None,
            training: None,
            about: serde_json::Map::new(),
            batch: Vec::new(),
            stopped: None,
            halted: None,
            last_fault: None,
            end: None,
            ops: Vec::new(),
            outbox: Outbox::default(),
            meters: Meters::default(),
            stalls: Stalls::default(),
            began: Instant::now(),
        }
    }

    /// Starts the next phase, or ends the run.
    pub fn next_phase(&mut self) {
        let Some(spec) = self.phases.pop_front() else {
            self.driver = Driver::Idle;
            self.end = Some(RunEnd::Completed);
            return;
        };
        self.phase = spec.tag();
        self.flights.clear();
        self.observer.on(Progress::Phase(run_phase(self.phase)));
        match spec {
            PhaseSpec::Eval { plan, done, correct } => {
                self.clock = (Instant::now(), 0);
                self.meters.start_eval(plan.total(), done, correct);
                // The last version of RL need not have been announced.
                self.announce_newest();
                self.driver = Driver::Eval(plan);
                self.event(Event::Tick);
            }
            PhaseSpec::Rl { snapshot, epoch, policy, step, clock_ms, restored } => {
                self.clock = (Instant::now(), clock_ms);
                self.meters.start_rl();
                for row in restored {
                    self.restore(row);
                }
                self.driver = Driver::Rl(snapshot);
                self.event(Event::Started { epoch, policy, step });
            }
        }
    }

    fn restore(&mut self, row: crate::store::reader::RolloutDetail) {
        let Some(task) = self.tasks.get(&row.summary.task).cloned() else { return };
        let completion = row.completion.map(|mut completion| {
            if completion.prompt_tokens.is_empty() {
                completion.prompt_tokens.clone_from(&task.prompt.tokens);
            }
            Arc::new(completion)
        });
        let flight = Flight {
            task,
            attempt: Attempt(row.summary.attempt),
            stage: Stage::Rest,
            completion,
            ruling: row.ruling.map(Arc::new),
            correct: row.report.is_some_and(|r| r.outcome.is_correct()),
        };
        self.flights.insert(RolloutId(row.summary.id), flight);
    }

    fn now_ms(&self) -> u64 {
        self.clock.1 + self.clock.0.elapsed().as_millis() as u64
    }

    /// Hands one event to the driver and collects what follows.
    pub fn event(&mut self, event: Event) {
        let now_ms = self.now_ms();
        if let Event::Adopted { policy } = event
            && policy <= self.newest.policy
        {
            self.adopted = self.adopted.max(policy);
        }
        let (record, decisions) = self.driver.on(now_ms, event);
        if let Some(record) = record {
            self.ops.push(Op::Journal(record));
        }
        for decision in decisions {
            match decision {
                Decision::Do(command) => self.obey(command),
                Decision::End { rollout, ending } => self.ended(rollout, ending),
                Decision::Finish => self.phase_over(),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Sample { rollout, attempt, group, task, seed } => {
                let Some(task) = self.tasks.get(&task).cloned() else { return };
                self.ops.push(Op::Row {
                    rollout,
                    patch: RowPatch::Issued { phase: self.phase, group, task: task.id.clone(), seed, attempt },
                });
                let flight = Flight {
                    task: task.clone(),
                    attempt,
                    stage: Stage::Sample,
                    completion: None,
                    ruling: None,
                    correct: false,
                };
                self.flights.insert(rollout, flight);
                // An evaluation is of the newest version, whatever is sampled elsewhere.
                let least = if self.driver.is_rl() { self.adopted } else { self.newest.policy };
                self.outbox.samples.push(SampleJob { rollout, attempt, task, seed, least });
            }
            Command::Judge { rollout, attempt } => {
                let Some(flight) = self.flights.get_mut(&rollout) else { return };
                let Some(completion) = flight.completion.clone() else { return };
                (flight.attempt, flight.stage) = (attempt, Stage::Judge);
                self.outbox.judges.push(JudgeJob { rollout, attempt, task: flight.task.spec.clone(), completion });
            }
            Command::Execute { rollout, attempt } => {
                let Some(flight) = self.flights.get_mut(&rollout) else { return };
                let Some(ruling) = flight.ruling.clone() else { return };
                (flight.attempt, flight.stage) = (attempt, Stage::Execute);
                self.outbox.executes.push(ExecJob { rollout, attempt, task: flight.task.spec.clone(), ruling });
            }
            Command::Cancel { rollout, .. } => match self.flights.get(&rollout).map(|f| f.stage) {
                Some(Stage::Sample) => self.outbox.unsample.push(rollout),
                Some(Stage::Execute) => self.outbox.unexecute.push(rollout),
                _ => {}
            },
            Command::Train { step, attempt, groups } => self.train(step, attempt, &groups),
            Command::Adopt { .. } => self.announce_newest(),
            Command::Overdue(what) => self.overdue(what),
            // The driver turned these into decisions.
            Command::End { .. } | Command::Finish => {}
        }
    }

    fn train(&mut self, step: StepId, attempt: Attempt, groups: &[TrainGroup]) {
        let credited = batch::credit(
            groups,
            |id| self.flights.get(&id).and_then(|f| f.completion.clone()),
            self.newest.policy,
            &self.reward,
        );
        let credited = match credited {
            Ok(credited) => credited,
            Err(rollout) => {
                let lost = fault(LEARNER_FAILED, format!("rollout {rollout} of step {step} has no answer"));
                self.end = Some(RunEnd::Failed { fault: lost, disk_full: false });
                return;
            }
        };
        self.batch = credited.advantages.iter().map(|(rollout, _)| *rollout).collect();
        for (rollout, advantage) in credited.advantages {
            self.ops.push(Op::Row { rollout, patch: RowPatch::Credited { advantage } });
        }
        if let Driver::Rl(snapshot) = &self.driver {
            match crate::codec::encode(&**snapshot) {
                Ok(machine) => self.ops.push(Op::Snapshot { next_seq: snapshot.next_seq, machine }),
                Err(error) => tracing::warn!(%error, "the machine's snapshot was not stored; the journal is enough"),
            }
        }
        self.about = credited.about;
        self.training = Some((step, attempt));
        self.undurable = Some(Box::new(TrainJob { step, attempt, samples: credited.samples }));
        self.outbox.barrier = Some((step, attempt));
    }

    /// The barrier before a step has passed: the learner may have it.
    pub fn durable(&mut self, step: StepId, attempt: Attempt, ok: bool) {
        let waited = self.undurable.as_ref().is_some_and(|job| job.step == step && job.attempt == attempt);
        if ok && waited {
            self.outbox.train = self.undurable.take();
        }
    }

    pub fn sampled(&mut self, item: SampledItem) {
        let Some(flight) = self.current(item.rollout, item.attempt, Stage::Sample) else { return };
        flight.stage = Stage::Rest;
        flight.completion = Some(item.completion.clone());
        let tokens = item.completion.tokens.len();
        let oldest = item.completion.oldest_policy().unwrap_or(self.newest.policy);
        self.meters.sampled(tokens);
        let patch = RowPatch::Sampled { completion: item.completion, at_ms: wall_ms() };
        self.ops.push(Op::Row { rollout: item.rollout, patch });
        let (rollout, attempt) = (item.rollout, item.attempt);
        self.event(Event::Sampled { rollout, attempt, oldest, tokens: tokens as u32 });
    }

    pub fn judged(&mut self, item: JudgedItem) {
        let (reward, in_rl) = (self.reward, self.driver.is_rl());
        let Some(flight) = self.current(item.rollout, item.attempt, Stage::Judge) else { return };
        flight.stage = Stage::Rest;
        flight.ruling = Some(item.ruling.clone());
        let has_delimiter = flight.completion.as_ref().is_some_and(|c| c.plan_tokens.is_some());
        let scored = match &*item.ruling {
            Ruling::Reject { outcome, .. } => Some(score(outcome, has_delimiter, &reward)),
            // Whatever the verdict would be, the reward is known. An evaluation wants the verdict.
            Ruling::Admit { .. } if in_rl && !has_delimiter => {
                Some(score(&Outcome::Passed { speedup: None }, false, &reward))
            }
            Ruling::Admit { .. } => None,
        };
        self.ops.push(Op::Row { rollout: item.rollout, patch: RowPatch::Judged { ruling: item.ruling } });
        let ruling = match scored {
            None => Judgement::Admitted,
            Some(Scored::Reward(reward)) => Judgement::Scored(self.scored(item.rollout, reward)),
            Some(Scored::Drop) => Judgement::Unscored,
        };
        self.event(Event::Judged { rollout: item.rollout, attempt: item.attempt, ruling });
    }

    pub fn executed(&mut self, item: ExecutedItem) {
        let reward = self.reward;
        let report = match item.result {
            Ok(report) => report,
            Err(fault) => return self.faulted(item.rollout, item.attempt, Stage::Execute, fault),
        };
        let Some(flight) = self.current(item.rollout, item.attempt, Stage::Execute) else { return };
        flight.stage = Stage::Rest;
        flight.correct = report.outcome.is_correct();
        let has_delimiter = flight.completion.as_ref().is_some_and(|c| c.plan_tokens.is_some());
        // `Drop` happens in an evaluation only, where the verdict counts and not the reward.
        let reward = score(&report.outcome, has_delimiter, &reward).reward().unwrap_or(Reward { plan: 0.0, code: 0.0 });
        if let Outcome::Passed { speedup: Some(speedup) } = report.outcome {
            self.meters.timed(speedup);
        }
        self.ops.push(Op::Row { rollout: item.rollout, patch: RowPatch::Executed { report } });
        let reward = self.scored(item.rollout, reward);
        self.event(Event::Executed { rollout: item.rollout, attempt: item.attempt, reward });
    }

    fn scored(&mut self, rollout: RolloutId, reward: Reward) -> Reward {
        self.meters.scored(reward);
        self.ops.push(Op::Row { rollout, patch: RowPatch::Scored { reward } });
        reward
    }

    pub fn faulted(&mut self, rollout: RolloutId, attempt: Attempt, stage: Stage, fault: Fault) {
        if self.current(rollout, attempt, stage).is_none() {
            return;
        }
        self.note_fault(Some((rollout, attempt)), &fault);
        // From here on all that passes would be masked and the rest trained on.
        let over = fault.code == LLM_JUDGE_BUDGET && self.driver.is_rl() && self.stopped.is_none();
        self.event(Event::Faulted { rollout, attempt, code: fault.code });
        if over {
            self.stop(StopReason::JudgeBudget);
        }
    }

    pub fn trained(&mut self, item: TrainedItem) {
        if item.policy <= self.newest.policy {
            // Sent again for a repeated command; the machine may have missed it after a resume.
            self.event(Event::Trained { step: item.step, policy: item.policy, applied: item.applied });
            return;
        }
        self.newest = Adoption { weights: item.weights, policy: item.policy };
        self.training = None;
        self.stalls.answered(self.began.elapsed().as_millis() as u64, Worker::Learner);
        let mut about = std::mem::take(&mut self.about);
        self.meters.close_step(&mut about);
        let row = StepRow {
            step: item.step,
            policy: item.policy,
            applied: item.applied,
            report: item.report,
            batch: serde_json::Value::Object(about),
            at_ms: wall_ms(),
        };
        self.ops.push(Op::Step(Box::new(row.clone())));
        let scored = std::mem::take(&mut self.batch).into_iter().zip(item.tokens);
        self.ops.extend(scored.map(|(rollout, scores)| Op::TokenScores { rollout, step: item.step, scores }));
        let halt = self.alarms(&row);
        self.observer.on(Progress::Step(Box::new(row)));
        self.event(Event::Trained { step: item.step, policy: item.policy, applied: item.applied });
        // The checkpoint is durable, or this would not have been told.
        if let Some(fault) = halt
            && self.halted.is_none()
        {
            self.halted = Some(fault);
            self.event(Event::StopRequested);
        }
    }

    pub fn executors(&mut self, hint: Hint) {
        self.meters.executors(hint);
    }

    pub fn tick(&mut self) {
        self.event(Event::Tick);
        if self.driver.is_rl()
            && self.stopped.is_none()
            && self.time_limit_ms > 0
            && self.now_ms() >= self.time_limit_ms
        {
            self.stop(StopReason::TimeLimit);
        }
        match &self.driver {
            Driver::Rl(snapshot) => {
                let live = self.meters.live(&snapshot.machine.view(), self.training.is_some());
                self.observer.on(Progress::Live(live));
            }
            Driver::Eval(_) => self.observer.on(self.meters.eval(run_phase(self.phase))),
            Driver::Idle => {}
        }
        self.watch();
    }

    /// Where the rollouts in flight are and how full each edge is, for those who look at the run. `sent`: when the tick was.
    pub fn sample(&mut self, sent: Instant, dropped: u64) -> serde_json::Value {
        let mut held = [0u64; 4];
        for flight in self.flights.values() {
            held[match flight.stage {
                Stage::Sample => 0,
                Stage::Judge => 1,
                Stage::Execute => 2,
                Stage::Rest => 3,
            }] += 1;
        }
        let mut value = serde_json::json!({
            "phase": self.phase.as_str(), "generators": held[0], "judge": held[1], "executors": held[2], "rest": held[3],
            "learner": u64::from(self.training.is_some()), "policy": self.newest.policy.0,
            "mailbox_wait_ms": sent.elapsed().as_millis() as u64, "store_batches": self.store.waiting(),
            "notes_dropped": dropped,
        });
        // With work and without an answer for so long.
        let silent = self.stalls.silent_ms(self.began.elapsed().as_millis() as u64);
        let names = ["generators", "judge", "executors", "learner"];
        value["silent_ms"] = serde_json::json!(names.into_iter().zip(silent).collect::<BTreeMap<_, _>>());
        if let Driver::Rl(snapshot) = &self.driver {
            let live = self.meters.live(&snapshot.machine.view(), self.training.is_some());
            value["credits_in_use"] = live.credits_in_use.into();
            value["credits"] = live.credits.into();
            value["groups_ready"] = live.groups_ready.into();
            value["tokens_per_s"] = live.tokens_per_s.into();
            value["scored_per_s"] = live.scored_per_s.into();
        }
        value
    }

    /// Tells who keeps the run waiting.
    fn watch(&mut self) {
        let mut waiting = [0; 4];
        for worker in self.flights.values().filter_map(|flight| Worker::of(flight.stage)) {
            waiting[worker as usize] += 1;
        }
        waiting[Worker::Learner as usize] = u64::from(self.training.is_some());
        for text in self.stalls.look(self.began.elapsed().as_millis() as u64, waiting) {
            tracing::warn!("{text}");
            self.observer.on(Progress::Note(text));
        }
    }

    fn current(&mut self, rollout: RolloutId, attempt: Attempt, stage: Stage) -> Option<&mut Flight> {
        if let Some(worker) = Worker::of(stage) {
            self.stalls.answered(self.began.elapsed().as_millis() as u64, worker);
        }
        self.flights.get_mut(&rollout).filter(|f| f.attempt == attempt && f.stage == stage)
    }

    pub fn announce_newest(&mut self) {
        self.outbox.adopt = Some(self.newest());
    }

    pub fn newest(&self) -> Adoption {
        Adoption { weights: self.newest.weights.clone(), policy: self.newest.policy }
    }

    /// True from the RL phase on.
    pub fn wants_learner(&self) -> bool {
        self.driver.is_rl()
    }

    pub fn store(&self) -> &StoreHandle {
        &self.store
    }

    pub fn flush_store(&mut self) -> Result<(), StoreError> {
        self.store.send(std::mem::take(&mut self.ops))
    }

    pub fn take_outbox(&mut self) -> Outbox {
        std::mem::take(&mut self.outbox)
    }

    pub fn take_end(&mut self) -> Option<RunEnd> {
        self.end.take()
    }
}

/// Milliseconds since the Unix epoch.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
