//! Inputs that a wrong formula bears until it meets the right ones.

use rollout::outcome::Outcome;

use crate::fixtures::*;
use crate::lab_or_skip;

const PASSED: Outcome = Outcome::Passed { speedup: None };

/// Planted bug: exponentials of numbers up to 96 alone, which a fixed shift bears.
#[test]
fn a_softmax_without_its_maximum_overflows_far_from_zero() {
    let lab = lab_or_skip!();
    let fixed = SOFTMAX.replace("v - tl.max(v, axis=0)", "v - 12.0");
    assert_ne!(fixed, SOFTMAX);
    match lab.outcome(SOFTMAX_TASK, &fixed) {
        Outcome::WrongAnswer { message } if message.contains("rows far from zero") => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(lab.outcome(SOFTMAX_TASK, SOFTMAX), PASSED);
}

pub const CLAMP_TASK: &str = "\
import torch

class Model(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.hardtanh(x)

def get_inputs():
    return [torch.rand(4, 128)]
";

pub fn map(formula: &str) -> String {
    format!(
        "{HEAD}
@triton.jit
def kernel(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < n, other=0.0)
    tl.store(out + at, {formula}, mask=at < n)

class ModelNew(torch.nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        kernel[(triton.cdiv(x.numel(), 64),)](x, out, x.numel(), BLOCK=64)
        return out
"
    )
}

/// Planted bug: of inputs that are never negative nothing is below minus the largest.
#[test]
fn inputs_that_are_never_negative_have_extremes_of_both_signs() {
    let lab = lab_or_skip!();
    match lab.outcome(CLAMP_TASK, &map("tl.minimum(v, 1.0)")) {
        Outcome::WrongAnswer { message } if message.contains("both signs") => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(lab.outcome(CLAMP_TASK, &map("tl.minimum(tl.maximum(v, -1.0), 1.0)")), PASSED);
    // A reference that bears no negative number is not asked about any.
    let roots = CLAMP_TASK.replace("torch.nn.functional.hardtanh(x)", "torch.sqrt(x)");
    assert_eq!(lab.outcome(&roots, &map("tl.sqrt(v)")), PASSED);
}

/// Planted: rows far from zero also where there is a variance (as it was). Seen: an honest one-pass variance is wrong in a thousandth.
#[test]
fn a_variance_in_one_pass_is_no_softmax_without_its_maximum() {
    let lab = lab_or_skip!();
    let candidate = format!(
        "{HEAD}
@triton.jit
def kernel(x, out, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    mask = at < n
    v = tl.load(x + tl.program_id(0) * n + at, mask=mask, other=0.0)
    mean = tl.sum(v, axis=0) / n
    v = (v - mean) / tl.sqrt(tl.sum(v * v, axis=0) / n - mean * mean + 1e-5)
    e = tl.where(mask, tl.exp(v - tl.max(tl.where(mask, v, -float('inf')), axis=0)), 0.0)
    tl.store(out + tl.program_id(0) * n + at, e / tl.sum(e, axis=0), mask=mask)

class ModelNew(torch.nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        kernel[(x.shape[0],)](x, out, x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]))
        return out
"
    );
    let by_hand = "(x - x.mean(-1, keepdim=True)) / torch.sqrt(((x - x.mean(-1, keepdim=True)) ** 2).mean(-1, keepdim=True) + 1e-5)";
    for norm in ["torch.nn.functional.layer_norm(x, x.shape[1:])", by_hand] {
        let task = SOFTMAX_TASK.replace("softmax(x,", &format!("softmax({norm},")).replace("8, 100", "16, 128");
        assert_ne!(task, SOFTMAX_TASK);
        for _ in 0..3 {
            assert_eq!(lab.outcome(&task, &candidate), PASSED, "{norm}");
        }
    }
}
