//! `rollout`: the shared nouns of Troupe and the pure machine that decides what happens next.
//!
//! No clock, no IO, no `async`, no global randomness: time and seeds are passed in (`docs/architecture.md`,
//! `docs/rollout-machine.md`).

pub mod completion;
pub mod curriculum;
pub mod event;
pub mod evidence;
pub mod id;
pub mod journal;
pub mod machine;
pub mod outcome;
pub mod reward;
pub mod seed;
pub mod slots;
pub mod task;
pub mod timing;
