//! Identifiers. Newtypes, so that an attempt is never passed where a step is meant.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id!(
    /// One sampled answer to one task, unique within a run.
    RolloutId(u64)
);
number_id!(
    /// The rollouts drawn together for one task; advantages are computed within it.
    GroupId(u64)
);
number_id!(
    /// One optimizer step; the first is 1.
    StepId(u64)
);
number_id!(
    /// The policy after that many applied or skipped steps; the warm-started policy is 0.
    PolicyVersion(u64)
);
number_id!(
    /// The n-th piece of work issued for one rollout (or for one training step); the first is 1 and every command,
    /// also one for the next stage, takes the next number. Results of older attempts change nothing.
    Attempt(u32)
);
number_id!(
    /// One life of the orchestrating process; `troupe resume` starts the next one.
    Epoch(u32)
);
number_id!(
    /// A generator, judge or executor slot.
    WorkerId(u32)
);

/// The name of a task, for example `l1_softmax_rows_16x128`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId(pub String);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A SHA-256 digest in lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub String);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
