//! A node's generator: the head's own generator actor, which adopts the newest weights while answers are under way.
//!
//! The recipe (settings, prompts, tokenizer) and the weights outlive a connection; errands do not: the head has given them to others by
//! then. Answers of an earlier connection may still wait here when the next one begins, so the generator knows each errand by a name of this
//! node's own.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rollout::completion::Completion;
use rollout::id::{Attempt, PolicyVersion, RolloutId, TaskId};
use rollout::outcome::Fault;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::larder::{Fetch, Larder, Stored};
use super::seat::Seat;
use super::{Duty, Line, NodeArgs, NodeError};
use crate::cluster::fetch::{Client, Pulse};
use crate::cluster::recipe::Recipe;
use crate::cluster::wire::{Answer, BlobRef, Body, Draw, Offer, Role, ToHead, ToNode};
use crate::codec;
use crate::crew::{SampleJob, SampledItem, TaskEntry, Weights};
use crate::errors::UserError;
use crate::generator::{Adoption, Drawn};
use crate::policy::Workshop;
use crate::supervise::{Deaths, GENERATOR_LOST, LEASE_LOST, Role as Part, Verdict, fault};

/// Before a version that could not be had is asked for again.
const AGAIN: Duration = Duration::from_secs(1);
/// A generator that has not come to its next token for so long is stuck: its silence is told by ours.
const STUCK: Duration = Duration::from_secs(60);
/// A version of which nothing has come for so long does not keep a newer one waiting.
const STALLED: Duration = Duration::from_secs(3);

/// An errand as the generator knows it: its rollout, and how many errands came to this node before it in the attempt's place. A head that
/// was restarted gives the same rollout and attempt again, and counts its leases anew.
type Key = (RolloutId, Attempt);

/// What happens inside. The answers under way bound how much of it can wait.
pub(super) enum Event {
    /// The recipe is here, and its small files.
    Planned(String, Result<Plan, String>),
    /// A version is here by the fetch of that number, of the recipe with this digest.
    Loaded(u64, String, Offer, Result<(Weights, Stored), String>),
    Again,
    Drawn(Drawn),
    /// A long answer lies at the head.
    Left(Key, Result<Body, Fault>),
    /// The generator's sign of life since then, or its silence.
    Held(Instant, Option<Vec<Key>>),
    Died(String),
}

/// Made of a recipe.
pub(super) struct Plan {
    recipe: Arc<Recipe>,
    entries: HashMap<TaskId, Arc<TaskEntry>>,
    workshop: Arc<Mutex<Box<dyn Workshop>>>,
}

/// A version on its way.
struct UnderWay {
    number: u64,
    offer: Offer,
    pulse: Arc<Pulse>,
    task: AbortHandle,
}

/// An errand as the head knows it.
struct Given {
    lease: u64,
    attempt: Attempt,
    since: Instant,
}

/// The duty of a generator node.
pub(super) struct Sampling {
    /// `None`: as many as the head says.
    places: Option<u32>,
    larder: Larder,
    inside: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
    /// With the recipe's digest.
    plan: Option<(String, Plan)>,
    seat: Option<Seat>,
    deaths: Deaths,
    /// The newest version that was offered, until it is adopted.
    wanted: Option<Offer>,
    fetching: Option<UnderWay>,
    /// Fetches so far.
    fetches: u64,
    /// What was loaded and is being adopted.
    coming: Vec<Stored>,
    given: HashMap<Key, Given>,
    /// Errands so far, of all connections.
    came: u32,
    /// Answers on their way over the side channel.
    moving: HashSet<Key>,
    /// Ready to be told.
    answers: Vec<Answer>,
    /// When the generator last answered.
    heard: Instant,
}

impl Sampling {
    /// # Errors
    /// `cluster.peer_listen` cannot be listened at.
    pub(super) async fn new(args: &NodeArgs, scratch: PathBuf) -> Result<Sampling, UserError> {
        let cluster = &args.local.config.cluster;
        let shared = cluster.weights_path().map(PathBuf::from);
        let larder = Larder::open(scratch.join("weights"), shared, args.cookie.clone(), &cluster.peer_listen).await?;
        Ok(Sampling {
            places: args.executors,
            larder,
            inside: mpsc::unbounded_channel(),
            plan: None,
            seat: None,
            deaths: Deaths::new(Part::Generator),
            wanted: None,
            fetching: None,
            fetches: 0,
            coming: Vec::new(),
            given: HashMap::new(),
            came: 0,
            moving: HashSet::new(),
            answers: Vec::new(),
            heard: Instant::now(),
        })
    }
}

impl Duty for Sampling {
    type Event = Event;

    const ROLE: Role = Role::Generator;

    fn welcomed(&mut self, line: &Line<'_>) {
        let kit = line.welcome.kit.clone();
        self.wanted = None;
        if self.plan.as_ref().is_some_and(|(digest, _)| *digest == kit.digest) {
            return self.report(line);
        }
        (self.seat, self.plan) = (None, None);
        self.larder.clear();
        let (out, fetch, client) = (self.inside.0.clone(), self.larder.fetch(), line.client());
        tokio::spawn(async move {
            let plan = plan(&kit, &fetch, client).await;
            let _ = out.send(Event::Planned(kit.digest, plan));
        });
    }

    async fn next(&mut self) -> Event {
        match self.inside.1.recv().await {
            Some(event) => event,
            // We hold a sender.
            None => std::future::pending().await,
        }
    }

    fn already(&mut self) -> Option<Event> {
        self.inside.1.try_recv().ok()
    }

    fn answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    async fn happened(&mut self, event: Event, line: &Line<'_>) -> Result<(), NodeError> {
        match event {
            Event::Planned(digest, plan) if digest == line.welcome.kit.digest => {
                let unusable = |why| fault(LEASE_LOST, format!("the head's recipe cannot be used: {why}"));
                self.plan = Some((digest, plan.map_err(|why| NodeError::Fault(unusable(why)))?));
                self.fetch(line);
            }
            // Of a head that is gone.
            Event::Planned(..) => {}
            Event::Loaded(number, digest, offer, loaded) => {
                if self.fetching.take_if(|under_way| under_way.number == number).is_none() {
                    // A newer one did not wait for it.
                    return Ok(());
                }
                let ours = self.plan.as_ref().is_some_and(|(now, _)| *now == digest);
                let again = ours && loaded.is_err() && self.wanted.as_ref().is_some_and(|w| w.policy == offer.policy);
                if ours {
                    self.loaded(&offer, loaded, line).await?;
                }
                // A version that did not come waits for `Again`; a newer one, or that of another recipe, does not.
                if !again {
                    self.fetch(line);
                }
            }
            Event::Again => self.fetch(line),
            Event::Drawn(Drawn::Sampled(items)) => items.into_iter().for_each(|item| self.sampled(&item, line)),
            Event::Drawn(Drawn::Refused { rollout, attempt, fault }) => {
                self.end((rollout, attempt), Err(fault));
            }
            Event::Drawn(Drawn::Adopted(policy)) => self.adopted(policy, line),
            Event::Left(key, left) => {
                if self.moving.remove(&key) {
                    self.end(key, left);
                }
            }
            Event::Held(asked, held) => self.pong(asked, held, line),
            Event::Died(reason) => self.died(&reason, line).await?,
        }
        Ok(())
    }

    fn told(&mut self, said: ToNode, line: &Line<'_>) {
        match said {
            ToNode::Ping => {
                if self.fetching.is_some() {
                    // Whether it has stalled.
                    self.fetch(line);
                }
                self.ping(line);
            }
            ToNode::Sample(draws) => self.sample(draws),
            ToNode::Forget { rollouts } => {
                self.given.retain(|(rollout, _), _| !rollouts.contains(rollout));
                if let Some(seat) = &self.seat {
                    seat.cancel(rollouts);
                }
            }
            ToNode::Weights(offer) => {
                self.wanted = Some(offer);
                self.fetch(line);
            }
            _ => {}
        }
    }

    fn parted(&mut self) {
        let rollouts = self.given.drain().map(|((rollout, _), _)| rollout).collect();
        if let Some(seat) = &self.seat {
            // Nobody would take them.
            seat.cancel(rollouts);
        }
        self.moving.clear();
        self.answers.clear();
    }

    fn state(&self) -> Value {
        let ms = |since: &Instant| since.elapsed().as_millis() as u64;
        let errand = |(key, given): (&Key, &Given)| {
            json!({
                "lease": given.lease, "rollout": key.0, "attempt": given.attempt, "age_ms": ms(&given.since),
                "on_the_side_channel": self.moving.contains(key),
            })
        };
        let seat = self.seat.as_ref();
        json!({
            "role": Role::Generator, "places": seat.map(|seat| seat.places), "policy": seat.and_then(|seat| seat.policy),
            "policy_wanted": self.wanted.as_ref().map(|offer| offer.policy),
            "fetching": self.fetching.as_ref().map(|under_way| under_way.offer.policy),
            "generator_heard_ms": ms(&self.heard), "errands": self.given.iter().map(errand).collect::<Vec<_>>(),
        })
    }
}

impl Sampling {
    /// Says what is here.
    fn report(&self, line: &Line<'_>) {
        if let Some(seat) = &self.seat {
            line.tell(&ToHead::Ready { executors: seat.places });
            if let Some(policy) = seat.policy {
                line.tell(&ToHead::Adopted { policy, serves: self.larder.serves() });
            }
        }
    }

    /// Fetches the newest version, unless it is here or on its way: one at a time, none between. One that comes is not given up for a newer
    /// one, or where fetching takes longer than a step none would ever be whole; one that has stalled is.
    fn fetch(&mut self, line: &Line<'_>) {
        let (Some((digest, plan)), Some(offer)) = (&self.plan, &self.wanted) else { return };
        if self.seat.as_ref().is_some_and(|seat| seat.asked == offer.policy) {
            self.wanted = None;
            return;
        }
        let newer = |under_way: &UnderWay| under_way.offer.manifest != offer.manifest;
        match &self.fetching {
            Some(under_way) if newer(under_way) && under_way.pulse.silent() >= STALLED => {
                under_way.task.abort();
                self.larder.abandon(under_way.offer.policy, &self.coming);
                line.note(format!("policy version {} does not come; fetches {}", under_way.offer.policy, offer.policy));
            }
            Some(_) => return,
            None => {}
        }
        self.fetches += 1;
        let number = self.fetches;
        let (digest, offer, workshop) = (digest.clone(), offer.clone(), plan.workshop.clone());
        let (out, fetch, client, base) =
            (self.inside.0.clone(), self.larder.fetch(), line.client(), self.larder.base());
        let (wanted, pulse, watched) = (offer.clone(), fetch.pulse.clone(), fetch.pulse.clone());
        let task = tokio::spawn(async move {
            let loaded = async {
                let stored = fetch.version(&offer, &client?.watched(watched)).await?;
                let (shape, folder) = (stored.manifest.shape, stored.folder.clone());
                let load = move || workshop.lock().unwrap_or_else(PoisonError::into_inner).load(shape, &base, &folder);
                let weights = tokio::task::spawn_blocking(load).await.map_err(|e| e.to_string())?;
                Ok((weights.map_err(|fault| fault.to_string())?, stored))
            };
            let loaded = loaded.await;
            let _ = out.send(Event::Loaded(number, digest, offer, loaded));
        });
        self.fetching = Some(UnderWay { number, offer: wanted, pulse, task: task.abort_handle() });
    }

    async fn loaded(
        &mut self,
        offer: &Offer,
        loaded: Result<(Weights, Stored), String>,
        line: &Line<'_>,
    ) -> Result<(), NodeError> {
        let (weights, stored) = match loaded {
            Ok(loaded) => loaded,
            Err(why) => {
                line.note(format!("policy version {} is not here yet: {why}", offer.policy));
                let out = self.inside.0.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(AGAIN).await;
                    let _ = out.send(Event::Again);
                });
                return Ok(());
            }
        };
        let adoption = Adoption { weights, policy: stored.policy };
        self.coming.push(stored);
        match &mut self.seat {
            Some(seat) => seat.adopt(adoption),
            None => self.sit(adoption, line).await?,
        }
        Ok(())
    }

    /// The first weights, or those of a generator that died.
    async fn sit(&mut self, adoption: Adoption, line: &Line<'_>) -> Result<(), NodeError> {
        let Some((_, plan)) = &self.plan else { return Ok(()) };
        let places = self.places.unwrap_or(plan.recipe.max_batch as u32).max(1);
        let factory = plan.recipe.factory(&self.larder.base(), places as usize).map_err(NodeError::Fault)?;
        let policy = adoption.policy;
        let seat = Seat::take(factory, adoption, places, self.inside.0.clone()).await.map_err(NodeError::Fault)?;
        self.seat = Some(seat);
        self.heard = Instant::now();
        line.tell(&ToHead::Ready { executors: places });
        self.adopted(policy, line);
        Ok(())
    }

    fn adopted(&mut self, policy: PolicyVersion, line: &Line<'_>) {
        let Some(seat) = &mut self.seat else { return };
        seat.policy = Some(policy);
        line.tell(&ToHead::Adopted { policy, serves: self.larder.serves() });
        while self.coming.first().is_some_and(|stored| stored.policy <= policy) {
            let stored = self.coming.remove(0);
            self.larder.keep(stored);
        }
    }

    /// By the supervision table, as in a head.
    async fn died(&mut self, reason: &str, line: &Line<'_>) -> Result<(), NodeError> {
        let Some(seat) = self.seat.take() else { return Ok(()) };
        let lost = fault(GENERATOR_LOST, format!("Generator died: {reason}"));
        let verdict = self.deaths.on_death(Instant::now());
        tracing::warn!(%reason, ?verdict, "the generator died");
        if let Verdict::EndRun { .. } = verdict {
            return Err(NodeError::Fault(lost));
        }
        let held: Vec<Key> = self.given.keys().copied().collect();
        held.into_iter().for_each(|key| self.end(key, Err(lost.clone())));
        self.moving.clear();
        self.sit(seat.newest(), line).await
    }

    fn take(&mut self, lease: u64, rollout: RolloutId, attempt: Attempt) -> Key {
        self.came = self.came.wrapping_add(1);
        let key = (rollout, Attempt(self.came));
        self.given.insert(key, Given { lease, attempt, since: Instant::now() });
        key
    }

    fn sample(&mut self, draws: Vec<Draw>) {
        let mut jobs = Vec::with_capacity(draws.len());
        for Draw { lease, rollout, attempt, task, seed } in draws {
            let key = self.take(lease, rollout, attempt);
            let entry = self.plan.as_ref().and_then(|(_, plan)| plan.entries.get(&task)).cloned();
            match entry {
                // The head looks at versions.
                Some(task) => jobs.push(SampleJob { rollout, attempt: key.1, task, seed, least: PolicyVersion(0) }),
                None => {
                    let why = format!("no prompt of task {task} in the recipe");
                    self.end(key, Err(fault(LEASE_LOST, why)));
                }
            }
        }
        let keys: Vec<Key> = jobs.iter().map(|job| (job.rollout, job.attempt)).collect();
        if self.seat.as_ref().is_none_or(|seat| !seat.sample(jobs)) {
            let none = fault(LEASE_LOST, "no generator yet");
            keys.into_iter().for_each(|key| self.end(key, Err(none.clone())));
        }
    }

    fn sampled(&mut self, item: &SampledItem, line: &Line<'_>) {
        let key = (item.rollout, item.attempt);
        // An errand of an earlier connection: the head has given it to somebody else.
        if !self.given.contains_key(&key) {
            return;
        }
        // The head has the prompt.
        let answer = Completion { prompt_tokens: Vec::new(), ..(*item.completion).clone() };
        let written =
            codec::encode(&answer).map_err(|e| fault(LEASE_LOST, format!("the answer cannot be written: {e}")));
        let bytes = match written {
            Ok(bytes) if bytes.len() > line.welcome.limit as usize / 2 => bytes,
            written => return self.end(key, written.map(Body::Here)),
        };
        self.moving.insert(key);
        let (client, out) = (line.client(), self.inside.0.clone());
        tokio::spawn(async move {
            let left = async { client?.put(bytes).await };
            let left = left.await.map(Body::Blob).map_err(|why| fault(LEASE_LOST, why));
            let _ = out.send(Event::Left(key, left));
        });
    }

    fn end(&mut self, key: Key, report: Result<Body, Fault>) {
        if let Some(given) = self.given.remove(&key) {
            self.answers.push(Answer { lease: given.lease, report });
        }
    }

    /// The generator's thread answers, not we: what is dead there must not seem alive.
    fn ping(&self, line: &Line<'_>) {
        let Some(seat) = &self.seat else { return line.tell(&ToHead::Pong { leases: Vec::new() }) };
        let within = Duration::from_millis(line.welcome.beat.period_ms);
        let (asked, held, out) = (Instant::now(), seat.held(within), self.inside.0.clone());
        tokio::spawn(async move {
            let _ = out.send(Event::Held(asked, held.await));
        });
    }

    fn pong(&mut self, asked: Instant, held: Option<Vec<Key>>, line: &Line<'_>) {
        let named = |key: &Key, given: &Given| match &held {
            Some(held) => held.contains(key) || given.since >= asked || self.moving.contains(key),
            // It is in the middle of a long step.
            None => true,
        };
        if held.is_none() && self.heard.elapsed() >= STUCK {
            tracing::warn!("the generator is stuck; its head is told nothing");
            return;
        }
        let leases = self.given.iter().filter(|(key, given)| named(key, given)).map(|(_, given)| given.lease).collect();
        if held.is_some() {
            self.heard = Instant::now();
        }
        line.tell(&ToHead::Pong { leases });
    }
}

async fn plan(kit: &BlobRef, fetch: &Fetch, client: Result<Client, String>) -> Result<Plan, String> {
    let client = client?;
    let recipe: Recipe = serde_json::from_slice(&client.get(kit).await?).map_err(|e| e.to_string())?;
    fetch.small(&recipe.files, &client).await?;
    let workshop = Arc::new(Mutex::new(recipe.workshop()?));
    Ok(Plan { entries: recipe.entries(), recipe: Arc::new(recipe), workshop })
}

#[cfg(test)]
#[path = "sampling_tests.rs"]
mod tests;
