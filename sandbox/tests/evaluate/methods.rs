//! A candidate's own methods where the harness would call them, and what changes behind its back.

use rollout::outcome::Outcome;

use crate::fixtures::*;
use crate::lab_or_skip;

const PASSED: Outcome = Outcome::Passed { speedup: None };

/// A kernel that writes zeros; torch fills the answer in when `later` is called.
fn filled_later(top: &str, init: &str, methods: &str, last: &str) -> String {
    let indent = |text: &str, by: &str| text.lines().map(|l| format!("{by}{l}\n")).collect::<String>();
    format!(
        "{HEAD}
import functools
{top}
@triton.jit
def zero_kernel(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at, mask=at < n) * 0.0, mask=at < n)

class Box:
    pass

def later(it):
    if it.__dict__.get('made') is not None:
        torch.softmax(it.given, -1, out=it.made)
        it.made = None

class ModelNew(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.given = self.made = None
{}
{}
    def forward(self, x):
        out = torch.empty_like(x)
        zero_kernel[(triton.cdiv(x.numel(), 64),)](x, out, x.numel(), BLOCK=64)
        self.given, self.made = x.clone(), out
{}        return out
",
        indent(init, "        "),
        indent(methods, "    "),
        indent(last, "        ")
    )
}

/// Planted bugs: the model is walked by its own methods, an answer is read by its own and only when all calls are over (as it was). Seen: torch
/// computes the answer when the harness asks for weights, sets the mode, or reads what was returned.
#[test]
fn nothing_of_a_candidates_runs_behind_forward() {
    let lab = lab_or_skip!();
    let part = "class Part(torch.nn.Module):
    def named_modules(self, *args, **kwargs):
        later(self.owner[0])
        return super().named_modules(*args, **kwargs)
";
    let iterated = "class Found(dict):
    def items(self):
        later(IT[0])
        return super().items()
    values = __iter__ = items
IT = [None]
";
    let bare = "@property\ndef training(self):\n    later(self)\n    return False\n@training.setter\ndef training(self, mode):\n    later(self)";
    for (top, init, methods, last) in [
        ("", "", "def named_modules(self, *a, **k):\n    later(self)\n    return super().named_modules(*a, **k)", ""),
        ("", "", "def modules(self):\n    later(self)\n    return super().modules()", ""),
        ("", "", "def _named_members(self, *a, **k):\n    later(self)\n    return super()._named_members(*a, **k)", ""),
        ("", "self.parameters = lambda recurse=True: [later(self)][:0]", "", ""),
        ("", "self.__setstate__({'buffers': lambda recurse=True: [later(self)][:0]})", "", ""),
        (part, "self.part = Part()\nself.part.owner = [self]", "", ""),
        (iterated, "self._buffers = Found()\nself._modules = Found()\nIT[0] = self", "", ""),
        ("", "", bare, ""),
        (
            "",
            "",
            "def __setattr__(self, name, value):\n    if name == 'training': later(self)\n    super().__setattr__(name, value)",
            "",
        ),
        (
            "",
            "",
            "@property\ndef __class__(self):\n    if 'made' in self.__dict__: later(self)\n    return ModelNew",
            "",
        ),
        ("", "", "def __instancecheck__(self, other):\n    later(self)", ""),
    ] {
        let outcome = lab.outcome(SOFTMAX_TASK, &filled_later(top, init, methods, last));
        assert!(matches!(&outcome, Outcome::WrongAnswer { .. }), "{init}{methods}: {outcome:?}");
    }
    // Of what is returned, and of what a call was given.
    for (last, complaint) in [
        ("out.detach = lambda: torch.softmax(self.given, -1)", "attributes of its own"),
        ("box = Box()\nbox.untyped_storage = lambda: later(self)\nfunctools.wraps(box)(out)", "attributes of its own"),
        ("class Own(torch.Tensor): pass\nout.__class__ = Own", "forward returned a Own"),
        ("x.detach = lambda: [later(self), x.data][1]", "differ"),
    ] {
        match lab.outcome(SOFTMAX_TASK, &filled_later("", "", "", last)) {
            Outcome::WrongAnswer { message } if message.contains(complaint) => {}
            other => panic!("{last}: {other:?}"),
        }
    }
}

/// Planted: what an answer is read for the last time is all that counts (as it was). Seen: the next call repairs the last one's answer.
#[test]
fn an_answer_is_right_at_once() {
    let lab = lab_or_skip!();
    let last = "if getattr(self, 'before', None) is not None:\n    later(self.before)\nself.before = Box()\n\
                self.before.given, self.before.made = self.given, self.made";
    // By the last call everything is right, but for its own answer: that is what draws differ in.
    match lab.outcome(SOFTMAX_TASK, &filled_later("", "", "", last)) {
        Outcome::WrongAnswer { message } if message.contains("was changed after forward had returned it") => {}
        other => panic!("{other:?}"),
    }
}

/// Planted bug: a tensor's own methods are asked where operations are watched. Seen: torch works in one, and nobody sees it.
#[test]
fn a_tensors_own_methods_are_seen_or_not_asked() {
    let lab = lab_or_skip!();
    let body = "\
made = torch.empty_like(x)
own = x.view(x.shape)
def storage():
    torch.add(x, y, alpha=2, out=made)
    return x.untyped_storage()
own.untyped_storage = storage
own.view(-1)
add(x, y)
return made";
    let report = lab.evaluate(ADD_TASK, &add_with("", body)).unwrap();
    assert!(matches!(&report.outcome, Outcome::WrongAnswer { .. }), "{report:?}");
}

/// What modules and tensors honestly have of their own.
#[test]
fn honest_models_are_walked_as_torch_does() {
    let lab = lab_or_skip!();
    let nested = LINEAR.replace("class ModelNew", "class Inner").replace(
        "    def forward(self, x):",
        "        self.register_buffer('scale', torch.ones(3), persistent=False)\n        \
         self.kept = torch.nn.Buffer(torch.zeros(2))\n\n    def forward(self, x):",
    ) + "
class ModelNew(torch.nn.Module):
    def __init__(self, k, n):
        super().__init__()
        self.parts = torch.nn.ModuleList([Inner(k, n)])
        self.again = self.parts[0]

    def forward(self, x):
        assert self.training == self.parts[0].training
        return self.parts[0](x)
";
    assert_eq!(lab.outcome(LINEAR_TASK, &nested), PASSED);
}

const NORM_EVAL_TASK: &str = "\
import torch

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = torch.nn.BatchNorm1d(6)EVAL

    def forward(self, x):
        return self.bn(x)

def get_inputs():
    return [torch.randn(4, 6, 10)]
";

/// Planted: of what is the reference's only parameters have to stay (as it was). Seen: a kernel counts calls in a buffer.
#[test]
fn a_buffer_stays_where_the_reference_leaves_it() {
    let lab = lab_or_skip!();
    let candidate = |eval: &str, tick: &str| {
        format!(
            "{HEAD}
@triton.jit
def bn_kernel(x, mean, var, w, b, out, n, C, L, eps, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = at // L % C
    v = (tl.load(x + at, mask=at < n) - tl.load(mean + c)) / tl.sqrt(tl.load(var + c) + eps)
    tl.store(out + at, v * tl.load(w + c) + tl.load(b + c), mask=at < n)

@triton.jit
def tick_kernel(count):
    tl.store(count, tl.load(count) + 1)

class ModelNew(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = torch.nn.BatchNorm1d(6){eval}
        self.register_buffer('mine', torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        x = x.contiguous()
        out, bn = torch.empty_like(x), self.bn
        bn_kernel[(triton.cdiv(x.numel(), 64),)](x, bn.running_mean, bn.running_var, bn.weight, bn.bias, out, x.numel(),
                                                 x.shape[1], x.shape[2], bn.eps, BLOCK=64)
        {tick}
        return out
"
        )
    };
    let task = NORM_EVAL_TASK.replace("EVAL", ".eval()");
    assert_eq!(lab.outcome(&task, &candidate(".eval()", "")), PASSED);
    let own = "tick_kernel[(1,)](self.mine)";
    assert_eq!(lab.outcome(&task, &candidate(".eval()", own)), PASSED, "K108 weighs it");
    for tick in ["tick_kernel[(1,)](bn.num_batches_tracked)", "tick_kernel[(1,)](bn.running_mean)"] {
        match lab.outcome(&task, &candidate(".eval()", tick)) {
            Outcome::WrongAnswer { message } if message.contains("forward changed 1 of the weights") => {}
            other => panic!("{tick}: {other:?}"),
        }
    }
}
