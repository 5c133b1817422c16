//! A node's executors: the head's own pool actor, with a post box in the orchestrator's place.

use std::time::Duration;

use ractor::rpc::CallResult;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use rollout::id::{Attempt, RolloutId};
use rollout::outcome::Fault;
use tokio::sync::mpsc;

use crate::crew::VerifierFactory;
use crate::executor::{ExecJob, ExecutedItem};
use crate::logbook::Logbook;
use crate::orchestrator::OrchestratorMsg;
use crate::pool::{Pool, PoolArgs, PoolMsg};
use crate::supervise::{EXECUTOR_LOST, fault};

/// What the pool has to say.
#[derive(Debug)]
pub enum FromPool {
    Executed(Vec<ExecutedItem>),
    Died(Fault),
}

/// Stands where the orchestrator stands in a head; supervises the pool.
struct PostBox;

impl Actor for PostBox {
    type Msg = OrchestratorMsg;
    type State = mpsc::Sender<FromPool>;
    type Arguments = mpsc::Sender<FromPool>;

    async fn pre_start(
        &self,
        _: ActorRef<OrchestratorMsg>,
        out: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(out)
    }

    async fn handle(
        &self,
        _: ActorRef<OrchestratorMsg>,
        message: OrchestratorMsg,
        out: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let OrchestratorMsg::Executed(items) = message
            && out.try_send(FromPool::Executed(items)).is_err()
        {
            // The head faults them: it is not told of them any more (F124).
            tracing::warn!("answers are dropped: too many wait for the node's loop");
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<OrchestratorMsg>,
        event: SupervisionEvent,
        out: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let reason = match event {
            SupervisionEvent::ActorFailed(_, error) => error.to_string(),
            SupervisionEvent::ActorTerminated(_, _, reason) => reason.unwrap_or_else(|| "was killed".into()),
            _ => return Ok(()),
        };
        let _ = out.try_send(FromPool::Died(fault(EXECUTOR_LOST, reason)));
        Ok(())
    }
}

/// Executors at work; ends with it.
pub struct Bench {
    pub pool: ActorRef<PoolMsg>,
    pub executors: u32,
    post_box: ActorRef<OrchestratorMsg>,
}

impl Bench {
    /// # Errors
    /// Actors that cannot be started.
    pub async fn start(
        factory: VerifierFactory,
        executors: u32,
        deadline: Duration,
        out: mpsc::Sender<FromPool>,
        logbook: Logbook,
    ) -> Result<Bench, Fault> {
        let failed = |e: ractor::SpawnErr| fault(EXECUTOR_LOST, e);
        let (post_box, _) = PostBox::spawn(None, PostBox, out).await.map_err(failed)?;
        let args = PoolArgs {
            factory,
            saturated: None,
            llm_judge: None,
            workers: executors,
            workers_max: executors,
            deadline,
            // The head remembers, for all nodes.
            reuse_verdicts: false,
            verdicts_max: 0,
            cluster: None,
            logbook,
            out: post_box.clone(),
        };
        let (pool, _) = Pool::spawn_linked(None, Pool, args, post_box.get_cell()).await.map_err(failed)?;
        Ok(Bench { pool, executors, post_box })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // The executors' tasks, and their Python processes, end with their actors.
        self.post_box.kill();
        self.pool.kill();
    }
}

/// Which rollouts the pool has, if it answers in time.
pub async fn held(pool: &ActorRef<PoolMsg>, within: Duration) -> Option<Vec<(RolloutId, Attempt)>> {
    match pool.call(PoolMsg::Held, Some(within)).await {
        Ok(CallResult::Success(held)) => Some(held),
        _ => None,
    }
}

/// # Errors
/// The pool is dead.
pub fn give(pool: &ActorRef<PoolMsg>, jobs: Vec<ExecJob>) -> Result<(), String> {
    pool.cast(PoolMsg::Execute(jobs)).map_err(|e| format!("the executors are gone: {e}"))
}

/// What of them waits begins no more.
pub fn cancel(pool: &ActorRef<PoolMsg>, rollouts: Vec<RolloutId>) {
    if !rollouts.is_empty() {
        let _ = pool.cast(PoolMsg::Cancel(rollouts));
    }
}
