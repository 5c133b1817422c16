//! The way for tensors without elements, on which nothing need be written: honest guards are known as such, and nothing else is.

use std::collections::BTreeSet;

use reward::extract::from_python;
use reward::lint::lint;
use rollout::outcome::Severity;

/// The rejecting codes of a candidate that copies x, with these lines of forward before the launch.
fn rejected(lines: &[&str]) -> BTreeSet<String> {
    let before: String = lines.iter().map(|line| format!("        {line}\n")).collect();
    let text = format!(
        "import functools\nimport math\nimport operator\nimport torch\nimport torch.nn as nn\nimport triton\nimport triton.language as tl\n\n\n@triton.jit\n\
         def copy(x_ptr, out_ptr, n, BLOCK: tl.constexpr):\n    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)\n    \
         tl.store(out_ptr + i, tl.load(x_ptr + i, mask=i < n), mask=i < n)\n\n\n\
         class ModelNew(nn.Module):\n    def __init__(self):\n        super().__init__()\n        \
         self.linear = nn.Linear(4, 4)\n\n    def forward(self, x):\n        n = x.numel()\n        \
         M, N = x.shape\n        out = torch.empty_like(x)\n{before}        \
         copy[(triton.cdiv(n, 256),)](x, out, n, BLOCK=256)\n        return out\n"
    );
    let candidate = from_python(&text).expect("a candidate");
    let report = lint(&candidate.source, None);
    report.findings.into_iter().filter(|f| f.severity == Severity::Reject).map(|f| f.code).collect()
}

/// Planted bug: only a size that is compared with a constant tells of tensors without elements.
#[test]
fn honest_guards_pass() {
    for guard in [
        "math.prod(x.shape) == 0",
        "math.prod(x.shape[:-1]) == 0",
        "min(x.shape) == 0",
        "min(M, N) < 1",
        "n // N == 0",
        "n // math.prod(x.shape[1:]) == 0",
        "0 in x.shape",
        "0 in (M, N)",
        "any(s == 0 for s in x.shape)",
        "not all(s > 0 for s in x.shape)",
        "not all(x.shape)",
        "1 > n",
        "torch.empty(x.shape, device=x.device).numel() == 0",
        "torch.empty(*x.shape).numel() == 0",
        "torch.zeros((M, 2 * N)).shape[1] == 0",
        "x.new_empty(list(x.shape)).numel() == 0",
        "(x.shape[:-1] + (N,))[-1] == 0",
        "M * N * self.linear.weight.shape[0] == 0",
        "(k := x.numel()) == 0",
        "not (k := x.numel())",
        "triton.cdiv(n, 256) == 0",
        "not triton.cdiv(n, N)",
        "(x.shape[0] if x.dim() == 2 else 1) * N == 0",
        "functools.reduce(operator.mul, x.shape, 1) == 0",
        "functools.reduce(lambda a, b: a * b, x.shape) == 0",
    ] {
        let lines = [&format!("if {guard}:"), "    return out"];
        assert_eq!(rejected(&lines), BTreeSet::new(), "{guard}");
    }
    for lines in [
        &["k = 1", "for s in x.shape:", "    k *= s", "if k == 0:", "    return out"][..],
        &["rows = 1 if x.dim() < 2 else M", "if rows == 0:", "    return out"],
        &["blocks = triton.cdiv(n, 256)", "if blocks > 0:", "    copy[(blocks,)](x, out, n, BLOCK=256)", "return out"],
    ] {
        assert_eq!(rejected(lines), BTreeSet::new(), "{lines:?}");
    }
}

/// Planted: a new buffer of unknown sizes is returned where it has no elements itself. Seen: that is refused, though nothing is
/// missing in it; or another buffer, or one that got other sizes since, is free too.
#[test]
fn a_buffer_without_elements_is_written() {
    let made = "y = torch.empty((M, (N + 2 * self.p - 3) // 1 + 1), device=x.device)";
    for guard in ["y.numel() == 0", "not y.numel()", "(total := y.numel()) == 0", "triton.cdiv(y.numel(), 256) == 0"] {
        assert_eq!(rejected(&[made, &format!("if {guard}:"), "    return y"]), BTreeSet::new(), "{guard}");
    }
    let lines = [made, "if y.numel() > 0:", "    copy[(1,)](x, y, n, BLOCK=256)", "return y"];
    assert_eq!(rejected(&lines), BTreeSet::new());
    let zero = "z = torch.empty((n - n,), device=x.device)";
    for lines in [
        &[made, zero, "if z.numel() == 0:", "    return y"][..],
        &[made, zero, "if z.numel() == 0:", "    return x.t()"],
        &[made, zero, "if y.numel() == 0 or z.numel() == 0:", "    return y"],
        &[zero, "if z.numel() == 0:", "    z.resize_(x.shape)", "    return z"],
        &[zero, "k = z.numel()", "z.resize_(x.shape)", "if k == 0:", "    return z"],
        &[zero, "if z.numel() * 2 == 0:", "    return x.t()"],
        &[zero, "if min(z.numel(), n) == 0:", "    return x.t()"],
    ] {
        assert!(rejected(lines).contains("K022"), "{lines:?}: {:?}", rejected(lines));
    }
}

/// Planted bugs: a number that is hung on a shape, or on a list of its sizes, is a size; so is any quotient of two; so is what
/// a dict of sizes is gone through by, what a loop over nothing or a comprehension leaves, and the size of a part's copy.
#[test]
fn a_zero_is_no_size() {
    for lines in [
        &["k = (x.shape + (0,))[-1]"][..],
        &["k = [*x.shape, 0][-1]"],
        &["s = list(x.shape)", "s[0] = 0", "k = s[0]"],
        &["s = list(x.shape)", "s.append(0)", "k = s[-1]"],
        &["s = x.shape", "s += (0,)", "k = s[-1]"],
        &["k = next(iter(x.shape[5:]), 0)"],
        &["k = min(*x.shape, 0)"],
        &["k = math.prod(x.shape, start=0)"],
        &["k = M // N"],
        &["k = n // (N * N)"],
        &["k = x.view(-1).view(torch.float64).numel() // x.view(-1).shape[0]"],
        &["k = x[:0].clone().numel()"],
        &["k = torch.empty(*x.shape, 0).numel()"],
        &["k = min({0: n})"],
        &["d = {}", "d[0] = n", "k = min(d)"],
        &["k = list(dict.fromkeys([0], n))[0]"],
        &["k = 0", "for s in x.shape[9:]:", "    k = s"],
        &["k = 0", "[None for k in x.shape]"],
        &["k = 0", "[k := s for s in x.shape[9:]]"],
        &["k = 0", "any((k := s) < 0 for s in x.shape[9:])"],
        &["k = functools.reduce(lambda a, b: b, x.shape[9:], 0)"],
        &["k = functools.reduce(lambda a, b: 0 if a == n else b, x.shape, n)"],
        &["def first(t):", "    for s in t:", "        return s", "    return 0", "k = first(x.shape[9:])"],
        &["s = list(x.shape)", "t = s", "t[0] = 0", "k = s[0]"],
        &["s = list(x.shape)", "add = s.append", "add(0)", "k = s[-1]"],
        &["s = list(x.shape)", "list.insert(s, 0, 0)", "k = s[0]"],
        &["s = list(x.shape)", "operator.setitem(s, 0, 0)", "k = s[0]"],
        &["k = triton.cdiv(n, -2 * n)"],
        &["k = 0 if N > 4096 else M"],
    ] {
        let lines: Vec<&str> = lines.iter().chain(&["if k == 0:", "    return x.t()"]).copied().collect();
        assert!(rejected(&lines).contains("K022"), "{lines:?}: {:?}", rejected(&lines));
    }
    for test in [
        "0 in {0: n}",
        "k == [k := n, 0][1]",
        "(k := 0) == 0 and (k := n)",
        "[k := 0] and k == 0",
        "k == 0 and (k := n) and N > 4096",
        "not [k := n, 0][1]",
    ] {
        let lines = ["k = 0", &format!("if {test}:"), "    return x.t()"];
        assert!(rejected(&lines).contains("K022"), "{test}: {:?}", rejected(&lines));
    }
}

/// Planted bug: a parameter without elements, which the candidate can make, frees what an input without elements does.
#[test]
fn a_parameter_without_elements_frees_only_what_is_new() {
    let guard = "if self.linear.weight.numel() == 0:";
    assert_eq!(rejected(&[guard, "    return out"]), BTreeSet::new());
    assert!(rejected(&[guard, "    return x.t()"]).contains("K022"));
    assert!(rejected(&[guard, "    return x.clone()"]).contains("K022"));
    let lines =
        ["c = x.clone()", "if self.linear.weight.numel() > 0:", "    copy[(1,)](x, c, n, BLOCK=256)", "return c"];
    assert!(rejected(&lines).contains("K022"));
}

/// Planted bug: a dict's keys are dropped, and with them what torch computes on them.
#[test]
fn a_tensor_as_a_key_is_not_lost() {
    for lines in [
        &["for t in {x: 0}:", "    t.softmax(-1)"][..],
        &["d = {}", "d[x] = 0", "next(iter(d)).softmax(-1)"],
        &["for t in {t: 0 for t in [x]}:", "    t.softmax(-1)"],
        &["for t in dict.fromkeys([x], 0):", "    t.softmax(-1)"],
    ] {
        assert!(rejected(lines).contains("K024"), "{lines:?}: {:?}", rejected(lines));
    }
    assert_eq!(rejected(&["d = {x.dtype: 1, (x.shape, x.device): 2}"]), BTreeSet::new());
}
