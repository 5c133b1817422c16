//! The pool's members: its own executors, which come and go with the load, and those of other nodes.

use std::collections::BTreeMap;
use std::time::Instant;

use ractor::{ActorId, ActorProcessingErr, ActorRef};
use rollout::id::{Attempt, RolloutId};
use serde_json::json;

use super::{PoolState, spawn};
use crate::cluster::wire::NodeKey;
use crate::executor::{ExecJob, ExecutedItem, ExecutorMsg, lane};
use crate::flow::wall_ms;
use crate::logbook::Span;
use crate::scaling::Load;
use crate::supervise::{Deaths, Role};

/// Who evaluates.
pub(super) enum Hands {
    /// An actor of this process.
    Own { actor: ActorRef<ExecutorMsg>, deaths: Deaths },
    /// One of a node's executors.
    Remote(NodeKey),
}

impl Hands {
    pub(super) fn own(actor: ActorRef<ExecutorMsg>) -> Hands {
        Hands::Own { actor, deaths: Deaths::new(Role::Executor) }
    }

    pub(super) fn is(&self, id: ActorId) -> bool {
        matches!(self, Hands::Own { actor, .. } if actor.get_id() == id)
    }

    pub(super) fn of(&self, node: NodeKey) -> bool {
        matches!(self, Hands::Remote(key) if *key == node)
    }
}

/// One member.
pub(super) struct Slot {
    pub(super) hands: Hands,
    pub(super) job: Option<ExecJob>,
    /// Gets no more jobs, and goes when it has none.
    pub(super) leaving: bool,
    /// Gets no more jobs for now.
    pub(super) paused: bool,
    /// What is noted of its job where no actor of this process does that.
    pub(super) span: Option<Span>,
    /// Jobs it has answered, and when it did last, milliseconds since the Unix epoch.
    pub(super) answered: (u64, Option<u64>),
}

impl Slot {
    pub(super) fn of(hands: Hands) -> Slot {
        Slot { hands, job: None, leaving: false, paused: false, span: None, answered: (0, None) }
    }

    /// It has answered its job.
    pub(super) fn word(&mut self, item: &ExecutedItem) {
        self.answered = (self.answered.0 + 1, Some(wall_ms()));
        if let Some(span) = self.span.take() {
            span.end(item.result.as_ref().map_or_else(|fault| fault.code.as_str(), |_| "report"));
        }
    }

    fn is_own(&self) -> bool {
        matches!(self.hands, Hands::Own { .. })
    }
}

impl PoolState {
    /// Adds executors of our own, or lets the last ones leave.
    pub(super) async fn resize(&mut self, workers: u32) -> Result<(), ActorProcessingErr> {
        let least = u32::from(self.args.cluster.is_none());
        let workers = workers.max(least);
        let mut own = 0;
        for (number, slot) in self.slots.iter_mut().filter(|(_, slot)| slot.is_own()) {
            slot.leaving = *number >= workers;
            own += 1;
        }
        for number in own..workers {
            let actor = spawn(&self.args, number, &self.myself).await?;
            self.slots.insert(number, Slot::of(Hands::own(actor)));
        }
        Ok(())
    }

    /// Ends executors that are to leave and have nothing to do. Their numbers are the highest, so that others keep theirs.
    pub(super) fn dismiss(&mut self) {
        loop {
            let last = self.slots.iter().rfind(|(_, slot)| slot.is_own());
            let Some((&number, _)) = last.filter(|(_, slot)| slot.leaving && slot.job.is_none()) else { break };
            if let Some(Slot { hands: Hands::Own { actor, .. }, .. }) = self.slots.remove(&number) {
                actor.stop(Some("there is not enough to do".into()));
            }
        }
        self.release_idle_nodes();
    }

    /// Gives each idle member the oldest waiting job; a node gets all of its own at once.
    pub(super) fn dispatch(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let reachable = self.remote.reachable();
        let mut parcels = BTreeMap::<NodeKey, Vec<(u32, ExecJob)>>::new();
        for (number, slot) in &mut self.slots {
            if slot.job.is_some() || slot.leaving || slot.paused {
                continue;
            }
            let Some(next) = self.waiting.pop_front() else { break };
            let sent = match &slot.hands {
                Hands::Own { actor, .. } => actor.cast(ExecutorMsg::Execute(next.job.clone())).is_ok(),
                Hands::Remote(key) => {
                    if reachable {
                        parcels.entry(*key).or_default().push((*number, next.job.clone()));
                    }
                    reachable
                }
            };
            if sent {
                if let Hands::Remote(key) = &slot.hands {
                    let (rollout, attempt) = (next.job.rollout.0, next.job.attempt.0);
                    let lane = format!("{}/{}", self.remote.name(*key), lane(*number));
                    slot.span = Some(self.args.logbook.begin(lane, Some(rollout), Some(attempt)));
                }
                slot.job = Some(next.job);
            } else {
                // Dead, and its supervision event (or the gateway's) is on the way.
                self.waiting.push_front(next);
            }
        }
        parcels.into_iter().for_each(|(key, jobs)| self.remote.send(key, jobs));
    }

    /// Everybody who takes candidates.
    pub(super) fn load(&self) -> Load {
        self.load_of(|_| true)
    }

    /// Without other nodes: what growing and shrinking here is about.
    pub(super) fn own_load(&self) -> Load {
        self.load_of(Slot::is_own)
    }

    fn load_of(&self, counts: fn(&Slot) -> bool) -> Load {
        let staying = self.slots.values().filter(|slot| !slot.leaving && !slot.paused && counts(slot));
        Load {
            executors: staying.clone().count() as u32,
            busy: staying.filter(|slot| slot.job.is_some()).count() as u32,
            queued: self.waiting.len() as u32,
            oldest_ms: self.waiting.iter().map(|w| age_ms(w.since)).max().unwrap_or(0),
            saturated: false,
        }
    }

    /// What the pool has to do and what each node's executors do, for those who look at the run. `sent`: when the message that
    /// asks for it was sent, so that the wait in the mailbox is known.
    pub(super) fn sample(&self, sent: Instant) -> serde_json::Value {
        let load = self.load();
        let nodes: Vec<serde_json::Value> = self
            .remote
            .names()
            .map(|(key, name)| {
                let slots = || self.slots.values().filter(|slot| slot.hands.of(key));
                let any = |is: fn(&Slot) -> bool| slots().any(is);
                json!({
                    "name": name, "executors": slots().count(), "busy": slots().filter(|s| s.job.is_some()).count(),
                    "state": if any(|s| s.leaving) { "leaving" } else if any(|s| s.paused) { "silent" } else { "working" },
                    "answered": slots().map(|s| s.answered.0).sum::<u64>(),
                    "last_answer_at": slots().filter_map(|s| s.answered.1).max(),
                })
            })
            .collect();
        json!({
            "mailbox_wait_ms": age_ms(sent), "executors": load.executors, "busy": load.busy, "queued": load.queued,
            "oldest_ms": load.oldest_ms, "same_candidate": self.followers.values().map(Vec::len).sum::<usize>(),
            "verdicts_kept": self.verdicts.len(), "asked_llm_judge": self.bench.as_ref().map_or(0, |b| b.asked.len()),
            "nodes": nodes,
        })
    }

    pub(super) fn held(&self) -> Vec<(RolloutId, Attempt)> {
        let running = self.slots.values().filter_map(|slot| slot.job.as_ref());
        running.chain(self.waiting.iter().map(|w| &w.job)).map(|job| (job.rollout, job.attempt)).collect()
    }
}

fn age_ms(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64
}
