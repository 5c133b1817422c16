//! One executor: turns admitted candidates into reports, one at a time. Owns a verifier (warm Python processes) in a
//! task that dies with the actor; dropping the verifier ends its processes.
//!
//! Killed by: a verifier that cannot be started, or that panics. A fault of one evaluation is reported and the executor
//! goes on; an evaluation past its deadline is a fault and costs the verifier, which is started afresh.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use rollout::id::{Attempt, RolloutId};
use rollout::outcome::{Candidate, ExecReport, Fault, Ruling};
use rollout::task::TaskSpec;
use sandbox::stage;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::crew::{Verifier, VerifierFactory};
use crate::generator::panic_text;
use crate::logbook::{Logbook, Span};
use crate::pool::PoolMsg;
use crate::supervise::{EXECUTOR_DEADLINE, EXECUTOR_LOST, fault};

/// "Compile and run this candidate."
#[derive(Clone, Debug)]
pub struct ExecJob {
    pub rollout: RolloutId,
    pub attempt: Attempt,
    pub task: Arc<TaskSpec>,
    /// An `Admit`.
    pub ruling: Arc<Ruling>,
}

impl ExecJob {
    pub fn candidate(&self) -> Option<&Candidate> {
        match &*self.ruling {
            Ruling::Admit { candidate, .. } => Some(candidate),
            Ruling::Reject { .. } => None,
        }
    }
}

/// What became of one evaluation.
#[derive(Clone, Debug)]
pub struct ExecutedItem {
    pub rollout: RolloutId,
    pub attempt: Attempt,
    pub result: Result<Arc<ExecReport>, Fault>,
}

#[derive(Debug)]
pub enum ExecutorMsg {
    Execute(ExecJob),
    /// From the task: the verifier could not be started, or panicked.
    TaskEnded(String),
}

impl ractor::Message for ExecutorMsg {}

pub struct ExecutorArgs {
    pub number: u32,
    pub factory: VerifierFactory,
    pub pool: ActorRef<PoolMsg>,
    /// Longest time one evaluation may take, the verifier's own limits included.
    pub deadline: Duration,
    pub logbook: Logbook,
}

pub struct ExecutorState {
    jobs: mpsc::Sender<ExecJob>,
    /// Owns the task: dropped with the actor, on kill and on panic.
    _task: JoinSet<()>,
}

pub struct Executor;

impl Actor for Executor {
    type Msg = ExecutorMsg;
    type State = ExecutorState;
    type Arguments = ExecutorArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<ExecutorMsg>,
        args: ExecutorArgs,
    ) -> Result<ExecutorState, ActorProcessingErr> {
        // The pool gives the next job only after the last one's result.
        let (jobs, receiver) = mpsc::channel(1);
        let mut task = JoinSet::new();
        task.spawn(async move {
            // A task of its own, so that a panic comes back as an answer: whoever waits for the job hears of it.
            let mut inner = JoinSet::new();
            inner.spawn(async move { work(&args, receiver).await });
            let reason = match inner.join_next().await {
                None | Some(Ok(Ok(()))) => return,
                Some(Ok(Err(fault))) => fault.to_string(),
                Some(Err(error)) => match error.try_into_panic() {
                    Ok(panic) => panic_text(panic.as_ref()),
                    Err(error) => error.to_string(),
                },
            };
            let _ = myself.cast(ExecutorMsg::TaskEnded(reason));
        });
        Ok(ExecutorState { jobs, _task: task })
    }

    async fn handle(
        &self,
        _myself: ActorRef<ExecutorMsg>,
        message: ExecutorMsg,
        state: &mut ExecutorState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ExecutorMsg::Execute(job) => state.jobs.try_send(job).map_err(|e| ActorProcessingErr::from(e.to_string())),
            ExecutorMsg::TaskEnded(reason) => Err(reason.into()),
        }
    }
}

/// The task: returns when the actor is gone.
async fn work(args: &ExecutorArgs, mut jobs: mpsc::Receiver<ExecJob>) -> Result<(), Fault> {
    let mut starting = args.logbook.begin(lane(args.number), None, None);
    starting.stage("start");
    let mut verifier = Some((args.factory)(args.number).await?);
    starting.end("started");
    while let Some(job) = jobs.recv().await {
        let live = match verifier.take() {
            Some(live) => live,
            None => (args.factory)(args.number).await?,
        };
        let span = args.logbook.begin(lane(args.number), Some(job.rollout.0), Some(job.attempt.0));
        let span = Arc::new(Mutex::new(Some(span)));
        let (result, live) = stage::told_to(listener(span.clone()), evaluate(args, live, &job)).await;
        verifier = live;
        if let Some(span) = span.lock().unwrap_or_else(PoisonError::into_inner).take() {
            span.end(result.as_ref().map_or_else(|fault| fault.code.as_str(), |_| "report"));
        }
        let item = ExecutedItem { rollout: job.rollout, attempt: job.attempt, result };
        let _ = args.pool.cast(PoolMsg::Done { number: args.number, item });
    }
    Ok(())
}

/// What an executor of this process is called where lanes are shown.
pub fn lane(number: u32) -> String {
    format!("executor {number}")
}

fn listener(span: Arc<Mutex<Option<Span>>>) -> stage::OnStage {
    Arc::new(move |name| {
        if let Some(span) = span.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            span.stage(name);
        }
    })
}

async fn evaluate(
    args: &ExecutorArgs,
    mut verifier: Box<dyn Verifier>,
    job: &ExecJob,
) -> (Result<Arc<ExecReport>, Fault>, Option<Box<dyn Verifier>>) {
    let Some(candidate) = job.candidate() else {
        return (Err(fault(EXECUTOR_LOST, "asked to execute a rejected answer")), Some(verifier));
    };
    let outcome = tokio::time::timeout(args.deadline, verifier.verify(&job.task, candidate)).await;
    match outcome {
        Ok(result) => (result.map(Arc::new), Some(verifier)),
        Err(_) => {
            let limit = args.deadline.as_secs_f64();
            // The verifier is dropped here: whatever it was waiting for is not trusted again.
            (Err(fault(EXECUTOR_DEADLINE, format!("no result within {limit} s"))), None)
        }
    }
}
