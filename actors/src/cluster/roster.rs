//! Which nodes there are, who is silent, and which errand is whose: pure, the head's gateway carries out what it says.
//!
//! A node is heard by its pongs. Silent for `suspect_ms` it gets no more errands, for `dead_ms` it is lost: what it held is
//! faulted, and nothing of that life is taken any more. An errand ends once: by its lease's number.

use std::collections::BTreeMap;

use rollout::id::{Attempt, RolloutId};
use rollout::outcome::Fault;
use serde::Serialize;

use super::wire::{Beat, Hello, NodeKey, NodeRow, Role};
use crate::supervise::{EXECUTOR_DEADLINE, LEASE_LOST, STAGE_DEADLINE, fault};

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    Welcome {
        key: NodeKey,
        name: String,
    },
    Ping {
        key: NodeKey,
    },
    Dismiss {
        key: NodeKey,
    },
    /// The node's executors join the pool, or it joins the fleet.
    Attach {
        key: NodeKey,
        role: Role,
        name: String,
        executors: u32,
    },
    /// They get no more for now, or again.
    Pause {
        key: NodeKey,
        role: Role,
        paused: bool,
    },
    /// They get no more, and the pool (or the fleet) says when they are idle.
    Leave {
        key: NodeKey,
        role: Role,
    },
    /// They are gone; what they hold is faulted.
    Detach {
        key: NodeKey,
        role: Role,
        why: String,
    },
    /// One errand ended without an answer.
    Failed {
        lease: Lease,
        fault: Fault,
    },
    /// End the connection.
    Close {
        key: NodeKey,
    },
    Note(String),
}

/// One errand under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub key: NodeKey,
    pub role: Role,
    /// The pool's number of the executor; 0 for an answer to sample.
    pub number: u32,
    pub rollout: RolloutId,
    pub attempt: Attempt,
    since_ms: u64,
    /// When the node last named it.
    seen_ms: u64,
}

/// One errand under way, for a state dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrandRow {
    pub node: String,
    pub lease: u64,
    /// The pool's number of it; none for an answer to sample.
    pub executor: Option<u32>,
    pub rollout: RolloutId,
    pub attempt: Attempt,
    pub age_ms: u64,
    /// Since the node last named it.
    pub unnamed_ms: u64,
}

/// A silent node gets its time anew so often in a row, where the head was asleep: one that is starved would else never give up one
/// that is frozen.
const FORGIVEN: u8 = 2;

/// Executors of one node at most, as `troupe join --workers` has it.
const EXECUTORS: u32 = 1024;

struct Node {
    hello: Hello,
    name: String,
    executors: u32,
    suspect: bool,
    draining: bool,
    since_ms: u64,
    heard_ms: u64,
    /// How often it was given its time anew since it was last heard.
    forgiven: u8,
    pinged_ms: u64,
    leases: BTreeMap<u64, Lease>,
    done: u64,
    lost: u64,
}

/// All nodes of one head's life.
pub struct Roster {
    beat: Beat,
    /// Milliseconds that one evaluation may take, on the node; the node ends it by itself.
    evaluation_ms: u64,
    /// And one answer, from its start in the head.
    sample_ms: u64,
    nodes: BTreeMap<NodeKey, Node>,
    next_lease: u64,
    ticked_ms: Option<u64>,
    /// Answers to errands that were no longer out.
    pub late: u64,
}

impl Roster {
    pub fn new(beat: Beat, evaluation_ms: u64) -> Roster {
        let nodes = BTreeMap::new();
        Roster { beat, evaluation_ms, sample_ms: evaluation_ms, nodes, next_lease: 1, ticked_ms: None, late: 0 }
    }

    /// Milliseconds that one answer of a generator may take.
    pub fn with_sampling(self, sample_ms: u64) -> Roster {
        Roster { sample_ms, ..self }
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub fn name(&self, key: NodeKey) -> Option<&str> {
        self.nodes.get(&key).map(|node| node.name.as_str())
    }

    pub fn role(&self, key: NodeKey) -> Option<Role> {
        self.nodes.get(&key).map(|node| node.hello.role)
    }

    /// All of one role.
    pub fn of_role(&self, role: Role) -> Vec<NodeKey> {
        self.nodes.iter().filter(|(_, node)| node.hello.role == role).map(|(key, _)| *key).collect()
    }

    /// A node reports. One that is known has lost its connection and come back: what it held is void.
    pub fn hello(&mut self, now_ms: u64, key: NodeKey, hello: Hello) -> Vec<Act> {
        let mut acts = self.lost(key, "came back over a new connection", false);
        let taken = |name: &str| self.nodes.values().any(|node| node.name == name);
        let mut name = hello.name.clone();
        for n in 2.. {
            if !taken(&name) {
                break;
            }
            name = format!("{}-{n}", hello.name);
        }
        let node = Node {
            name: name.clone(),
            hello,
            executors: 0,
            suspect: false,
            draining: false,
            since_ms: now_ms,
            heard_ms: now_ms,
            forgiven: 0,
            pinged_ms: now_ms,
            leases: BTreeMap::new(),
            done: 0,
            lost: 0,
        };
        self.nodes.insert(key, node);
        acts.push(Act::Welcome { key, name });
        acts
    }

    /// Its executors are there: as many as a node may have, whatever it says.
    pub fn ready(&mut self, now_ms: u64, key: NodeKey, executors: u32) -> Vec<Act> {
        let executors = executors.min(EXECUTORS);
        let Some(node) = self.nodes.get_mut(&key).filter(|node| node.executors == 0 && executors > 0) else {
            return Vec::new();
        };
        (node.executors, node.heard_ms) = (executors, now_ms);
        let role = node.hello.role;
        let what = match role {
            Role::Executor => "executors",
            Role::Generator => "answers at once, a generator",
        };
        let note = format!("node {} joined with {executors} {what}", node.name);
        let mut acts = vec![Act::Note(note), Act::Attach { key, role, name: node.name.clone(), executors }];
        if node.draining {
            acts.push(Act::Leave { key, role });
        }
        acts
    }

    /// A sign of life, with all errands that the node holds.
    pub fn pong(&mut self, now_ms: u64, key: NodeKey, held: &[u64]) -> Vec<Act> {
        let Some(node) = self.nodes.get_mut(&key) else { return Vec::new() };
        (node.heard_ms, node.forgiven) = (now_ms, 0);
        for lease in held {
            if let Some(lease) = node.leases.get_mut(lease) {
                lease.seen_ms = now_ms;
            }
        }
        if !std::mem::take(&mut node.suspect) {
            return Vec::new();
        }
        let role = node.hello.role;
        vec![Act::Note(format!("node {} is heard again", node.name)), Act::Pause { key, role, paused: false }]
    }

    /// The pool has an errand for executor `number`, or the fleet one for a generator (0); the lease's number, where the node can take
    /// it.
    pub fn assign(
        &mut self,
        now_ms: u64,
        key: NodeKey,
        number: u32,
        rollout: RolloutId,
        attempt: Attempt,
    ) -> Option<u64> {
        let node = self.nodes.get_mut(&key)?;
        let lease = self.next_lease;
        self.next_lease += 1;
        let role = node.hello.role;
        node.leases.insert(lease, Lease { key, role, number, rollout, attempt, since_ms: now_ms, seen_ms: now_ms });
        Some(lease)
    }

    /// Whether an errand is out.
    pub fn holds(&self, key: NodeKey, lease: u64) -> bool {
        self.nodes.get(&key).is_some_and(|node| node.leases.contains_key(&lease))
    }

    /// An answer came: whose it is, unless it is answered, given up, or of another node.
    pub fn done(&mut self, key: NodeKey, lease: u64) -> Option<Lease> {
        let found = self.nodes.get_mut(&key).and_then(|node| {
            let lease = node.leases.remove(&lease)?;
            node.done += 1;
            Some(lease)
        });
        if found.is_none() {
            self.late += 1;
        }
        found
    }

    /// What a node has under way.
    pub fn rollouts(&self, key: NodeKey) -> Vec<RolloutId> {
        self.nodes.get(&key).map_or_else(Vec::new, |node| node.leases.values().map(|lease| lease.rollout).collect())
    }

    /// Nobody waits for these answers any more; their leases end with them.
    pub fn forget(&mut self, key: NodeKey, rollouts: &[RolloutId]) {
        if let Some(node) = self.nodes.get_mut(&key) {
            node.leases.retain(|_, lease| !rollouts.contains(&lease.rollout));
        }
    }

    /// By name, for an operator; or a node that wants to go.
    pub fn drain(&mut self, key: NodeKey) -> Vec<Act> {
        let Some(node) = self.nodes.get_mut(&key) else { return Vec::new() };
        if std::mem::replace(&mut node.draining, true) {
            return Vec::new();
        }
        let note = Act::Note(format!("node {} is drained: it ends what it has and leaves", node.name));
        if node.executors > 0 {
            return vec![note, Act::Leave { key, role: node.hello.role }];
        }
        // Nobody has given it anything.
        let mut acts = vec![note];
        acts.extend(self.idle(key));
        acts
    }

    pub fn key_of(&self, name: &str) -> Option<NodeKey> {
        self.nodes.iter().find(|(_, node)| node.name == name).map(|(key, _)| *key)
    }

    /// The pool says that nothing of this node is under way any more.
    pub fn idle(&mut self, key: NodeKey) -> Vec<Act> {
        if !self.nodes.get(&key).is_some_and(|node| node.draining) {
            return Vec::new();
        }
        let Some(node) = self.nodes.remove(&key) else { return Vec::new() };
        let did = match node.hello.role {
            Role::Executor => "evaluated",
            Role::Generator => "sampled",
        };
        vec![Act::Note(format!("node {} has left; it {did} {}", node.name, node.done)), Act::Dismiss { key }]
    }

    /// The run is over: everybody may go.
    pub fn forget_all(&mut self) -> Vec<NodeKey> {
        std::mem::take(&mut self.nodes).into_keys().collect()
    }

    /// Its connection ended.
    pub fn closed(&mut self, key: NodeKey) -> Vec<Act> {
        self.lost(key, "its connection ended", false)
    }

    /// A new pool (or fleet) knows nobody, and what the old one had given out is faulted already.
    pub fn begin_anew(&mut self, of: Role) -> Vec<Act> {
        let mut acts = Vec::new();
        for (&key, node) in self.nodes.iter_mut().filter(|(_, node)| node.hello.role == of) {
            node.leases.clear();
            let role = of;
            if node.executors > 0 {
                acts.push(Act::Attach { key, role, name: node.name.clone(), executors: node.executors });
                if node.suspect {
                    acts.push(Act::Pause { key, role, paused: true });
                }
                if node.draining {
                    acts.push(Act::Leave { key, role });
                }
            }
        }
        acts
    }

    /// Pings what is due, suspects and gives up who is silent, and faults errands that nobody names.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Act> {
        let Beat { period_ms, suspect_ms, dead_ms, lease_ms } = self.beat;
        // A head that was stopped itself has heard nobody: that says nothing about them.
        let since_last = self.ticked_ms.map_or(0, |last| now_ms.saturating_sub(last));
        let slept = since_last > suspect_ms / 2;
        // "Within `dead_ms`" holds where what would be over it two looks later is over it now. Looks that come late, on a loaded
        // machine, do not make us hastier than a tenth of a heartbeat.
        let ahead = (2 * since_last).min(period_ms / 10);
        self.ticked_ms = Some(now_ms);
        let mut acts = Vec::new();
        if slept {
            acts.push(Act::Note("the head was asleep; its nodes get their time anew".into()));
        }
        let mut dead = Vec::new();
        for (key, node) in &mut self.nodes {
            let (key, role) = (*key, node.hello.role);
            if slept && node.forgiven < FORGIVEN {
                node.forgiven += 1;
                node.heard_ms = now_ms;
                node.leases.values_mut().for_each(|lease| lease.seen_ms = now_ms);
            }
            let silent = now_ms.saturating_sub(node.heard_ms);
            if silent + ahead > dead_ms {
                dead.push((key, silent));
                continue;
            }
            if silent + ahead > suspect_ms && !node.suspect {
                node.suspect = true;
                acts.push(Act::Note(format!("node {} is silent for {silent} ms: it gets no more for now", node.name)));
                acts.push(Act::Pause { key, role, paused: true });
            }
            let due = now_ms.saturating_sub(node.pinged_ms);
            if due >= period_ms {
                // In step: a look that is a little late does not make the period longer.
                node.pinged_ms = if due < 2 * period_ms { node.pinged_ms + period_ms } else { now_ms };
                acts.push(Act::Ping { key });
            }
            let (limit, code) = match role {
                Role::Executor => (self.evaluation_ms + lease_ms, EXECUTOR_DEADLINE),
                Role::Generator => (self.sample_ms + lease_ms, STAGE_DEADLINE),
            };
            let (name, heard_ms) = (&node.name, node.heard_ms);
            let expired = |lease: &Lease| {
                // A node that is silent altogether names nothing; that is another matter.
                let unnamed = heard_ms.saturating_sub(lease.seen_ms);
                if unnamed >= lease_ms {
                    let why = format!("node {name} has not named it for {unnamed} ms, though it is heard");
                    return Some(fault(LEASE_LOST, why));
                }
                let age = now_ms.saturating_sub(lease.since_ms);
                (age >= limit).then(|| fault(code, format!("no result from node {name} within {age} ms")))
            };
            let gone: Vec<(u64, Fault)> =
                node.leases.iter().filter_map(|(n, lease)| Some((*n, expired(lease)?))).collect();
            for (n, fault) in gone {
                if let Some(lease) = node.leases.remove(&n) {
                    node.lost += 1;
                    acts.push(Act::Failed { lease, fault });
                }
            }
        }
        for (key, silent) in dead {
            acts.extend(self.lost(key, &format!("silent for {silent} ms"), true));
        }
        acts
    }

    fn lost(&mut self, key: NodeKey, why: &str, close: bool) -> Vec<Act> {
        let Some(node) = self.nodes.remove(&key) else { return Vec::new() };
        let (name, held, role) = (&node.name, node.leases.len(), node.hello.role);
        let why = format!("node {name} is lost: {why}");
        let what = match role {
            Role::Executor => "candidates",
            Role::Generator => "answers",
        };
        let mut acts = vec![Act::Note(format!("{why}; it held {held} {what}")), Act::Detach { key, role, why }];
        if close {
            acts.push(Act::Close { key });
        }
        acts
    }

    pub fn rows(&self, now_ms: u64) -> Vec<NodeRow> {
        let row = |node: &Node| NodeRow {
            name: node.name.clone(),
            role: node.hello.role,
            state: match (node.draining, node.suspect, node.executors) {
                (_, true, _) => "suspect",
                (true, _, _) => "draining",
                (_, _, 0) => "joining",
                _ => "ready",
            }
            .into(),
            executors: node.executors,
            busy: node.leases.len() as u32,
            done: node.done,
            lost: node.lost,
            silent_ms: now_ms.saturating_sub(node.heard_ms),
            since_ms: now_ms.saturating_sub(node.since_ms),
            version: node.hello.version.clone(),
            pid: node.hello.pid,
            gpus: node.hello.gpus.clone(),
        };
        self.nodes.values().map(row).collect()
    }

    /// In the order of [`Roster::rows`].
    pub fn keys(&self) -> impl Iterator<Item = NodeKey> {
        self.nodes.keys().copied()
    }

    /// What is out, the oldest first.
    pub fn errands(&self, now_ms: u64) -> Vec<ErrandRow> {
        let row = |node: &Node, (number, lease): (&u64, &Lease)| ErrandRow {
            node: node.name.clone(),
            lease: *number,
            executor: (lease.role == Role::Executor).then_some(lease.number),
            rollout: lease.rollout,
            attempt: lease.attempt,
            age_ms: now_ms.saturating_sub(lease.since_ms),
            unnamed_ms: now_ms.saturating_sub(lease.seen_ms),
        };
        let mut rows: Vec<ErrandRow> =
            self.nodes.values().flat_map(|node| node.leases.iter().map(move |lease| row(node, lease))).collect();
        rows.sort_by_key(|row| (std::cmp::Reverse(row.age_ms), row.lease));
        rows
    }
}

#[cfg(test)]
#[path = "roster_tests.rs"]
mod tests;
