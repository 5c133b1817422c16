//! Ways to hide from the linter that a tensor holds data, so that torch's work on it would count as work on constants.

use std::collections::BTreeSet;

use reward::extract::from_python;
use reward::lint::lint;
use rollout::outcome::Severity;

const HEAD: &str = "
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def load_rows(ptr, i, m):
    return tl.load(ptr + i, mask=m, other=0.0)


@triton.jit
def stage(x_ptr, buf_ptr, n, LOAD: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(buf_ptr + i, LOAD(x_ptr, i, i < n), mask=i < n)


@triton.jit
def add(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0.0)
    y = tl.load(y_ptr + i, mask=i < n, other=0.0)
    tl.store(out_ptr + i, y + x * 0.0, mask=i < n)
";

/// The rejecting codes of a candidate whose forward makes `y` in these lines and adds it to zero times x.
fn rejected(lines: &[&str]) -> BTreeSet<String> {
    let made: String = lines.iter().map(|line| format!("        {line}\n")).collect();
    let text = format!(
        "{HEAD}\n\nclass ModelNew(nn.Module):\n    def __init__(self, scale):\n        super().__init__()\n        \
         self.scale = scale\n\n    def forward(self, x):\n        out = torch.empty_like(x)\n        n = x.numel()\n\
         {made}        add[(triton.cdiv(n, 256),)](x, y, out, n, BLOCK=256)\n        return out\n"
    );
    let candidate = from_python(&text).expect("a candidate");
    let report = lint(&candidate.source, None);
    report.findings.into_iter().filter(|f| f.severity == Severity::Reject).map(|f| f.code).collect()
}

/// Planted bug: a new tensor is one of constants whatever it is made of, and so is what torch computes on it.
#[test]
fn a_tensor_made_of_data_holds_data() {
    for (line, code) in [
        ("y = torch.softmax(x.new_tensor([list(row) for row in x]), dim=-1)", "K007"),
        ("y = x.new_full((4,), x[0, 0])", "K007"),
        ("y = torch.FloatTensor([list(r) for r in x])", "K005"),
        ("y = torch.full_like(x, x[0, 0])", "K005"),
        ("y = torch.arange(0, x[0, 0])", "K005"),
    ] {
        assert!(rejected(&[line]).contains(code), "{line}: {:?}", rejected(&[line]));
    }
    for line in [
        "y = x.new_zeros(x.shape)",
        "y = torch.full((n,), self.scale, device=x.device, dtype=x.dtype)",
        "y = torch.tensor([self.scale, 1.0], device=x.device)",
        "y = torch.zeros((x.shape[0], n // x.shape[0]), out=None)",
        "y = torch.full_like(x, 1.0 / n)",
    ] {
        assert_eq!(rejected(&[line]), BTreeSet::new(), "{line}");
    }
}

/// Planted bug: `iter(f, end)`, whose items are what f returns, gives something of which nothing is known; or what torch
/// computes on that, or on a tensor made of it, is computed on constants.
#[test]
fn what_nothing_is_known_of_may_be_data() {
    for (line, code) in [
        ("y = next(iter(lambda: x, None)).cos()", "K007"),
        ("y = next(iter(lambda: x, None)) * 2", "K006"),
        ("y = torch.tensor([list(r) for r in self.scale], device=x.device).softmax(-1)", "K007"),
        ("y = torch.softmax(self.scale, -1)", "K005"),
        ("y = self.scale.softmax(-1)", "K007"),
    ] {
        assert!(rejected(&[line]).contains(code), "{line}: {:?}", rejected(&[line]));
    }
}

/// Planted bug: writing into a tensor by way of `out=` is making a new one.
#[test]
fn an_allocation_into_a_tensor_is_work() {
    for line in ["torch.zeros(0, out=out.view(-1))", "torch.full((n,), 0.5, out=out)", "torch.arange(n, out=out)"] {
        assert!(rejected(&[line, "y = torch.empty_like(x)"]).contains("K005"), "{line}");
    }
}

/// Planted bug: what a kernel stores of a call that is not understood is a constant.
#[test]
fn a_loader_that_comes_as_an_argument_loads() {
    let staged = |load: &str, y: &str| {
        let launch = format!("stage[(1,)](x, buf, n, LOAD={load}, BLOCK=256)");
        rejected(&["buf = torch.empty_like(x)", &launch, y])
    };
    assert_eq!(staged("load_rows", "y = buf"), BTreeSet::new());
    assert!(staged("tl.load", "y = torch.softmax(buf, dim=-1)").contains("K005"));
    // Returned straight from there, it is no constant either.
    let lines = ["stage[(1,)](x, out, n, LOAD=load_rows, BLOCK=256)", "return out", "y = x"];
    assert_eq!(rejected(&lines), BTreeSet::new());
    // A helper by the name of the parameter is not what is called.
    let shadowed = HEAD.replace("LOAD", "load_rows").replace("tl.load(ptr + i, mask=m, other=0.0)", "0.0");
    let text = format!(
        "{shadowed}\n\nclass ModelNew(nn.Module):\n    def forward(self, x):\n        buf = torch.empty_like(x)\n        \
         out = torch.empty_like(x)\n        n = x.numel()\n        stage[(1,)](x, buf, n, load_rows=tl.load, BLOCK=256)\n        \
         add[(1,)](x, torch.softmax(buf, -1), out, n, BLOCK=256)\n        return out\n"
    );
    let report = lint(&from_python(&text).expect("a candidate").source, None);
    assert!(report.findings.iter().any(|f| f.code == "K005" && f.severity == Severity::Reject), "{report:?}");
}

/// Planted bug: only `for`, `while` and comprehensions take numbers one by one.
#[test]
fn numbers_are_taken_one_by_one_in_any_loop() {
    for lines in [
        &["total = sum(map(lambda p: p.item(), x[0])) ** 0.5"][..],
        &["total = functools.reduce(lambda a, p: a + p.item(), x[0], 0.0)"],
        &["total = sorted(x[0], key=lambda p: p.item())[0]"],
        &["def total(i):", "    return x[0, i].item() + (total(i - 1) if i else 0.0)", "t = total(7)"],
    ] {
        let lines: Vec<&str> = ["import functools"].iter().chain(lines).chain(&["y = x"]).copied().collect();
        assert!(rejected(&lines).contains("K027"), "{lines:?}: {:?}", rejected(&lines));
    }
    assert_eq!(rejected(&["scale = x[0, 0].item()", "y = x"]), BTreeSet::new());
}

/// Planted bug: a function sees the names around it as they were when it was made.
#[test]
fn a_function_sees_what_was_bound_since() {
    for lines in [
        &["held = None", "f = lambda: held", "held = x", "y = f().softmax(-1)"][..],
        &["def f():", "    return held", "held = x", "y = f().softmax(-1)"],
        &["held = 0", "f = lambda i: held", "held = x", "y = list(map(f, [0]))[0].softmax(-1)"],
        &[
            "def make(t):",
            "    held = None",
            "    f = lambda: held",
            "    held = t",
            "    return f",
            "y = make(x)().softmax(-1)",
        ],
    ] {
        assert!(rejected(lines).contains("K007"), "{lines:?}: {:?}", rejected(lines));
    }
    let lines = [
        "def grid(meta):",
        "    return (triton.cdiv(m, 256),)",
        "m = x.numel()",
        "add[grid](x, x, out, n, BLOCK=256)",
        "y = x",
    ];
    assert_eq!(rejected(&lines), BTreeSet::new());
}
