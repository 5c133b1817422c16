//! Held-out evaluation through the same actors as the run: every answer once, retried on faults of ours, then masked.
//!
//! `EvalPlan` speaks the machine's language (`Event` in, `Command` out) so that the orchestrator drives both alike. It
//! needs no journal: an answer that has its verdict is in the store, and a resumed run asks for the others again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rollout::event::{Command, Event, Judgement, Overdue};
use rollout::id::{Attempt, GroupId, RolloutId, TaskId};
use rollout::seed::{Stream, derive};

use crate::store::rows::{EndingRow, PhaseTag};

/// Rollout ids of the evaluation phases start here, far from those of training.
pub const FIRST_ID: [(PhaseTag, u64); 2] = [(PhaseTag::EvalBefore, 1 << 40), (PhaseTag::EvalAfter, 2 << 40)];

/// Limits of an evaluation.
#[derive(Clone, Copy, Debug)]
pub struct EvalLimits {
    /// Answers in flight at once.
    pub credits: usize,
    /// Faults one answer survives.
    pub retries: u32,
    /// Longest time in one stage, milliseconds.
    pub sample_ms: u64,
    pub judge_ms: u64,
    pub execute_ms: u64,
}

/// What the plan decided; `End` carries evaluation's own endings.
#[derive(Clone, Debug, PartialEq)]
pub enum EvalCommand {
    Do(Command),
    End { rollout: RolloutId, ending: EndingRow },
    Finish,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    attempt: Attempt,
    faults: u32,
    stage: Stage,
    expires_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Sample,
    Judge,
    Execute,
}

/// One evaluation phase.
#[derive(Debug)]
pub struct EvalPlan {
    pub phase: PhaseTag,
    tasks: Vec<TaskId>,
    samples: u64,
    seed: u64,
    limits: EvalLimits,
    queue: VecDeque<u64>,
    flights: BTreeMap<RolloutId, Flight>,
    total: u64,
    stopping: bool,
    finished: bool,
}

impl EvalPlan {
    /// `samples` answers for each of `tasks`, without those `done` already.
    pub fn new(
        phase: PhaseTag,
        tasks: Vec<TaskId>,
        samples: u64,
        seed: u64,
        limits: EvalLimits,
        done: &BTreeSet<u64>,
    ) -> EvalPlan {
        let total = tasks.len() as u64 * samples;
        let first = first_id(phase);
        let queue = (first..first + total).filter(|id| !done.contains(id)).collect();
        let flights = BTreeMap::new();
        EvalPlan { phase, tasks, samples, seed, limits, queue, flights, total, stopping: false, finished: false }
    }

    /// Answers of the whole phase, done or not.
    pub fn total(&self) -> u64 {
        self.total
    }

    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    pub fn on(&mut self, now_ms: u64, event: &Event) -> Vec<EvalCommand> {
        let mut out = Vec::new();
        match event {
            Event::Started { .. } => {}
            Event::Tick => {
                let late: Vec<RolloutId> =
                    self.flights.iter().filter(|(_, f)| f.expires_ms <= now_ms).map(|(id, _)| *id).collect();
                for rollout in late {
                    let attempt = self.flights.get(&rollout).map_or(Attempt(0), |f| f.attempt);
                    out.push(EvalCommand::Do(Command::Overdue(Overdue::Rollout { rollout, attempt })));
                    self.retry(now_ms, rollout, &mut out);
                }
            }
            Event::Sampled { rollout, attempt, .. } => {
                self.advance(now_ms, *rollout, *attempt, Stage::Sample, &mut out)
            }
            Event::Judged { rollout, attempt, ruling: Judgement::Admitted } => {
                self.advance(now_ms, *rollout, *attempt, Stage::Judge, &mut out);
            }
            Event::Judged { rollout, attempt, .. } => self.end(*rollout, *attempt, Stage::Judge, &mut out),
            Event::Executed { rollout, attempt, .. } => self.end(*rollout, *attempt, Stage::Execute, &mut out),
            Event::Faulted { rollout, attempt, .. } => {
                if self.flights.get(rollout).is_some_and(|f| f.attempt == *attempt) {
                    self.retry(now_ms, *rollout, &mut out);
                }
            }
            Event::StopRequested => {
                self.stopping = true;
                self.queue.clear();
                for (rollout, flight) in std::mem::take(&mut self.flights) {
                    out.push(EvalCommand::Do(Command::Cancel { rollout, attempt: flight.attempt }));
                }
            }
            Event::Trained { .. } | Event::TrainFaulted { .. } | Event::Adopted { .. } => {}
        }
        self.fill(now_ms, &mut out);
        if self.queue.is_empty() && self.flights.is_empty() && !self.finished {
            self.finished = true;
            out.push(EvalCommand::Finish);
        }
        out
    }

    fn fill(&mut self, now_ms: u64, out: &mut Vec<EvalCommand>) {
        while self.flights.len() < self.limits.credits {
            let Some(id) = self.queue.pop_front() else { return };
            let rollout = RolloutId(id);
            let expires_ms = now_ms + self.limits.sample_ms;
            let flight = Flight { attempt: Attempt(1), faults: 0, stage: Stage::Sample, expires_ms };
            self.flights.insert(rollout, flight);
            out.push(EvalCommand::Do(self.sample(rollout, flight.attempt)));
        }
    }

    fn sample(&self, rollout: RolloutId, attempt: Attempt) -> Command {
        let index = rollout.0 - first_id(self.phase);
        let task = index / self.samples;
        Command::Sample {
            rollout,
            attempt,
            group: GroupId(first_id(self.phase) + task),
            task: self.tasks[task as usize].clone(),
            seed: derive(self.seed, Stream::Sample, rollout.0),
        }
    }

    fn advance(&mut self, now_ms: u64, rollout: RolloutId, attempt: Attempt, from: Stage, out: &mut Vec<EvalCommand>) {
        let Some(flight) = self.flights.get_mut(&rollout).filter(|f| f.attempt == attempt && f.stage == from) else {
            return;
        };
        let command = if from == Stage::Sample {
            flight.stage = Stage::Judge;
            flight.expires_ms = now_ms + self.limits.judge_ms;
            Command::Judge { rollout, attempt }
        } else {
            flight.stage = Stage::Execute;
            flight.expires_ms = now_ms + self.limits.execute_ms;
            Command::Execute { rollout, attempt }
        };
        out.push(EvalCommand::Do(command));
    }

    fn end(&mut self, rollout: RolloutId, attempt: Attempt, from: Stage, out: &mut Vec<EvalCommand>) {
        if self.flights.get(&rollout).is_some_and(|f| f.attempt == attempt && f.stage == from) {
            self.flights.remove(&rollout);
            out.push(EvalCommand::End { rollout, ending: EndingRow::Evaluated });
        }
    }

    fn retry(&mut self, now_ms: u64, rollout: RolloutId, out: &mut Vec<EvalCommand>) {
        let Some(flight) = self.flights.get_mut(&rollout) else { return };
        out.push(EvalCommand::Do(Command::Cancel { rollout, attempt: flight.attempt }));
        flight.faults += 1;
        if flight.faults > self.limits.retries {
            self.flights.remove(&rollout);
            out.push(EvalCommand::End { rollout, ending: EndingRow::EvalFaulted });
            return;
        }
        flight.attempt = Attempt(flight.attempt.0 + 1);
        let (attempt, stage) = (flight.attempt, flight.stage);
        let (limit, command) = match stage {
            Stage::Sample => (self.limits.sample_ms, self.sample(rollout, attempt)),
            Stage::Judge => (self.limits.judge_ms, Command::Judge { rollout, attempt }),
            Stage::Execute => (self.limits.execute_ms, Command::Execute { rollout, attempt }),
        };
        if let Some(flight) = self.flights.get_mut(&rollout) {
            flight.expires_ms = now_ms + limit;
        }
        out.push(EvalCommand::Do(command));
    }
}

fn first_id(phase: PhaseTag) -> u64 {
    FIRST_ID.iter().find(|(tag, _)| *tag == phase).map_or(0, |(_, id)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rollout::id::PolicyVersion;
    use rollout::reward::Reward;

    const LIMITS: EvalLimits = EvalLimits { credits: 3, retries: 1, sample_ms: 100, judge_ms: 100, execute_ms: 100 };

    fn plan(done: &[u64]) -> EvalPlan {
        let tasks = vec![TaskId("a".into()), TaskId("b".into())];
        EvalPlan::new(PhaseTag::EvalBefore, tasks, 2, 7, LIMITS, &done.iter().copied().collect())
    }

    fn sampled(rollout: RolloutId, attempt: Attempt) -> Event {
        Event::Sampled { rollout, attempt, oldest: PolicyVersion(0), tokens: 1 }
    }

    /// Plays everything to its end; odd rollouts are rejected by the judge. Every event is sent twice.
    fn play(plan: &mut EvalPlan) -> (Vec<u64>, usize) {
        let mut todo = VecDeque::from(plan.on(0, &Event::Tick));
        let (mut ended, mut widest) = (Vec::new(), 0);
        while let Some(command) = todo.pop_front() {
            widest = widest.max(plan.in_flight());
            let event = match command {
                EvalCommand::Do(Command::Sample { rollout, attempt, .. }) => sampled(rollout, attempt),
                EvalCommand::Do(Command::Judge { rollout, attempt }) => {
                    let zero = Judgement::Scored(Reward { plan: 0.0, code: 0.0 });
                    let ruling = if rollout.0 % 2 == 0 { Judgement::Admitted } else { zero };
                    Event::Judged { rollout, attempt, ruling }
                }
                EvalCommand::Do(Command::Execute { rollout, attempt }) => {
                    Event::Executed { rollout, attempt, reward: Reward { plan: 1.0, code: 1.0 } }
                }
                EvalCommand::End { rollout, ending } => {
                    assert_eq!(ending, EndingRow::Evaluated);
                    ended.push(rollout.0);
                    continue;
                }
                EvalCommand::Finish => return (ended, widest),
                other => panic!("{other:?}"),
            };
            todo.extend(plan.on(1, &event));
            todo.extend(plan.on(1, &event));
        }
        panic!("never finished");
    }

    #[test]
    fn every_answer_ends_once_within_the_credits() {
        let first = first_id(PhaseTag::EvalBefore);
        let (mut ended, widest) = play(&mut plan(&[]));
        ended.sort_unstable();
        assert_eq!(ended, (first..first + 4).collect::<Vec<_>>());
        assert_eq!(widest, LIMITS.credits);
    }

    #[test]
    fn what_an_earlier_process_finished_is_not_asked_again_and_seeds_stay() {
        let first = first_id(PhaseTag::EvalBefore);
        let (ended, _) = play(&mut plan(&[first, first + 2, first + 3]));
        assert_eq!(ended, [first + 1]);
        let seed_of = |commands: Vec<EvalCommand>, id: u64| {
            commands.into_iter().find_map(|c| match c {
                EvalCommand::Do(Command::Sample { rollout, seed, task, .. }) if rollout.0 == id => Some((seed, task)),
                _ => None,
            })
        };
        let whole = seed_of(plan(&[]).on(0, &Event::Tick), first + 1);
        assert!(whole.is_some());
        assert_eq!(whole, seed_of(plan(&[first]).on(0, &Event::Tick), first + 1));
    }

    #[test]
    fn a_fault_is_retried_then_masked_and_old_attempts_count_for_nothing() {
        let mut plan = plan(&[]);
        let first = RolloutId(first_id(PhaseTag::EvalBefore));
        plan.on(0, &Event::Tick);
        let fault = |attempt| Event::Faulted { rollout: first, attempt: Attempt(attempt), code: "F101".into() };
        let retried = plan.on(0, &fault(1));
        assert!(retried.iter().any(
            |c| matches!(c, EvalCommand::Do(Command::Sample { rollout, attempt: Attempt(2), .. }) if *rollout == first)
        ));
        assert_eq!(plan.on(0, &sampled(first, Attempt(1))), [], "the first attempt is over");
        let masked = plan.on(0, &fault(2));
        assert!(masked.contains(&EvalCommand::End { rollout: first, ending: EndingRow::EvalFaulted }));
        assert_eq!(plan.on(0, &sampled(first, Attempt(2))), []);
    }

    #[test]
    fn a_stage_past_its_limit_is_retried() {
        let mut plan = plan(&[]);
        plan.on(0, &Event::Tick);
        assert_eq!(plan.on(99, &Event::Tick), []);
        let again = plan.on(100, &Event::Tick);
        let samples =
            again.iter().filter(|c| matches!(c, EvalCommand::Do(Command::Sample { attempt: Attempt(2), .. })));
        assert_eq!(samples.count(), LIMITS.credits);
        let told = again.iter().filter(|c| matches!(c, EvalCommand::Do(Command::Overdue(_))));
        assert_eq!(told.count(), LIMITS.credits, "each missed deadline is told");
    }

    #[test]
    fn a_stop_lets_go_of_everything() {
        let mut plan = plan(&[]);
        plan.on(0, &Event::Tick);
        let commands = plan.on(1, &Event::StopRequested);
        assert_eq!(commands.last(), Some(&EvalCommand::Finish));
        assert_eq!(plan.in_flight(), 0);
    }
}
