//! Who is connected to whom, and how much fits on each edge. Mailboxes are unbounded; credits bound what is in them.
//!
//! ```text
//!                 credits (rollout.credits) bound everything below
//!   +--------------------------------------------------------------------------------------------+
//!   | orchestrator (machine, payloads of rollouts in flight)                                      |
//!   +--+----------------+-----------------+-------------------------+-----------------------+----+
//!      | Sample, Adopt  | Judge           | Execute                 | Train                 | batches of ops
//!      v                v                 v                         v                       v
//!   generator         judge             pool ----- 1 job each --> executor x workers     store writer (thread)
//!      | orders:        | batches:        | queue: credits          | mpsc: 1               | channel: 256 batches
//!      | 2*credits+64   | 2*credits+64    |                         v                       v
//!      v                v                 |                       zygote, referee         run.sqlite (WAL)
//!   thread: engine    2 threads: lint     +--> verdicts: 100,000  (Python processes)      metrics.jsonl
//!                                         |
//!                                         +--> LLM judge, if on: what passed; `judge.concurrency` requests at once,
//!                                              opinions: 100,000
//!                                      learner
//!                                         | jobs: 8
//!                                         v
//!                                      thread: optimizer, checkpoints
//! ```
//!
//! With `cluster.listen` executors of other machines are members of the pool as well: it gives them jobs through the head's gateway, one
//! each, and the gateway's mailbox holds at most as many as there are executors (`cluster`). Where generators may join, a `fleet` stands in
//! the generator's place, with the generator below it: what nobody has room for waits there, bounded by the credits.
//!
//! With `generator.kind = "openai"` the generator's thread asks a server instead of an engine: `generator.max_batch` requests
//! at once, one reload at a time (`openai`).
//!
//! Results come back to the orchestrator as messages (`Sampled`, `Judged`, `Executed`, `Trained`, `Adopted`,
//! `Durable`). The orchestrator is the supervisor of generator, judge, pool and learner; the pool of its executors
//! and of the LLM judge.

use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::crew::Crew;
use crate::fleet::{Fleet, FleetArgs};
use crate::generator::{Adoption, Drawn, Generator, GeneratorArgs, GeneratorMsg};
use crate::judge::{Judge, JudgeArgs, JudgeMsg};
use crate::learner::{Learner, LearnerArgs, LearnerMsg, Pen};
use crate::logbook::Logbook;
use crate::orchestrator::OrchestratorMsg;
use crate::pool::{Pool, PoolArgs, PoolMsg};

/// Verdicts remembered in one run: about 1 KiB each, 1.5 KiB at most (`verdicts::BYTES_MAX`, the key, the fixed
/// fields).
const VERDICTS_MAX: usize = 100_000;

/// Sizes and limits of the graph.
#[derive(Clone, Debug)]
pub struct Capacities {
    /// Rollouts in flight at once.
    pub credits: usize,
    pub executors: u32,
    /// As many at most while there is much to do.
    pub executors_max: u32,
    /// One evaluation's limit.
    pub execute_deadline: Duration,
    /// One training step's limit; a new learner also waits this long for an old one's thread.
    pub train_deadline: Duration,
    pub reuse_verdicts: bool,
}

impl Capacities {
    /// Messages to a thread: every rollout may be ordered and cancelled once, and a few more for weights.
    fn orders(&self) -> usize {
        2 * self.credits + 64
    }
}

type Spawned<M> = Result<ActorRef<M>, ActorProcessingErr>;

pub async fn spawn_generator(
    crew: &Crew,
    capacities: &Capacities,
    start: Adoption,
    out: &ActorRef<OrchestratorMsg>,
) -> Spawned<GeneratorMsg> {
    let orders = capacities.orders();
    if let Some((link, places)) = crew.cluster.as_ref().and_then(|link| Some((link.clone(), link.places_here()?))) {
        let args = FleetArgs { factory: crew.sampler.clone(), places, start, orders, link, out: out.clone() };
        return Ok(Fleet::spawn_linked(None, Fleet, args, out.get_cell()).await?.0);
    }
    let to = out.clone();
    let said = Box::new(move |drawn: Drawn| drop(to.cast(drawn.into())));
    let args = GeneratorArgs { factory: crew.sampler.clone(), start, out: said, orders };
    Ok(Generator::spawn_linked(None, Generator, args, out.get_cell()).await?.0)
}

pub async fn spawn_judge(capacities: &Capacities, out: &ActorRef<OrchestratorMsg>) -> Spawned<JudgeMsg> {
    let args = JudgeArgs { out: out.clone(), batches: capacities.orders() };
    Ok(Judge::spawn_linked(None, Judge, args, out.get_cell()).await?.0)
}

pub async fn spawn_pool(
    crew: &Crew,
    capacities: &Capacities,
    logbook: &Logbook,
    out: &ActorRef<OrchestratorMsg>,
) -> Spawned<PoolMsg> {
    let args = PoolArgs {
        factory: crew.verifier.clone(),
        saturated: crew.saturated.clone(),
        llm_judge: crew.llm_judge.clone(),
        workers: capacities.executors,
        workers_max: capacities.executors_max,
        deadline: capacities.execute_deadline,
        reuse_verdicts: capacities.reuse_verdicts,
        verdicts_max: VERDICTS_MAX,
        cluster: crew.cluster.clone(),
        logbook: logbook.clone(),
        out: out.clone(),
    };
    Ok(Pool::spawn_linked(None, Pool, args, out.get_cell()).await?.0)
}

pub async fn spawn_learner(
    crew: &Crew,
    capacities: &Capacities,
    pen: &Pen,
    out: &ActorRef<OrchestratorMsg>,
) -> Spawned<LearnerMsg> {
    let args = LearnerArgs {
        factory: crew.trainer.clone(),
        out: out.clone(),
        pen: pen.clone(),
        pen_deadline: capacities.train_deadline,
    };
    Ok(Learner::spawn_linked(None, Learner, args, out.get_cell()).await?.0)
}
