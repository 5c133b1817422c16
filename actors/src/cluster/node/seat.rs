//! The generator actor of a node, and its supervisor, which tells the node's loop of its death.

use std::future::Future;
use std::time::Duration;

use ractor::rpc::CallResult;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use rollout::id::{Attempt, PolicyVersion, RolloutId};
use rollout::outcome::Fault;
use tokio::sync::mpsc::UnboundedSender;

use super::sampling::Event;
use crate::crew::{SampleJob, SamplerFactory, Weights};
use crate::generator::{Adoption, Generator, GeneratorArgs, GeneratorMsg};
use crate::supervise::{GENERATOR_LOST, fault};

/// Orders that fit between the node's loop and the thread, besides two for each place.
const ORDERS: usize = 4096;

/// Stands where the orchestrator stands in a head.
struct Keeper;

impl Actor for Keeper {
    type Msg = ();
    type State = UnboundedSender<Event>;
    type Arguments = UnboundedSender<Event>;

    async fn pre_start(&self, _: ActorRef<()>, out: Self::Arguments) -> Result<Self::State, ActorProcessingErr> {
        Ok(out)
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        out: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let reason = match event {
            SupervisionEvent::ActorFailed(_, error) => error.to_string(),
            SupervisionEvent::ActorTerminated(_, _, reason) => reason.unwrap_or_else(|| "was killed".into()),
            _ => return Ok(()),
        };
        let _ = out.send(Event::Died(reason));
        Ok(())
    }
}

/// A generator at work; ends with it.
pub(super) struct Seat {
    actor: ActorRef<GeneratorMsg>,
    keeper: ActorRef<()>,
    pub(super) places: u32,
    /// What it samples from, as far as it has said so.
    pub(super) policy: Option<PolicyVersion>,
    /// The version that it was last given.
    pub(super) asked: PolicyVersion,
    weights: Weights,
}

impl Seat {
    /// # Errors
    /// Actors that cannot be started.
    pub(super) async fn take(
        factory: SamplerFactory,
        start: Adoption,
        places: u32,
        out: UnboundedSender<Event>,
    ) -> Result<Seat, Fault> {
        let failed = |e: ractor::SpawnErr| fault(GENERATOR_LOST, e);
        let (keeper, _) = Keeper::spawn(None, Keeper, out.clone()).await.map_err(failed)?;
        let (asked, weights) = (start.policy, start.weights.clone());
        let args = GeneratorArgs {
            factory,
            start,
            out: Box::new(move |drawn| drop(out.send(Event::Drawn(drawn)))),
            orders: 2 * places as usize + ORDERS,
        };
        let (actor, _) = Generator::spawn_linked(None, Generator, args, keeper.get_cell()).await.map_err(failed)?;
        Ok(Seat { actor, keeper, places, policy: None, asked, weights })
    }

    pub(super) fn adopt(&mut self, adoption: Adoption) {
        (self.asked, self.weights) = (adoption.policy, adoption.weights.clone());
        let _ = self.actor.cast(GeneratorMsg::Adopt(adoption));
    }

    /// What a generator in its place has to start from.
    pub(super) fn newest(&self) -> Adoption {
        Adoption { weights: self.weights.clone(), policy: self.asked }
    }

    /// False where it is dead.
    pub(super) fn sample(&self, jobs: Vec<SampleJob>) -> bool {
        jobs.is_empty() || self.actor.cast(GeneratorMsg::Sample(jobs)).is_ok()
    }

    pub(super) fn cancel(&self, rollouts: Vec<RolloutId>) {
        if !rollouts.is_empty() {
            let _ = self.actor.cast(GeneratorMsg::Cancel(rollouts));
        }
    }

    /// What is under way, as its thread says; `None` where it has not come to that in time.
    pub(super) fn held(
        &self,
        within: Duration,
    ) -> impl Future<Output = Option<Vec<(RolloutId, Attempt)>>> + Send + use<> {
        let actor = self.actor.clone();
        async move {
            let ask = |reply: RpcReplyPort<Vec<(RolloutId, Attempt)>>| GeneratorMsg::Held(reply);
            match actor.call(ask, Some(within)).await {
                Ok(CallResult::Success(held)) => Some(held),
                _ => None,
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // The thread ends when its actor is gone.
        self.keeper.kill();
        self.actor.kill();
    }
}
