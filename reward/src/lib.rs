//! `reward`: from a model's answer to numbers. Text -> candidate -> lint -> ruling; outcome -> reward; group ->
//! advantages; batch -> token weights.
//!
//! Pure: no file, clock, process, thread or random number (`docs/architecture.md`). Rule pages and the LLM
//! judge's rubric are compiled in.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod advantage;
pub mod config;
pub mod evidence;
pub mod extract;
pub mod hacks;
pub mod judge;
pub mod lint;
pub mod rubric;
pub mod score;
pub mod weights;

pub use config::RewardConfig;
pub use judge::{judge, judge_candidate};
