//! The generators of a run that others may join: the one of this process, where there is one, and those of nodes. It stands where a
//! generator stands in a run by itself, and takes the same orders.
//!
//! Answers wait here until a generator has room that samples from the version they need (`seats`). A version counts as adopted when
//! the first generator has it: those that are still behind go on with what they have under way and get nothing new, so that a
//! slow one holds up nobody.
//!
//! Owns and supervises the generator here. Killed by: one that keeps dying.

use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef, ActorStatus, SupervisionEvent};
use rollout::completion::Completion;
use rollout::id::{Attempt, PolicyVersion, RolloutId};
use rollout::outcome::Fault;

use crate::cluster::Link;
use crate::cluster::head::HeadMsg;
use crate::cluster::wire::NodeKey;
use crate::crew::{SampledItem, SamplerFactory};
use crate::generator::{Adoption, Drawn, Generator, GeneratorArgs, GeneratorMsg};
use crate::orchestrator::OrchestratorMsg;
use crate::supervise::{Deaths, GENERATOR_LOST, LEASE_LOST, NODE_LOST, Role, Verdict, fault};

pub mod seats;

use seats::{Seats, Who};

/// How often a dead gateway is looked for.
const TICK: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub enum FleetMsg {
    /// From the generator of this process.
    Here(Drawn),
    /// A node's generator has its first weights.
    Attach {
        gateway: ActorRef<HeadMsg>,
        key: NodeKey,
        places: u32,
    },
    Adopted {
        key: NodeKey,
        policy: PolicyVersion,
    },
    /// Nothing new for the node for now, or again.
    Pause {
        key: NodeKey,
        paused: bool,
    },
    /// Nothing new; tell the gateway when it has ended all it has.
    Leave {
        key: NodeKey,
    },
    /// The node is gone.
    Detach {
        key: NodeKey,
        why: String,
    },
    Done {
        key: NodeKey,
        rollout: RolloutId,
        attempt: Attempt,
        result: Result<Box<Completion>, Fault>,
    },
    /// A new gateway, which knows of no weights.
    Gateway(ActorRef<HeadMsg>),
    Tick,
}

pub struct FleetArgs {
    pub factory: SamplerFactory,
    /// Answers that the generator here takes at once; 0: there is none here.
    pub places: usize,
    pub start: Adoption,
    /// See [`GeneratorArgs::orders`].
    pub orders: usize,
    pub link: Link,
    pub out: ActorRef<OrchestratorMsg>,
}

struct Here {
    actor: ActorRef<GeneratorMsg>,
    deaths: Deaths,
}

pub struct FleetState {
    args: FleetArgs,
    seats: Seats,
    here: Option<Here>,
    gateway: Option<ActorRef<HeadMsg>>,
    newest: Adoption,
    /// What the orchestrator was told to be adopted; it bears to hear it again.
    told: Option<PolicyVersion>,
}

pub struct Fleet;

impl Actor for Fleet {
    type Msg = GeneratorMsg;
    type State = FleetState;
    type Arguments = FleetArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<GeneratorMsg>,
        args: FleetArgs,
    ) -> Result<FleetState, ActorProcessingErr> {
        let mut seats = Seats::default();
        let newest = Adoption { weights: args.start.weights.clone(), policy: args.start.policy };
        let here = match args.places {
            0 => None,
            places => {
                seats.sit(Who::Here, places);
                seats.has(Who::Here, newest.policy);
                Some(Here { actor: spawn(&args, &newest, &myself).await?, deaths: Deaths::new(Role::Generator) })
            }
        };
        myself.send_interval(TICK, || GeneratorMsg::Fleet(FleetMsg::Tick));
        let gateway = args.link.fleet_is(&myself);
        // Without a generator here nobody has it: an earlier fleet may have died before one of a node had, and without a word.
        let told = here.is_some().then_some(newest.policy);
        let state = FleetState { args, seats, here, gateway, newest, told };
        state.offer();
        Ok(state)
    }

    async fn handle(
        &self,
        _myself: ActorRef<GeneratorMsg>,
        message: GeneratorMsg,
        state: &mut FleetState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            GeneratorMsg::Sample(jobs) => state.seats.wait(jobs),
            GeneratorMsg::Cancel(rollouts) => state.cancel(&rollouts),
            GeneratorMsg::Adopt(adoption) => state.adopt(adoption),
            GeneratorMsg::Fleet(message) => state.fleet(message),
            // Asked of a generator; it dies with its own thread.
            GeneratorMsg::Held(_) | GeneratorMsg::ThreadEnded(_) => {}
        }
        state.dispatch();
        state.release();
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<GeneratorMsg>,
        event: SupervisionEvent,
        state: &mut FleetState,
    ) -> Result<(), ActorProcessingErr> {
        let (who, reason) = match event {
            SupervisionEvent::ActorFailed(who, error) => (who, error.to_string()),
            SupervisionEvent::ActorTerminated(who, _, reason) => (who, reason.unwrap_or_else(|| "was killed".into())),
            _ => return Ok(()),
        };
        let Some(here) = state.here.as_mut().filter(|here| here.actor.get_id() == who.get_id()) else { return Ok(()) };
        let verdict = here.deaths.on_death(Instant::now());
        tracing::warn!(%reason, ?verdict, "the generator died");
        if let Verdict::EndRun { code } = verdict {
            return Err(format!("{code}: the generator keeps dying: {reason}").into());
        }
        here.actor = spawn(&state.args, &state.newest, &myself).await?;
        let lost = state.seats.lost(Who::Here);
        state.seats.sit(Who::Here, state.args.places);
        state.adopted(Who::Here, state.newest.policy);
        state.refuse(lost, &fault(GENERATOR_LOST, format!("Generator died: {reason}")));
        state.dispatch();
        Ok(())
    }
}

async fn spawn(
    args: &FleetArgs,
    start: &Adoption,
    fleet: &ActorRef<GeneratorMsg>,
) -> Result<ActorRef<GeneratorMsg>, ActorProcessingErr> {
    let to = fleet.clone();
    let args = GeneratorArgs {
        factory: args.factory.clone(),
        start: Adoption { weights: start.weights.clone(), policy: start.policy },
        out: Box::new(move |drawn| drop(to.cast(GeneratorMsg::Fleet(FleetMsg::Here(drawn))))),
        orders: args.orders,
    };
    Ok(Generator::spawn_linked(None, Generator, args, fleet.get_cell()).await?.0)
}

impl FleetState {
    fn say(&self, what: Drawn) {
        let _ = self.args.out.cast(what.into());
    }

    /// The newest weights, for generators of other machines.
    fn offer(&self) {
        if let Some(gateway) = &self.gateway {
            let newest = Adoption { weights: self.newest.weights.clone(), policy: self.newest.policy };
            let _ = gateway.cast(HeadMsg::Weights(newest));
        }
    }

    fn adopt(&mut self, adoption: Adoption) {
        let again = adoption.policy == self.newest.policy;
        self.newest = adoption;
        if let Some(here) = &self.here {
            let Adoption { weights, policy } = &self.newest;
            let adoption = Adoption { weights: weights.clone(), policy: *policy };
            let _ = here.actor.cast(GeneratorMsg::Adopt(adoption));
        }
        self.offer();
        // Announced once more: the answer may have been lost.
        if again && self.seats.newest() == Some(self.newest.policy) {
            self.say(Drawn::Adopted(self.newest.policy));
        }
    }

    fn adopted(&mut self, who: Who, policy: PolicyVersion) {
        self.seats.has(who, policy);
        if self.told.is_none_or(|told| policy > told) && policy <= self.newest.policy {
            self.told = Some(policy);
            self.say(Drawn::Adopted(policy));
        }
    }

    fn cancel(&mut self, rollouts: &[RolloutId]) {
        for (who, gone) in self.seats.cancel(rollouts) {
            match (who, &self.here, &self.gateway) {
                (Who::Here, Some(here), _) => drop(here.actor.cast(GeneratorMsg::Cancel(gone))),
                (Who::Node(key), _, Some(gateway)) => drop(gateway.cast(HeadMsg::Unsample { key, rollouts: gone })),
                _ => {}
            }
        }
    }

    fn fleet(&mut self, message: FleetMsg) {
        match message {
            FleetMsg::Here(Drawn::Sampled(items)) => {
                let ours = |item: &SampledItem| self.seats.ended(Who::Here, item.rollout, item.attempt).is_some();
                let items: Vec<SampledItem> = items.into_iter().filter(ours).collect();
                self.say(Drawn::Sampled(items));
            }
            FleetMsg::Here(Drawn::Refused { rollout, attempt, fault }) => {
                if self.seats.ended(Who::Here, rollout, attempt).is_some() {
                    self.say(Drawn::Refused { rollout, attempt, fault });
                }
            }
            FleetMsg::Here(Drawn::Adopted(policy)) => self.adopted(Who::Here, policy),
            FleetMsg::Attach { gateway, key, places } => {
                self.gateway = Some(gateway);
                self.seats.sit(Who::Node(key), places as usize);
            }
            FleetMsg::Adopted { key, policy } => self.adopted(Who::Node(key), policy),
            FleetMsg::Pause { key, paused } => self.seats.pause(Who::Node(key), paused),
            FleetMsg::Leave { key } => self.leave(key),
            FleetMsg::Detach { key, why } => {
                let lost = self.seats.lost(Who::Node(key));
                self.refuse(lost, &fault(NODE_LOST, why));
            }
            FleetMsg::Done { key, rollout, attempt, result } => {
                let Some(job) = self.seats.ended(Who::Node(key), rollout, attempt) else { return };
                let versions = job.least..=self.newest.policy;
                let foreign = |c: &Completion| c.spans.iter().find(|span| !versions.contains(&span.policy)).copied();
                self.say(match result {
                    Ok(completion) if foreign(&completion).is_some() => {
                        let why = format!("sampled under {:?}, asked for {versions:?}", foreign(&completion));
                        Drawn::Refused { rollout, attempt, fault: fault(LEASE_LOST, why) }
                    }
                    Ok(mut completion) => {
                        completion.prompt_tokens.clone_from(&job.task.prompt.tokens);
                        Drawn::Sampled(vec![SampledItem { rollout, attempt, completion: (*completion).into() }])
                    }
                    Err(fault) => Drawn::Refused { rollout, attempt, fault },
                });
            }
            FleetMsg::Gateway(gateway) => {
                self.lose_nodes("the head's gateway died");
                self.gateway = Some(gateway);
                self.offer();
            }
            FleetMsg::Tick => {
                let dead = |gateway: &ActorRef<HeadMsg>| gateway.get_status() >= ActorStatus::Stopping;
                if self.gateway.as_ref().is_some_and(dead) {
                    self.gateway = None;
                    self.lose_nodes("the head's gateway died");
                }
            }
        }
    }

    fn leave(&mut self, key: NodeKey) {
        if self.seats.holds(Who::Node(key)) {
            return self.seats.leave(Who::Node(key));
        }
        // It never had weights, so it has nothing else.
        if let Some(gateway) = &self.gateway {
            let _ = gateway.cast(HeadMsg::Idle { key });
        }
    }

    fn lose_nodes(&mut self, why: &str) {
        for key in self.seats.nodes() {
            let lost = self.seats.lost(Who::Node(key));
            self.refuse(lost, &fault(NODE_LOST, why));
        }
    }

    fn refuse(&self, lost: Vec<(RolloutId, Attempt)>, fault: &Fault) {
        for (rollout, attempt) in lost {
            self.say(Drawn::Refused { rollout, attempt, fault: fault.clone() });
        }
    }

    fn dispatch(&mut self) {
        for (who, jobs) in self.seats.dispatch() {
            match (who, &self.here, &self.gateway) {
                // One that just died is replaced, and what it had faulted, by its supervision event.
                (Who::Here, Some(here), _) => drop(here.actor.cast(GeneratorMsg::Sample(jobs))),
                (Who::Node(key), _, Some(gateway)) => drop(gateway.cast(HeadMsg::Sample { key, jobs })),
                _ => {}
            }
        }
    }

    /// Nodes that were to leave and have nothing under way may go.
    fn release(&mut self) {
        for who in self.seats.left() {
            if let (Who::Node(key), Some(gateway)) = (who, &self.gateway) {
                let _ = gateway.cast(HeadMsg::Idle { key });
            }
        }
    }
}
