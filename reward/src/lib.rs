//! `reward`: from a model's answer to numbers. Text -> candidate -> lint -> ruling; outcome -> reward; group ->
//! advantages; batch -> token weights.
//!
//! Pure: no file, clock, process, thread or random number (`docs/architecture.md`). Rule pages are compiled in.

pub mod advantage;
pub mod config;
pub mod evidence;
pub mod extract;
pub mod judge;
pub mod lint;
pub mod score;
pub mod weights;

pub use config::RewardConfig;
pub use judge::{judge, judge_candidate};
