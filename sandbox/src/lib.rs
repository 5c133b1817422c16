//! `sandbox`: runs hostile kernel candidates in supervised Python processes and says what became of them.
//!
//! A trusted referee knows the expected outputs; a zygote forks one confined child per candidate; Rust supervises both
//! and every wait has a deadline. `docs/sandbox.md` draws the picture.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod device;
pub mod doctor;
mod evidence;
pub mod executor;
pub mod fault;
mod frames;
pub mod gpu;
mod harness;
pub mod hostile;
pub mod isolation;
pub mod pyenv;
mod referee;
pub mod stage;
mod suspects;
mod trial;
mod zygote;

pub use fault::faults;
pub use harness::protocol_digest;
pub use suspects::Suspects;
