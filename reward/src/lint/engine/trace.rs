//! What the abstract interpreter saw: the facts that the rules read.

use super::value::FuncId;

/// Which code was running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Import of the candidate's file.
    Module,
    /// `ModelNew.__init__`.
    Init,
    /// `ModelNew.forward` and all it calls.
    Forward,
}

/// The way by which data was worked on outside a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum How {
    /// `torch.matmul`, `torch.nn.functional.relu`, a builtin or library function.
    Function(String),
    Operator(&'static str),
    Method(String),
    /// A call of a torch module: its class, and how it reads in the source.
    Module(String),
    /// `x[mask]`, `x[i] = v`.
    Index(&'static str),
}

/// Why a value that forward returns is not the work of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Forged {
    /// One of its inputs, as it came.
    Input,
    /// A parameter or buffer, as it is.
    Parameter,
    /// A tensor made here that no kernel writes on this way.
    Unwritten,
    /// A tensor kept from an earlier call.
    Kept,
    /// Written only by kernels that load nothing from an input.
    Constant,
    /// One of its inputs, which kernels wrote over.
    InPlace,
    /// Not a tensor.
    NotATensor,
    /// Cannot be told.
    Unknown,
}

/// One fact.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Fact {
    /// `data` is false when all operands are constants made in place.
    Compute {
        how: How,
        data: bool,
    },
    Launch {
        kernels: Vec<FuncId>,
    },
    /// A launch in code that never runs, or over an empty grid.
    DeadLaunch {
        why: &'static str,
    },
    /// A construct that is not understood and touches tensors.
    Opaque {
        what: String,
    },
    /// The same for a call: whatever is called may compute.
    OpaqueCall {
        what: String,
    },
    /// try / except / finally.
    Try,
    /// A branch or value that depends on the mode the module runs in.
    Mode {
        what: String,
    },
    Returns {
        forged: Forged,
    },
    /// State kept between calls; `counts` when the new value is made from the old one.
    Keeps {
        what: String,
        counts: bool,
    },
    /// A function whose results are cached handles tensors.
    Cached {
        what: String,
    },
    /// A branch on a number kept from an earlier call.
    StateBranch,
    /// Data or addresses go to the host.
    Host {
        what: String,
        reject: bool,
    },
    /// A view that is the conjugate, if the tensor is complex.
    Conjugates {
        what: String,
    },
    /// A look at what is another on each machine, or in each process.
    Machine {
        what: String,
    },
    /// The reference model is used.
    Reference {
        what: String,
    },
    /// Something of torch, triton or a class is replaced.
    Patch {
        what: String,
    },
    /// Work, waiting or a launch that the measured call does not show.
    Escapes {
        what: String,
    },
    /// A kernel is given something of the candidate's own that is no constant.
    Inside {
        what: String,
    },
    /// Something is printed.
    Prints,
    /// A decorator that is not understood on code that runs.
    Decorator {
        what: String,
    },
    /// Code that Python runs where the interpreter saw no call.
    Unseen {
        what: String,
    },
    /// Too much to follow.
    Budget,
}

/// A fact, where and when.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    pub stage: Stage,
    /// 1-based.
    pub line: u32,
    pub fact: Fact,
}
