//! The generator: turns `SampleJob`s into answers. Owns one thread that computes; dies with it, and it with the actor.
//!
//! The thread takes orders from a bounded channel between tokens, so new answers join, cancelled ones leave and new
//! weights are adopted while others are in the middle of their text. Killed by: a panic or fault of the thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use rollout::id::{PolicyVersion, RolloutId};
use rollout::outcome::Fault;

use crate::crew::{News, SampleJob, Sampler, SamplerFactory, Taken, Weights};
use crate::orchestrator::OrchestratorMsg;

#[derive(Debug)]
pub enum GeneratorMsg {
    Sample(Vec<SampleJob>),
    Cancel(Vec<RolloutId>),
    Adopt(Adoption),
    /// From the thread: it ended by itself.
    ThreadEnded(String),
}

impl ractor::Message for GeneratorMsg {}

pub struct Adoption {
    pub weights: Weights,
    pub policy: PolicyVersion,
}

impl std::fmt::Debug for Adoption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Adoption({})", self.policy)
    }
}

pub struct GeneratorArgs {
    pub factory: SamplerFactory,
    /// What to sample from until the first `Adopt`.
    pub start: Adoption,
    pub out: ActorRef<OrchestratorMsg>,
    /// Orders that fit in the channel. The orchestrator's credits keep it from filling.
    pub orders: usize,
}

enum Order {
    Sample(Vec<SampleJob>),
    Cancel(Vec<RolloutId>),
    Adopt(Adoption),
}

pub struct GeneratorState {
    orders: Sender<Order>,
}

pub struct Generator;

impl Actor for Generator {
    type Msg = GeneratorMsg;
    type State = GeneratorState;
    type Arguments = GeneratorArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<GeneratorMsg>,
        args: GeneratorArgs,
    ) -> Result<GeneratorState, ActorProcessingErr> {
        let (orders, receiver) = bounded(args.orders);
        std::thread::Builder::new().name("generator".into()).spawn(move || {
            let work = AssertUnwindSafe(|| work(&args.factory, args.start, &receiver, &args.out));
            let reason = match catch_unwind(work) {
                Ok(Ok(())) => return,
                Ok(Err(fault)) => fault.to_string(),
                Err(panic) => panic_text(panic.as_ref()),
            };
            let _ = myself.cast(GeneratorMsg::ThreadEnded(reason));
        })?;
        Ok(GeneratorState { orders })
    }

    async fn handle(
        &self,
        _myself: ActorRef<GeneratorMsg>,
        message: GeneratorMsg,
        state: &mut GeneratorState,
    ) -> Result<(), ActorProcessingErr> {
        let order = match message {
            GeneratorMsg::Sample(jobs) => Order::Sample(jobs),
            GeneratorMsg::Cancel(rollouts) => Order::Cancel(rollouts),
            GeneratorMsg::Adopt(adoption) => Order::Adopt(adoption),
            GeneratorMsg::ThreadEnded(reason) => return Err(reason.into()),
        };
        // Full means that the credits were not kept: an error of ours, not backpressure.
        state.orders.try_send(order).map_err(|e| ActorProcessingErr::from(e.to_string()))
    }
}

/// The thread: returns when the actor is gone.
fn work(
    factory: &SamplerFactory,
    start: Adoption,
    orders: &Receiver<Order>,
    out: &ActorRef<OrchestratorMsg>,
) -> Result<(), Fault> {
    let mut sampler = factory(start.weights, start.policy)?;
    loop {
        if !sampler.busy() {
            match orders.recv_timeout(Duration::from_secs(1)) {
                Ok(order) => obey(sampler.as_mut(), order, out)?,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
        loop {
            match orders.try_recv() {
                Ok(order) => obey(sampler.as_mut(), order, out)?,
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        }
        if sampler.busy() {
            let items = sampler.step()?;
            if !items.is_empty() {
                let _ = out.cast(OrchestratorMsg::Sampled(items));
            }
            for news in sampler.news() {
                let _ = out.cast(match news {
                    News::Adopted(policy) => OrchestratorMsg::Adopted { policy },
                    News::Refused { rollout, attempt, fault } => OrchestratorMsg::Refused { rollout, attempt, fault },
                });
            }
        }
    }
}

fn obey(sampler: &mut dyn Sampler, order: Order, out: &ActorRef<OrchestratorMsg>) -> Result<(), Fault> {
    match order {
        Order::Sample(jobs) => {
            for job in jobs {
                let (rollout, attempt) = (job.rollout, job.attempt);
                if let Err(fault) = sampler.admit(job) {
                    let _ = out.cast(OrchestratorMsg::Refused { rollout, attempt, fault });
                }
            }
        }
        Order::Cancel(rollouts) => rollouts.into_iter().for_each(|rollout| sampler.cancel(rollout)),
        Order::Adopt(Adoption { weights, policy }) => {
            if sampler.adopt(weights, policy)? == Taken::Now {
                let _ = out.cast(OrchestratorMsg::Adopted { policy });
            }
        }
    }
    Ok(())
}

/// The text of a panic, as far as it has one.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| s.to_string()).or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.unwrap_or_else(|| "no message".into()))
}
