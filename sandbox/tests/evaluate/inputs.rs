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

const SCALE_TASK: &str = "\
import torch

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(128))

    def forward(self, x):
        return torch.tanh(x) * self.w

def get_inputs():
    return [torch.randn(4, 128)]
";

fn scale(formula: &str) -> String {
    format!(
        "{HEAD}from triton.language.extra import libdevice

@triton.jit
def kernel(x, w, out, COLS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    v = tl.load(x + tl.program_id(0) * BLOCK + at)
    w = tl.load(w + at % COLS)
    tl.store(out + tl.program_id(0) * BLOCK + at, {formula})

class ModelNew(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(NUMBER))

    def forward(self, x):
        out = torch.empty_like(x)
        kernel[(x.shape[0],)](x, self.w, out, COLS=self.w.numel(), BLOCK=128)
        return out
"
    )
}

/// Planted: scales between a half and one and a half, other constants as they are (as it was). Seen: no sign and no slope above one shows.
#[test]
fn constants_among_the_weights_have_other_values_and_signs() {
    let lab = lab_or_skip!();
    let fixed = format!("{SCALE_TASK}\nFIXED_SHAPES = True\n");
    let scales = |formula: &str| lab.outcome(&fixed, &scale(formula).replace("NUMBER", "128"));
    assert!(matches!(scales("libdevice.tanh(v) * tl.abs(w)"), Outcome::WrongAnswer { .. }));
    assert_eq!(scales("libdevice.tanh(v) * w"), PASSED);
    let slope = fixed
        .replace("torch.ones(128)", "torch.full((1,), 0.25)")
        .replace("torch.tanh(x) * self.w", "torch.prelu(x, self.w)");
    let slopes = |formula: &str| lab.outcome(&slope, &scale(formula).replace("NUMBER", "1"));
    for wrong in
        ["tl.maximum(v, v * w)", "tl.where(v > 0, v, v * tl.abs(w))", "tl.where(v > 0, v, v * tl.minimum(w, 1.0))"]
    {
        assert!(matches!(slopes(wrong), Outcome::WrongAnswer { .. }), "{wrong}");
    }
    assert_eq!(slopes("tl.where(v > 0, v, v * w)"), PASSED);
    // A reference that bears no negative weight is not asked with one.
    let root = fixed.replace("self.w\n\ndef", "torch.sqrt(self.w)\n\ndef");
    assert_ne!(root, fixed);
    assert_eq!(lab.outcome(&root, &scale("libdevice.tanh(v) * tl.sqrt(w)").replace("NUMBER", "128")), PASSED);
}

/// Planted: integers are never changed (as it was). Seen: arithmetic in a smaller type. Those that are places stay legal.
#[test]
fn integers_that_are_numbers_are_large_ones_too() {
    let lab = lab_or_skip!();
    let task = CLAMP_TASK
        .replace("torch.nn.functional.hardtanh(x)", "x * 3 + 1")
        .replace("torch.rand(4, 128)", "torch.randint(0, 100, (4, 128))");
    match lab.outcome(&task, &map("(v.to(tl.int32) * 3 + 1).to(tl.int64)").replace("other=0.0", "other=0")) {
        Outcome::WrongAnswer { message } if message.contains("scaled") => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(lab.outcome(&task, &map("v * 3 + 1").replace("other=0.0", "other=0")), PASSED);
    let places = task.replace("x * 3 + 1", "torch.arange(7, 107)[x]");
    assert_eq!(lab.outcome(&places, &map("(v.to(tl.int32) + 7).to(tl.int64)").replace("other=0.0", "other=0")), PASSED);
}
