//! The judge: turns answers into rulings with the static layers (`reward::judge`). Owns its threads.
//!
//! Killed by: a panic of a thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use rollout::completion::Completion;
use rollout::id::{Attempt, RolloutId};
use rollout::outcome::Ruling;
use rollout::task::TaskSpec;

use crate::generator::panic_text;
use crate::orchestrator::OrchestratorMsg;

/// Answers per piece of work and per message back.
const CHUNK: usize = 32;
/// Threads that lint; they share one channel.
pub const THREADS: usize = 2;

#[derive(Clone, Debug)]
pub struct JudgeJob {
    pub rollout: RolloutId,
    pub attempt: Attempt,
    pub task: Arc<TaskSpec>,
    pub completion: Arc<Completion>,
}

#[derive(Clone, Debug)]
pub struct JudgedItem {
    pub rollout: RolloutId,
    pub attempt: Attempt,
    pub ruling: Arc<Ruling>,
}

#[derive(Debug)]
pub enum JudgeMsg {
    Judge(Vec<JudgeJob>),
    /// From the thread: it ended by itself.
    ThreadEnded(String),
}

crate::mailbox::counted!(JudgeMsg, WAITING);

pub struct JudgeArgs {
    pub out: ActorRef<OrchestratorMsg>,
    /// Pieces that fit in the channel. The orchestrator's credits keep it from filling.
    pub batches: usize,
}

pub struct JudgeState {
    batches: Sender<Vec<JudgeJob>>,
}

pub struct Judge;

impl Actor for Judge {
    type Msg = JudgeMsg;
    type State = JudgeState;
    type Arguments = JudgeArgs;

    async fn pre_start(&self, myself: ActorRef<JudgeMsg>, args: JudgeArgs) -> Result<JudgeState, ActorProcessingErr> {
        let (batches, receiver) = bounded(args.batches);
        for _ in 0..THREADS {
            let (receiver, out, myself) = (receiver.clone(), args.out.clone(), myself.clone());
            std::thread::Builder::new().name("judge".into()).spawn(move || {
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(&receiver, &out))) {
                    let _ = myself.cast(JudgeMsg::ThreadEnded(panic_text(panic.as_ref())));
                }
            })?;
        }
        Ok(JudgeState { batches })
    }

    async fn handle(
        &self,
        _myself: ActorRef<JudgeMsg>,
        message: JudgeMsg,
        state: &mut JudgeState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            JudgeMsg::Judge(jobs) => {
                // In pieces, so that the threads share a long batch.
                let mut rest = jobs.into_iter().peekable();
                while rest.peek().is_some() {
                    let piece: Vec<JudgeJob> = rest.by_ref().take(CHUNK).collect();
                    state.batches.try_send(piece).map_err(|e| ActorProcessingErr::from(e.to_string()))?;
                }
                Ok(())
            }
            JudgeMsg::ThreadEnded(reason) => Err(reason.into()),
        }
    }
}

/// The thread: returns when the actor is gone.
fn work(batches: &Receiver<Vec<JudgeJob>>, out: &ActorRef<OrchestratorMsg>) {
    while let Ok(jobs) = batches.recv() {
        let items = jobs
            .iter()
            .map(|job| JudgedItem {
                rollout: job.rollout,
                attempt: job.attempt,
                ruling: Arc::new(reward::judge(&job.completion.text, &job.task)),
            })
            .collect();
        let _ = out.cast(OrchestratorMsg::Judged(items));
    }
}
