//! What was seen of a candidate while it ran, besides its outputs. Facts only; `reward::evidence` says what they mean.

use serde::{Deserialize, Serialize};

/// One checked forward.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The draw's kind, with its modes: `nominal, as built, grad off`.
    pub draw: String,
    pub launches: u32,
    /// Computations of torch on input data or weights outside kernels: name and largest number of elements.
    pub computed: Vec<(String, u64)>,
    /// Numbers that were read to the host.
    pub reads: u32,
    /// Bytes that kernels read and wrote.
    pub kernel_bytes: u64,
    /// Elements that kernels read and wrote outside the tensors they were given; such a store was kept from happening.
    pub stray_loads: u64,
    pub stray_stores: u64,
    /// Elements that one program of a launch read after another had written them, without an atomic operation in that launch.
    pub raced: u64,
    /// Bytes of memory that kernels found as an earlier call had left it, and changed.
    pub remembered_bytes: u64,
    /// Bytes that torch wrote outside kernels.
    pub torch_bytes: u64,
}

/// A forward with every launch doing nothing, its buffers left poisoned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ablation {
    #[default]
    NotReached,
    /// The outputs were wrong without kernels, or there were none.
    Changed,
    /// The outputs were right all the same.
    Unchanged,
}

/// Everything seen of one candidate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub forwards: Vec<Seen>,
    pub ablation: Ablation,
    /// Where the compiled call and the interpreted one launched different things; both in words.
    pub two_faces: Option<(String, String)>,
    /// Calls with the same arguments, kernels doing nothing, and what launched otherwise than the calls before it.
    pub calls: u32,
    pub drift: Option<(String, String)>,
    /// What the candidate raised on shapes that are legal but not the task's own.
    pub own_shapes_only: Option<String>,
}

impl Evidence {
    /// The part of all bytes moved by checked forwards that kernels moved, 0 to 1; `None` when nothing was.
    pub fn share(&self) -> Option<f64> {
        let sum = |part: fn(&Seen) -> u64| self.forwards.iter().map(part).sum::<u64>() as f64;
        let (kernels, all) = (sum(|s| s.kernel_bytes), sum(|s| s.kernel_bytes + s.torch_bytes));
        (all > 0.0).then(|| kernels / all)
    }
}
