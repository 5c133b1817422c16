//! The gateway's part for generators: which versions of the policy are on the side channel, who has which, and who samples what.
//!
//! A version is written when the first generator is there, the newest first; while one is being written, those between it and the next
//! are left out.

use std::collections::{BTreeMap, VecDeque};

use rollout::id::{PolicyVersion, RolloutId};
use rollout::outcome::Fault;

use super::{HeadMsg, HeadState};
use crate::cluster::recipe::Recipe;
use crate::cluster::weights::{Press, Published};
use crate::cluster::wire::{BlobRef, Draw, NodeKey, Offer, Role, ToNode};
use crate::crew::SampleJob;
use crate::fleet::FleetMsg;
use crate::generator::{Adoption, GeneratorMsg};
use crate::supervise::{CHECKPOINT, fault};

/// Versions on the side channel: the newest, and one that somebody may still be fetching.
const KEPT: usize = 2;
/// Other nodes that one is told of at most.
const PEERS: usize = 8;
/// Answers in one message: about 60 bytes each.
const DRAWS: usize = 200;

/// What a head needs so that generators can join.
#[derive(Clone)]
pub struct Generating {
    pub recipe: Recipe,
    pub press: Press,
    /// Answers that the generator of this process takes at once; 0: there is none here.
    pub places_here: usize,
    /// Milliseconds of one answer.
    pub sample_ms: u64,
    /// Of the policy: tokens of answers are below it.
    pub vocab: usize,
}

/// The same, once the recipe lies on the shelf.
#[derive(Clone)]
pub struct Source {
    pub recipe: BlobRef,
    pub press: Press,
    pub sample_ms: u64,
    pub vocab: usize,
    pub max_new_tokens: usize,
}

/// What a node holds.
struct Holder {
    policy: PolicyVersion,
    /// Its side channel, where it has one.
    serves: Option<String>,
}

/// The versions of one gateway's life.
#[derive(Default)]
pub(super) struct Versions {
    newest: Option<Adoption>,
    writing: Option<PolicyVersion>,
    published: VecDeque<Published>,
    holders: BTreeMap<NodeKey, Holder>,
}

impl Versions {
    pub(super) fn gone(&mut self, key: NodeKey) {
        self.holders.remove(&key);
    }

    /// What a node samples from.
    pub(super) fn of(&self, key: NodeKey) -> Option<PolicyVersion> {
        self.holders.get(&key).map(|holder| holder.policy)
    }

    /// The newest that is on the side channel.
    pub(super) fn on_offer(&self) -> Option<PolicyVersion> {
        self.published.back().map(|published| published.policy)
    }

    fn offer(&self) -> Option<Offer> {
        let published = self.published.back()?;
        let holds = |holder: &&Holder| holder.policy == published.policy;
        let peers = self.holders.values().filter(holds).filter_map(|holder| holder.serves.clone());
        Some(Offer {
            policy: published.policy,
            manifest: published.manifest.clone(),
            peers: peers.take(PEERS).collect(),
        })
    }
}

impl HeadState {
    /// The fleet has a newer version, or the same for a gateway that knows of none.
    pub(super) fn weights(&mut self, adoption: Adoption) {
        self.versions.newest = Some(adoption);
        self.write_newest();
    }

    fn write_newest(&mut self) {
        let (Some(source), Some(newest)) = (&self.args.source, &self.versions.newest) else { return };
        let there = self.versions.published.back().is_some_and(|published| published.policy == newest.policy);
        if there || self.versions.writing.is_some() || self.roster.of_role(Role::Generator).is_empty() {
            return;
        }
        self.versions.writing = Some(newest.policy);
        let (press, shelf, to) = (source.press.clone(), self.args.shelf.clone(), self.myself.clone());
        let (weights, policy) = (newest.weights.clone(), newest.policy);
        tokio::spawn(async move {
            let result = written(move || press.publish(&weights, policy, &shelf)).await;
            drop(to.cast(HeadMsg::Published(policy, result)));
        });
    }

    pub(super) fn published(&mut self, policy: PolicyVersion, result: Result<Published, Fault>) {
        self.versions.writing = None;
        match result {
            // The machine announces a version again that nobody adopts.
            Err(fault) => return self.note(format!("policy version {policy} cannot be given to generators: {fault}")),
            Ok(published) => self.versions.published.push_back(published),
        }
        while self.versions.published.len() > KEPT {
            if let Some(old) = self.versions.published.pop_front() {
                old.forget(&self.args.shelf, self.versions.published.make_contiguous());
            }
        }
        if let Some(offer) = self.versions.offer() {
            for key in self.roster.of_role(Role::Generator) {
                self.say(key, &ToNode::Weights(offer.clone()));
            }
        }
        self.write_newest();
    }

    /// To one that has just come.
    pub(super) fn offer_to(&mut self, key: NodeKey) {
        if let Some(offer) = self.versions.offer() {
            self.say(key, &ToNode::Weights(offer));
        }
        self.write_newest();
    }

    pub(super) fn adopted(&mut self, key: NodeKey, policy: PolicyVersion, serves: Option<String>) {
        self.versions.holders.insert(key, Holder { policy, serves });
        self.tell_version(key);
    }

    /// The fleet hears what a node samples from.
    pub(super) fn tell_version(&self, key: NodeKey) {
        if let Some(holder) = self.versions.holders.get(&key) {
            self.fleet(FleetMsg::Adopted { key, policy: holder.policy });
        }
    }

    pub(super) fn new_fleet(&mut self, fleet: ractor::ActorRef<GeneratorMsg>) {
        self.fleet = Some(fleet);
        for key in self.roster.of_role(Role::Generator) {
            let rollouts = self.roster.rollouts(key);
            if !rollouts.is_empty() {
                self.say(key, &ToNode::Forget { rollouts });
            }
        }
        let acts = self.roster.begin_anew(Role::Generator);
        self.act(acts);
    }

    pub(super) fn sample(&mut self, key: NodeKey, jobs: Vec<SampleJob>) {
        let now = self.now_ms();
        // `None`: given up a moment ago; the fleet hears of it by a `Detach` that is on its way.
        let draw = |job: SampleJob| {
            let lease = self.roster.assign(now, key, 0, job.rollout, job.attempt)?;
            let (rollout, attempt, task) = (job.rollout, job.attempt, job.task.spec.id.clone());
            Some(Draw { lease, rollout, attempt, task, seed: job.seed })
        };
        let draws: Vec<Draw> = jobs.into_iter().filter_map(draw).collect();
        for some in draws.chunks(DRAWS) {
            self.say(key, &ToNode::Sample(some.to_vec()));
        }
    }

    pub(super) fn unsample(&mut self, key: NodeKey, rollouts: Vec<RolloutId>) {
        self.roster.forget(key, &rollouts);
        self.say(key, &ToNode::Forget { rollouts });
    }
}

/// A panic is an answer as well: the version counts as being written until there is one, and nothing else is written.
async fn written<T: Send + 'static>(write: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    let ended = tokio::task::spawn_blocking(write).await;
    ended.unwrap_or_else(|error| Err(fault(CHECKPOINT, format!("it cannot be written: {error}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_writer_that_panics_has_an_answer() {
        let panics = || -> Result<(), Fault> { panic!("no such tensor") };
        assert_eq!(written(panics).await.unwrap_err().code, CHECKPOINT);
        assert_eq!(written(|| Ok(3)).await, Ok(3));
    }
}
