//! Who of a run's generators gets which answer to sample: pure, the fleet carries it out.

use std::collections::{BTreeMap, HashMap, VecDeque};

use rollout::id::{Attempt, PolicyVersion, RolloutId};

use crate::cluster::wire::NodeKey;
use crate::crew::SampleJob;

/// One generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// The one of this process. It gets its orders in order, new weights included.
    Here,
    Node(NodeKey),
}

struct Seat {
    /// Answers it takes at once.
    places: usize,
    /// What it samples from; `None` before its first weights.
    version: Option<PolicyVersion>,
    jobs: HashMap<RolloutId, SampleJob>,
    paused: bool,
    leaving: bool,
}

impl Seat {
    fn takes(&self, who: Who, job: &SampleJob) -> bool {
        let fresh = who == Who::Here || self.version.is_some_and(|version| version >= job.least);
        fresh && !self.paused && !self.leaving && self.jobs.len() < self.places
    }
}

/// All of them, and what waits for one.
#[derive(Default)]
pub struct Seats {
    seats: BTreeMap<Who, Seat>,
    waiting: VecDeque<SampleJob>,
}

impl Seats {
    pub fn sit(&mut self, who: Who, places: usize) {
        let seat = Seat { places: places.max(1), version: None, jobs: HashMap::new(), paused: false, leaving: false };
        self.seats.insert(who, seat);
    }

    pub fn holds(&self, who: Who) -> bool {
        self.seats.contains_key(&who)
    }

    pub fn nodes(&self) -> Vec<NodeKey> {
        let node = |who: &Who| match who {
            Who::Here => None,
            Who::Node(key) => Some(*key),
        };
        self.seats.keys().filter_map(node).collect()
    }

    pub fn wait(&mut self, jobs: Vec<SampleJob>) {
        self.waiting.extend(jobs);
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// It samples from this version now.
    pub fn has(&mut self, who: Who, policy: PolicyVersion) {
        if let Some(seat) = self.seats.get_mut(&who) {
            seat.version = Some(policy);
        }
    }

    /// The newest version that anybody samples from.
    pub fn newest(&self) -> Option<PolicyVersion> {
        self.seats.values().filter_map(|seat| seat.version).max()
    }

    pub fn pause(&mut self, who: Who, paused: bool) {
        if let Some(seat) = self.seats.get_mut(&who) {
            seat.paused = paused;
        }
    }

    pub fn leave(&mut self, who: Who) {
        if let Some(seat) = self.seats.get_mut(&who) {
            seat.leaving = true;
        }
    }

    /// Those that were to leave and have nothing under way: gone from here.
    pub fn left(&mut self) -> Vec<Who> {
        let idle = |seat: &Seat| seat.leaving && seat.jobs.is_empty();
        let left: Vec<Who> = self.seats.iter().filter(|(_, seat)| idle(seat)).map(|(who, _)| *who).collect();
        left.iter().for_each(|who| drop(self.seats.remove(who)));
        left
    }

    /// It is gone: what it had.
    pub fn lost(&mut self, who: Who) -> Vec<(RolloutId, Attempt)> {
        let held = self.seats.remove(&who).map_or_else(HashMap::new, |seat| seat.jobs);
        let mut held: Vec<_> = held.into_values().map(|job| (job.rollout, job.attempt)).collect();
        held.sort_unstable();
        held
    }

    /// An answer came: the job, unless it is not under way there (any more).
    pub fn ended(&mut self, who: Who, rollout: RolloutId, attempt: Attempt) -> Option<SampleJob> {
        let jobs = &mut self.seats.get_mut(&who)?.jobs;
        if jobs.get(&rollout)?.attempt != attempt {
            return None;
        }
        jobs.remove(&rollout)
    }

    /// Nobody wants these any more; who has which.
    pub fn cancel(&mut self, rollouts: &[RolloutId]) -> Vec<(Who, Vec<RolloutId>)> {
        self.waiting.retain(|job| !rollouts.contains(&job.rollout));
        let mut told = Vec::new();
        for (who, seat) in &mut self.seats {
            let gone: Vec<RolloutId> =
                rollouts.iter().filter(|rollout| seat.jobs.remove(rollout).is_some()).copied().collect();
            if !gone.is_empty() {
                told.push((*who, gone));
            }
        }
        told
    }

    /// Gives what waits, the oldest first, to whoever has the most room for its size.
    pub fn dispatch(&mut self) -> Vec<(Who, Vec<SampleJob>)> {
        let mut given: BTreeMap<Who, Vec<SampleJob>> = BTreeMap::new();
        while let Some(job) = self.waiting.front() {
            let takers = self.seats.iter_mut().filter(|(who, seat)| seat.takes(**who, job));
            let fullness = |seat: &Seat| (seat.jobs.len() * 1_000_000) / seat.places;
            let Some((who, seat)) = takers.min_by_key(|(who, seat)| (fullness(seat), **who)) else { break };
            let who = *who;
            if let Some(job) = self.waiting.pop_front() {
                seat.jobs.insert(job.rollout, job.clone());
                given.entry(who).or_default().push(job);
            }
        }
        given.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::standins;
    use rollout::task::Split;

    fn jobs(rollouts: std::ops::Range<u64>, least: u64) -> Vec<SampleJob> {
        let task = standins::tasks(1, Split::Train).remove(0);
        let job = |n| SampleJob {
            rollout: RolloutId(n),
            attempt: Attempt(1),
            task: task.clone(),
            seed: n,
            least: PolicyVersion(least),
        };
        rollouts.map(job).collect()
    }

    fn given(seats: &mut Seats) -> Vec<(Who, Vec<u64>)> {
        let ids = |jobs: Vec<SampleJob>| jobs.into_iter().map(|job| job.rollout.0).collect();
        seats.dispatch().into_iter().map(|(who, jobs)| (who, ids(jobs))).collect()
    }

    const A: Who = Who::Node(1);
    const B: Who = Who::Node(2);

    /// Planted: `takes` does not look at the version. Seen: B gets half of what A should have.
    #[test]
    fn only_who_has_the_version_gets_the_job_and_room_decides_among_those() {
        let mut seats = Seats::default();
        seats.sit(A, 4);
        seats.sit(B, 2);
        seats.wait(jobs(0..8, 3));
        assert!(given(&mut seats).is_empty(), "nobody has weights");
        seats.has(A, PolicyVersion(3));
        seats.has(B, PolicyVersion(2));
        assert_eq!(given(&mut seats), [(A, vec![0, 1, 2, 3])]);
        seats.has(B, PolicyVersion(4));
        assert_eq!(given(&mut seats), [(B, vec![4, 5])]);
        assert_eq!((seats.waiting(), seats.newest()), (2, Some(PolicyVersion(4))));
        assert!(seats.ended(A, RolloutId(4), Attempt(1)).is_none(), "B has it");
        assert!(seats.ended(A, RolloutId(1), Attempt(2)).is_none(), "another attempt");
        assert!(seats.ended(A, RolloutId(1), Attempt(1)).is_some());
        assert_eq!(given(&mut seats), [(A, vec![6])]);
        assert_eq!(seats.lost(A).iter().map(|(rollout, _)| rollout.0).collect::<Vec<_>>(), [0, 2, 3, 6]);
    }

    #[test]
    fn work_is_spread_by_size_and_who_leaves_or_is_silent_gets_nothing() {
        let mut seats = Seats::default();
        seats.sit(Who::Here, 4);
        seats.sit(A, 2);
        seats.has(A, PolicyVersion(9));
        seats.wait(jobs(0..6, 9));
        assert_eq!(given(&mut seats), [(Who::Here, vec![0, 2, 3, 5]), (A, vec![1, 4])]);
        seats.pause(A, true);
        seats.leave(Who::Here);
        assert_eq!(seats.cancel(&[RolloutId(4), RolloutId(5), RolloutId(77)]).len(), 2);
        seats.wait(jobs(6..7, 9));
        assert!(given(&mut seats).is_empty());
        assert!(seats.left().is_empty(), "it has three under way");
        (0..4).for_each(|n| drop(seats.ended(Who::Here, RolloutId(n), Attempt(1))));
        assert_eq!(seats.left(), [Who::Here]);
        seats.pause(A, false);
        assert_eq!(given(&mut seats), [(A, vec![6])]);
    }
}
