//! `troupe bench`: figures that anybody can take again.

pub mod orchestrator;
pub mod standins;
