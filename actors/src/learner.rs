//! The learner: turns a batch into the next policy. Owns one thread that computes and writes checkpoints.
//!
//! A step that is asked for again is not taken twice: if it is the newest durable one, its result is sent again. A
//! learner that replaces a killed one waits for the old thread, so two never write checkpoints at once. Killed by: a
//! panic of the thread, or a trainer that cannot be made.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use rollout::outcome::Fault;

use crate::crew::{TrainJob, TrainerFactory};
use crate::generator::panic_text;
use crate::orchestrator::OrchestratorMsg;
use crate::supervise::{LEARNER_LOST, fault};

/// The right to write checkpoints: held by the one learner thread that may.
#[derive(Clone)]
pub struct Pen {
    give: Sender<()>,
    take: Receiver<()>,
}

impl Pen {
    pub fn new() -> Pen {
        let (give, take) = bounded(1);
        let _ = give.try_send(());
        Pen { give, take }
    }

    /// Waits until no learner's thread has it; false if one still has it after `limit`. Until then it may write checkpoints.
    pub fn is_back(&self, limit: Duration) -> bool {
        let back = self.take.recv_timeout(limit).is_ok();
        if back {
            let _ = self.give.try_send(());
        }
        back
    }
}

impl Default for Pen {
    fn default() -> Self {
        Pen::new()
    }
}

struct Held(Sender<()>);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

#[derive(Debug)]
pub enum LearnerMsg {
    Train(Box<TrainJob>),
    /// From the thread: it ended by itself.
    ThreadEnded(String),
}

crate::mailbox::counted!(LearnerMsg, WAITING);

pub struct LearnerArgs {
    pub factory: TrainerFactory,
    pub out: ActorRef<OrchestratorMsg>,
    pub pen: Pen,
    /// Longest wait for an older learner's thread to end.
    pub pen_deadline: Duration,
}

pub struct LearnerState {
    jobs: Sender<Box<TrainJob>>,
}

/// The machine has one step out at a time; a few repetitions of it may queue behind a slow one.
const JOBS: usize = 8;

pub struct Learner;

impl Actor for Learner {
    type Msg = LearnerMsg;
    type State = LearnerState;
    type Arguments = LearnerArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<LearnerMsg>,
        args: LearnerArgs,
    ) -> Result<LearnerState, ActorProcessingErr> {
        let (jobs, receiver) = bounded(JOBS);
        std::thread::Builder::new().name("learner".into()).spawn(move || {
            let reason = match catch_unwind(AssertUnwindSafe(|| work(&args, &receiver))) {
                Ok(Ok(())) => return,
                Ok(Err(fault)) => fault.to_string(),
                Err(panic) => panic_text(panic.as_ref()),
            };
            let _ = myself.cast(LearnerMsg::ThreadEnded(reason));
        })?;
        Ok(LearnerState { jobs })
    }

    async fn handle(
        &self,
        _myself: ActorRef<LearnerMsg>,
        message: LearnerMsg,
        state: &mut LearnerState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            // A full queue means that this very step is waiting there already.
            LearnerMsg::Train(job) => match state.jobs.try_send(job) {
                Err(crossbeam_channel::TrySendError::Disconnected(_)) => Err("the learner's thread is gone".into()),
                _ => Ok(()),
            },
            LearnerMsg::ThreadEnded(reason) => Err(reason.into()),
        }
    }
}

/// The thread: returns when the actor is gone.
fn work(args: &LearnerArgs, jobs: &Receiver<Box<TrainJob>>) -> Result<(), Fault> {
    args.pen
        .take
        .recv_timeout(args.pen_deadline)
        .map_err(|_| fault(LEARNER_LOST, "the learner before this one did not end in time"))?;
    let _held = Held(args.pen.give.clone());
    let mut trainer = Some((args.factory)()?);
    while let Ok(job) = jobs.recv() {
        let trainer_of = match &mut trainer {
            Some(trainer) => trainer,
            None => trainer.insert((args.factory)()?),
        };
        let done = match trainer_of.newest() {
            Some(newest) if newest.step == job.step => Ok(newest),
            _ => trainer_of.train(&job),
        };
        match done {
            Ok(item) => {
                let _ = args.out.cast(OrchestratorMsg::Trained(Box::new(item)));
            }
            Err(error) => {
                // A failed step may have left anything in memory: the next one starts from the newest checkpoint. The old learner goes
                // first, for a GPU need not have room for two; where a GPU may still be at it, nothing is given away or begun.
                let fatal = error.fatal;
                match fatal {
                    true => std::mem::forget(trainer.take()),
                    false => trainer = None,
                }
                let _ = args.out.cast(OrchestratorMsg::TrainFailed { step: job.step, attempt: job.attempt, error });
                // The run ends with it; what is still asked for until then is not answered.
                while fatal && jobs.recv().is_ok() {}
            }
        }
    }
    Ok(())
}
