//! What `troupe doctor` asks of this room, and the candidate that must always pass.

use rollout::id::{Digest, TaskId};
use rollout::outcome::Candidate;
use rollout::task::{Split, TaskSpec};
use sha2::{Digest as _, Sha256};

const TASK: &str = "\
import torch


class Model(torch.nn.Module):
    def forward(self, x, y):
        return x + 2 * y


def get_inputs():
    return [torch.randn(256), torch.randn(256)]


def get_init_inputs():
    return []
";

const GOOD: &str = "\
import torch
import triton
import triton.language as tl


@triton.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    tl.store(out + at, tl.load(x + at, mask=mask) + 2 * tl.load(y + at, mask=mask), mask=mask)


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        out = torch.empty_like(x)
        add_kernel[(triton.cdiv(x.numel(), 128),)](x, y, out, x.numel(), BLOCK=128)
        return out
";

/// A task and a candidate that passes it on every working machine.
pub fn known_good() -> (TaskSpec, Candidate) {
    let task = TaskSpec {
        id: TaskId("troupe_known_good".into()),
        level: 1,
        split: Split::Validation,
        tags: Vec::new(),
        source: TASK.into(),
    };
    let digest = Digest(crate::harness::hex(&Sha256::digest(GOOD)));
    (task, Candidate { source: GOOD.into(), digest })
}
