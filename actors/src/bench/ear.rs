//! An actor in the orchestrator's place, for what is measured or tested without one: every message goes to a closure.

use ractor::{Actor, ActorProcessingErr, ActorRef, SpawnErr};

use crate::orchestrator::OrchestratorMsg;

type Heard = Box<dyn FnMut(OrchestratorMsg) + Send>;

struct Ear;

impl Actor for Ear {
    type Msg = OrchestratorMsg;
    type State = Heard;
    type Arguments = Heard;

    async fn pre_start(&self, _: ActorRef<OrchestratorMsg>, heard: Heard) -> Result<Heard, ActorProcessingErr> {
        Ok(heard)
    }

    async fn handle(
        &self,
        _: ActorRef<OrchestratorMsg>,
        message: OrchestratorMsg,
        heard: &mut Heard,
    ) -> Result<(), ActorProcessingErr> {
        heard(message);
        Ok(())
    }
}

/// Starts one.
///
/// # Errors
/// No actor can be started.
pub async fn listen(
    heard: impl FnMut(OrchestratorMsg) + Send + 'static,
) -> Result<ActorRef<OrchestratorMsg>, SpawnErr> {
    Ok(Ear::spawn(None, Ear, Box::new(heard)).await?.0)
}
