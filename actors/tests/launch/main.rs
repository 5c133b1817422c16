//! `troupe launch` through the binary: dry runs, a run on this machine with its accidents, one over a real sshd, one through a real
//! Slurm, and manifests against Kubernetes' schemas. What is not on this machine (sshd, Slurm, the schemas) is skipped with the reason;
//! real runs need Python, see `cli_common::python`.
#![allow(clippy::unwrap_used)]

#[path = "../cli_common/mod.rs"]
mod cli_common;
mod dry;
mod field;
mod local;
mod manifests;
#[path = "../skip/mod.rs"]
mod skip;
mod slurm;
mod slurm_lab;
mod ssh;
