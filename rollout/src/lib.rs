//! `rollout`: the shared nouns of Troupe and the pure machine that decides what happens next.
//!
//! No clock, no IO, no `async`, no global randomness: time and seeds are passed in (`docs/architecture.md`).

pub mod completion;
pub mod event;
pub mod id;
pub mod outcome;
pub mod reward;
pub mod task;
