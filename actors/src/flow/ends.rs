//! The other half of `Flow`: faults, missed deadlines, lost actors, and how rollouts, phases and runs end.

use model::guard::{Alarm, Kind, Reaction};
use rollout::event::{Event, Overdue};
use rollout::id::{Attempt, RolloutId, StepId};
use rollout::machine::RunPhase as MachinePhase;
use rollout::outcome::Fault;

use super::{Flow, wall_ms};
use crate::driver::{Driver, done_key, run_phase};
use crate::observe::Progress;
use crate::orchestrator::{RunEnd, StopReason};
use crate::outbox::Stage;
use crate::store::rows::{EndingRow, FaultRow, Op, RowPatch, StepRow};
use crate::supervise::{self, NUMERICAL_ALARM, STAGE_DEADLINE, STEP_SKIPPED, fault};

impl Flow {
    pub fn note_fault(&mut self, rollout: Option<(RolloutId, Attempt)>, fault: &Fault) {
        self.meters.fault();
        self.last_fault = Some(fault.clone());
        self.ops.push(Op::Fault(FaultRow {
            rollout: rollout.map(|(id, _)| id),
            attempt: rollout.map(|(_, attempt)| attempt),
            code: fault.code.clone(),
            message: fault.message.clone(),
            at_ms: wall_ms(),
        }));
        self.observer.on(Progress::Fault { code: fault.code.clone(), message: fault.message.clone() });
    }

    /// An actor died with everything it held.
    pub fn stage_lost(&mut self, stage: Stage, fault: &Fault) {
        let mut held: Vec<(RolloutId, Attempt)> =
            self.flights.iter().filter(|(_, f)| f.stage == stage).map(|(id, f)| (*id, f.attempt)).collect();
        held.sort_unstable();
        for (rollout, attempt) in held {
            self.event(Event::Faulted { rollout, attempt, code: fault.code.clone() });
        }
    }

    pub fn learner_lost(&mut self, fault: &Fault) {
        // A step that still waits for its barrier was not with the learner.
        if let Some((step, attempt)) = self.training.filter(|_| self.undurable.is_none()) {
            self.event(Event::TrainFaulted { step, attempt, code: fault.code.clone() });
        }
    }

    pub fn train_failed(&mut self, step: StepId, attempt: Attempt, fault: Fault) {
        self.note_fault(None, &fault);
        self.event(Event::TrainFaulted { step, attempt, code: fault.code });
    }

    /// What the learner's guard found in a step goes on record; a fault where the run is to end for it.
    pub(super) fn alarms(&mut self, row: &StepRow) -> Option<Fault> {
        let alarms: Vec<Alarm> = serde_json::from_value(row.report["alarms"].clone()).unwrap_or_default();
        if alarms.is_empty() && !row.applied {
            self.note_fault(None, &fault(STEP_SKIPPED, format!("step {}: the step was skipped", row.step)));
        }
        let mut halt = None;
        for alarm in alarms {
            let code = if alarm.kind == Kind::NotFinite { STEP_SKIPPED } else { NUMERICAL_ALARM };
            let found = fault(code, format!("step {}: {alarm}", row.step));
            self.note_fault(None, &found);
            if alarm.reaction == Reaction::Stop {
                let message = format!("the numerical guard stopped the run after {}: {alarm}", row.step);
                halt.get_or_insert(fault(code, message));
            }
        }
        halt
    }

    pub fn stop(&mut self, reason: StopReason) {
        if self.stopped == Some(StopReason::User) {
            return;
        }
        self.stopped = Some(reason);
        let closed = match &self.driver {
            Driver::Rl(snapshot) => snapshot.machine.step(),
            _ => StepId(0),
        };
        self.observer.on(Progress::Stopping { after: self.training.map_or(closed, |(step, _)| step) });
        match self.driver {
            Driver::Idle => self.end = Some(RunEnd::Stopped),
            _ => self.event(Event::StopRequested),
        }
    }

    pub(super) fn ended(&mut self, rollout: RolloutId, ending: EndingRow) {
        self.ops.push(Op::Row { rollout, patch: RowPatch::Ended { ending, at_ms: wall_ms() } });
        if let Some(flight) = self.flights.remove(&rollout) {
            self.meters.ended(ending, flight.correct);
            match flight.stage {
                Stage::Sample => self.outbox.unsample.push(rollout),
                Stage::Execute => self.outbox.unexecute.push(rollout),
                Stage::Judge | Stage::Rest => {}
            }
        }
    }

    pub(super) fn phase_over(&mut self) {
        if let Driver::Eval(_) = self.driver {
            self.observer.on(self.meters.eval(run_phase(self.phase)));
        }
        if let Some(fault) = self.failure() {
            self.end = Some(RunEnd::Failed { fault, disk_full: false });
        } else if self.stopped == Some(StopReason::User) {
            self.end = Some(RunEnd::Stopped);
        } else {
            self.stopped = None;
            self.ops.push(Op::Meta { key: done_key(self.phase), value: wall_ms().to_string() });
            // The next phase begins in the same breath, so that no message meets an idle driver.
            self.next_phase();
        }
    }

    /// Why the machine ended RL by itself, if that was no success.
    fn failure(&self) -> Option<Fault> {
        let Driver::Rl(snapshot) = &self.driver else { return None };
        if self.halted.is_some() {
            return self.halted.clone();
        }
        let MachinePhase::Finished(cause) = snapshot.machine.phase() else { return None };
        let settings = snapshot.machine.config().check(snapshot.machine.curriculum().tasks().len());
        supervise::stop_fault(cause, &settings, self.last_fault.as_ref())
    }

    /// A missed deadline leaves a trace: the machine counts it as a fault of ours.
    pub(super) fn overdue(&mut self, what: Overdue) {
        let (whose, message) = match what {
            Overdue::Rollout { rollout, attempt } => {
                let stage = match self.flights.get(&rollout).map(|flight| flight.stage) {
                    Some(Stage::Sample) => "to be sampled (rollout.sample_deadline_s, times the queue)",
                    Some(Stage::Judge) => "to be judged (rollout.judge_deadline_s)",
                    Some(Stage::Execute) => {
                        "for an executor and its result (rollout.execute_deadline_s, times the queue)"
                    }
                    Some(Stage::Rest) | None => "in its stage",
                };
                (Some((rollout, attempt)), format!("rollout {rollout} waited too long {stage}"))
            }
            Overdue::Step { step, .. } => (None, format!("step {step} took longer than rollout.train_deadline_s")),
            Overdue::Adoption { policy } => {
                (None, format!("the generators have not taken over policy version {policy} in time"))
            }
        };
        self.note_fault(whose, &fault(STAGE_DEADLINE, message));
    }
}
