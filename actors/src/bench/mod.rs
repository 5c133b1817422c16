//! `troupe bench`: figures that anybody can take again.

pub mod cluster;
pub mod corpus;
pub mod device;
pub mod ear;
pub mod executor;
pub mod generator;
pub mod inspect;
pub mod learner;
pub mod lint;
pub mod orchestrator;
pub mod standins;
