//! A kernel task: a PyTorch reference in KernelBench's format.

use serde::{Deserialize, Serialize};

use crate::id::TaskId;

/// Which part of the task set a task belongs to. No task is in two splits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    Train,
    Validation,
    HeldOut,
}

/// One task: `source` defines `class Model`, `get_inputs()` and `get_init_inputs()`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    pub id: TaskId,
    /// KernelBench's level: 1 single operator, 2 fusion, 3 architecture.
    pub level: u8,
    pub split: Split,
    pub tags: Vec<String>,
    pub source: String,
}
