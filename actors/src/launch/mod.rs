//! Launching a run over several processes or machines (docs/launch.md): from `[launch]` to who runs what where, and then doing it.
//!
//! ```text
//!   Config -> plan (pure) -> local: supervise            a head and nodes here
//!                         -> ssh + supervise             a head here, nodes on hosts, each a child `ssh`
//!                         -> slurm -> submit             job scripts, sbatch
//!                         -> k8s                         manifests, for kubectl
//! ```
//!
//! Reading order: `plan` (what runs where), `ssh`, `slurm`, `k8s` (a plan in other people's words; all pure), `folder` (what lies
//! in the run directory), `restarts` (when a node is started again; pure), `supervise` and `child` (processes), `submit`.

pub mod child;
pub mod folder;
pub mod k8s;
mod k8s_pods;
pub mod plan;
pub mod restarts;
pub mod slurm;
pub mod ssh;
pub mod submit;
pub mod supervise;

pub use crate::config::launch::Mode;
pub use plan::{Part, Place, Plan, Role, Site};
