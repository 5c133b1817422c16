//! What may be handed to a kernel beside tensors and numbers.

use rollout::outcome::Outcome;

use crate::fixtures::*;
use crate::lab_or_skip;

const PASSED: Outcome = Outcome::Passed { speedup: None };

const TASK: &str = "\
import torch

class Model(torch.nn.Module):
    def forward(self, x):
        return torch.sigmoid(x)

def get_inputs():
    return [torch.randn(4, 100)]
";

/// A kernel that applies `formula` to `v` with a constant `C`, which is `given`, and then does `last`.
fn with(top: &str, given: &str, formula: &str, last: &str) -> String {
    format!(
        "{HEAD}
import enum, functools, typing
from collections import namedtuple
from dataclasses import dataclass
{top}
@triton.jit
def kernel(x, out, n, C: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < n, other=0.0)
    tl.store(out + at, {formula}, mask=at < n)
    {last}

class ModelNew(torch.nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        BOX[:] = [out, x]
        kernel[(triton.cdiv(x.numel(), 256),)](x, out, x.numel(), C={given}, BLOCK=256)
        return out

BOX = []
"
    )
}

/// Planted: what a kernel is given is not looked at (as it was). Seen: the kernel is wrong, and torch does its work in the launch.
#[test]
fn a_kernel_is_given_no_python() {
    let lab = lab_or_skip!();
    let op = "class Op:\n    @staticmethod\n    def go():\n        BOX[0].copy_(BOX[1].sigmoid())\n    copy = None\n";
    let holder = "@dataclass(frozen=True)\nclass Op:\n    go: object\n";
    let callable = "class Op:\n    def __call__(self):\n        BOX[0].copy_(BOX[1].sigmoid())\n";
    for (top, given, last) in [
        ("", "(out.copy_, x.sigmoid)", "C[0](C[1]())"),
        ("", "functools.partial(torch.sigmoid, x, out=out)", "C()"),
        (op, "Op", "C.go()"),
        (callable, "Op()", "C()"),
        (holder, "Op(lambda: out.copy_(x.sigmoid()))", "C.go()"),
        ("", "(out, x)", "C[0].copy_(C[1].sigmoid())"),
        ("", "namedtuple('Op', 'go')(lambda: out.copy_(x.sigmoid()))", "C.go()"),
    ] {
        match lab.outcome(TASK, &with(top, given, "tl.sigmoid(v * 0.5)", last)) {
            Outcome::Crashed { message, .. } if message.contains("the kernel's argument C is or holds") => {}
            other => panic!("{given}: {other:?}"),
        }
    }
}

/// Planted: torch's work in a launch is the launch's (as it was). Seen: the method of an object, which may be an honest one's, does it all.
#[test]
fn torch_in_a_kernel_is_seen() {
    let lab = lab_or_skip!();
    let op = "class Op:\n    def go(self):\n        BOX[0].copy_(BOX[1].sigmoid())\n";
    let property = "class Op:\n    @property\n    def go(self):\n        return len(BOX[0].copy_(BOX[1].sigmoid()))\n";
    let read = "class Op:\n    def go(self):\n        return len(BOX[1].reshape(-1).tolist())\n";
    for (top, given, last, name) in [
        (op, "Op()", "C.go()", "sigmoid"),
        (property, "Op()", "v = C.go", "sigmoid"),
        (read, "Op()", "C.go()", "tolist"),
    ] {
        let report = lab.evaluate(TASK, &with(top, given, "tl.sigmoid(v)", last)).unwrap();
        let seen = report.evidence.forwards.iter().any(|s| s.computed.iter().any(|(n, _)| n.contains(name)));
        assert!(seen, "{given}: {report:?}");
    }
}

/// Planted: whatever Triton does not know as a constant is refused. Seen: settings, enumerations, functions of kernels.
#[test]
fn constants_and_functions_of_kernels_are_free() {
    let lab = lab_or_skip!();
    let act = "class Act(enum.IntEnum):\n    NONE = 0\n    SIGMOID = 1\n    @property\n    def gated(self):\n        return False\n";
    let plain = "class Act(enum.Enum):\n    SIGMOID = 'sigmoid'\n    def __str__(self):\n        return self.value\n";
    let settings = "@dataclass(frozen=True)\nclass Settings:\n    scale: float = 1.0\n    name: str = 'a'\n    dims: tuple = ()\n    \
                    dtype: torch.dtype = torch.float32\n    kind: tl.dtype = tl.float32\n    def blocks(self, n):\n        return n // 2\n";
    let slots = "@dataclass(frozen=True, slots=True)\nclass Settings:\n    scale: float = 1.0\n";
    let named = "class Pair(typing.NamedTuple):\n    one: float\n    two: tuple = (1, None)\n";
    let class = "class Settings:\n    SCALE = 1.0\n    SIZES = [1, 2]\n    inner = torch.float32\n";
    let jitted = "@triton.jit\ndef op(v):\n    return tl.sigmoid(v)\n@triton.constexpr_function\ndef twice(n):\n    return n * 2\n";
    for (top, given, formula) in [
        ("", "tl.float32", "tl.sigmoid(v.to(C))"),
        ("", "(1.0, None, 'a', (2, True), tl.float32)", "tl.sigmoid(v * C[0])"),
        ("", "None", "tl.sigmoid(v)"),
        ("", "tl.constexpr(1)", "tl.sigmoid(v * C)"),
        ("", "torch.float32", "tl.sigmoid(v)"),
        ("", "x.shape", "tl.sigmoid(v)"),
        ("", "tl.sigmoid", "C(v)"),
        (act, "Act.SIGMOID", "tl.sigmoid(v) if C == 1 else v"),
        (act, "int(Act.SIGMOID)", "tl.sigmoid(v) if C == 1 else v"),
        (act, "Act", "tl.sigmoid(v)"),
        ("class Act(enum.Flag):\n    A = enum.auto()\n    B = enum.auto()", "(Act, Act.A | Act.B)", "tl.sigmoid(v)"),
        (settings, "(Settings().dims, Settings().blocks(4))", "tl.sigmoid(v)"),
        ("import numpy", "numpy.int64(1)", "tl.sigmoid(v)"),
        (plain, "Act.SIGMOID", "tl.sigmoid(v)"),
        (settings, "Settings()", "tl.sigmoid(v * C.scale)"),
        (slots, "Settings()", "tl.sigmoid(v * C.scale)"),
        (named, "Pair(1.0)", "tl.sigmoid(v * C[0])"),
        ("", "namedtuple('Pair', 'one two')(1.0, 2)", "tl.sigmoid(v * C[0])"),
        (class, "Settings", "tl.sigmoid(v * C.SCALE)"),
        (jitted, "op", "C(v)"),
        (jitted, "twice", "tl.sigmoid(v * (C(1) - 1))"),
        (jitted, "(op, 1)", "C[0](v)"),
    ] {
        let report = lab.evaluate(TASK, &with(top, given, formula, "")).unwrap();
        assert_eq!(report.outcome, PASSED, "{given}: {top}");
        assert!(report.evidence.forwards.iter().all(|s| s.computed.is_empty()), "{given}");
    }
}
