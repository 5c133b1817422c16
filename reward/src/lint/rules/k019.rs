//! K019: inline CUDA, C++, ctypes and foreign libraries are not Triton.

use rollout::outcome::Finding;

use super::{Rule, reject};
use crate::lint::Known;

/// K019
pub const RULE: Rule = Rule {
    code: "K019",
    title: "native code in the source",
    page: include_str!("../../../../docs/rules/K019.md"),
    check,
};

const LIST: &[&str] = &[
    "torch.utils.cpp_extension",
    "torch.cuda._compile_kernel",
    "torch.cuda.nvrtc",
    "torch.cuda.cudart",
    "torch.cuda.caching_allocator_alloc",
    "ctypes",
    "_ctypes",
    "cffi",
    "cupy",
    "numba",
    "pycuda",
    "cuda",
    "cutlass",
    "tilelang",
    "jax",
    "tvm",
    "taichi",
    "torch.utils.dlpack",
];

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for mention in &known.whole.mentions {
        let path = mention.path.as_str();
        if LIST.iter().any(|l| path.strip_prefix(l).is_some_and(|r| r.is_empty() || r.starts_with('.'))) {
            reject(findings, RULE.code, mention.line, format!("{path} brings native code"));
        }
    }
}
