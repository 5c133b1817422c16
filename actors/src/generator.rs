//! The generator: turns `SampleJob`s into answers. Owns one thread that computes; dies with it, and it with the actor.
//!
//! The thread takes orders from a bounded channel between tokens, so new answers join, cancelled ones leave and new
//! weights are adopted while others are in the middle of their text. Killed by: a panic or fault of the thread.
//!
//! The same actor works in a head and on a node (`cluster::node`); only where its answers go differs.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use rollout::id::{Attempt, PolicyVersion, RolloutId};
use rollout::outcome::Fault;

use crate::crew::{News, SampleJob, SampledItem, Sampler, SamplerFactory, Taken, Weights};
use crate::fleet::FleetMsg;
use crate::orchestrator::OrchestratorMsg;

#[derive(Debug)]
pub enum GeneratorMsg {
    Sample(Vec<SampleJob>),
    Cancel(Vec<RolloutId>),
    Adopt(Adoption),
    /// Which answers are under way: the thread itself says so, between two tokens.
    Held(RpcReplyPort<Vec<(RolloutId, Attempt)>>),
    /// From the thread: it ended by itself.
    ThreadEnded(String),
    /// Where generators of other machines may join: from the head's gateway, or from the generator here.
    Fleet(FleetMsg),
}

crate::mailbox::counted!(GeneratorMsg, WAITING);

/// What a generator has to say.
#[derive(Debug)]
pub enum Drawn {
    Sampled(Vec<SampledItem>),
    /// This one cannot be sampled.
    Refused {
        rollout: RolloutId,
        attempt: Attempt,
        fault: Fault,
    },
    Adopted(PolicyVersion),
}

impl From<Drawn> for OrchestratorMsg {
    fn from(drawn: Drawn) -> OrchestratorMsg {
        match drawn {
            Drawn::Sampled(items) => OrchestratorMsg::Sampled(items),
            Drawn::Refused { rollout, attempt, fault } => OrchestratorMsg::Refused { rollout, attempt, fault },
            Drawn::Adopted(policy) => OrchestratorMsg::Adopted { policy },
        }
    }
}

/// Where it says it. Called on the generator's thread; it never blocks.
pub type DrawnTo = Box<dyn Fn(Drawn) + Send>;

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
    pub out: DrawnTo,
    /// Orders that fit in the channel. The orchestrator's credits keep it from filling.
    pub orders: usize,
}

enum Order {
    Sample(Vec<SampleJob>),
    Cancel(Vec<RolloutId>),
    Adopt(Adoption),
    Held(RpcReplyPort<Vec<(RolloutId, Attempt)>>),
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
            GeneratorMsg::Held(reply) => Order::Held(reply),
            // A generator by itself has no others.
            GeneratorMsg::Fleet(_) => return Ok(()),
            GeneratorMsg::ThreadEnded(reason) => return Err(reason.into()),
        };
        // Full means that the credits were not kept: an error of ours, not backpressure.
        state.orders.try_send(order).map_err(|e| ActorProcessingErr::from(e.to_string()))
    }
}

/// The thread: returns when the actor is gone.
fn work(factory: &SamplerFactory, start: Adoption, orders: &Receiver<Order>, out: &DrawnTo) -> Result<(), Fault> {
    let mut desk = Desk { sampler: factory(start.weights, start.policy)?, under_way: BTreeMap::new(), out };
    loop {
        if !desk.sampler.busy() {
            match orders.recv_timeout(Duration::from_secs(1)) {
                Ok(order) => desk.obey(order)?,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
        loop {
            match orders.try_recv() {
                Ok(order) => desk.obey(order)?,
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        }
        if desk.sampler.busy() {
            desk.step()?;
        }
    }
}

/// What the thread works with.
struct Desk<'a> {
    sampler: Box<dyn Sampler>,
    /// Admitted, and not ended.
    under_way: BTreeMap<RolloutId, Attempt>,
    out: &'a DrawnTo,
}

impl Desk<'_> {
    fn step(&mut self) -> Result<(), Fault> {
        let items = self.sampler.step()?;
        for item in &items {
            self.under_way.remove(&item.rollout);
        }
        if !items.is_empty() {
            (self.out)(Drawn::Sampled(items));
        }
        for news in self.sampler.news() {
            (self.out)(match news {
                News::Adopted(policy) => Drawn::Adopted(policy),
                News::Refused { rollout, attempt, fault } => {
                    self.under_way.remove(&rollout);
                    Drawn::Refused { rollout, attempt, fault }
                }
            });
        }
        Ok(())
    }

    fn obey(&mut self, order: Order) -> Result<(), Fault> {
        match order {
            Order::Sample(jobs) => {
                for job in jobs {
                    let (rollout, attempt) = (job.rollout, job.attempt);
                    match self.sampler.admit(job) {
                        Ok(()) => drop(self.under_way.insert(rollout, attempt)),
                        Err(fault) => (self.out)(Drawn::Refused { rollout, attempt, fault }),
                    }
                }
            }
            Order::Cancel(rollouts) => {
                for rollout in rollouts {
                    self.under_way.remove(&rollout);
                    self.sampler.cancel(rollout);
                }
            }
            Order::Adopt(Adoption { weights, policy }) => {
                if self.sampler.adopt(weights, policy)? == Taken::Now {
                    (self.out)(Drawn::Adopted(policy));
                }
            }
            Order::Held(reply) => {
                let held = self.under_way.iter().map(|(rollout, attempt)| (*rollout, *attempt));
                // Whoever asked may have given up.
                let _ = reply.send(held.collect());
            }
        }
        Ok(())
    }
}

/// The text of a panic, as far as it has one.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| s.to_string()).or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.unwrap_or_else(|| "no message".into()))
}
