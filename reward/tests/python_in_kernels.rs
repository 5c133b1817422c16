//! A kernel's body is Python where it is interpreted: what of the candidate's own it may name there.

use std::collections::BTreeSet;

use reward::extract::from_python;
use reward::lint::lint;
use rollout::outcome::Severity;

/// The rejecting codes of a candidate that doubles x, with these lines in its module, its kernel and its launch.
fn rejected(module: &[&str], kernel: &[&str], launch: &str) -> BTreeSet<String> {
    let indented = |lines: &[&str], by: &str| lines.iter().map(|l| format!("{by}{l}\n")).collect::<String>();
    let text = format!(
        "import collections\nimport dataclasses\nimport enum\nimport torch\nimport torch.nn as nn\nimport triton\n\
         import triton.language as tl\n\n{}\n\n@triton.jit\n\
         def double(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr, C: tl.constexpr = 0):\n    \
         i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)\n    x = tl.load(x_ptr + i, mask=i < n)\n{}    \
         tl.store(out_ptr + i, x * 2.0, mask=i < n)\n\n\n\
         class ModelNew(nn.Module):\n    def forward(self, x):\n        y = torch.zeros_like(x)\n        \
         out = torch.empty_like(x)\n        n = x.numel()\n        \
         double[(triton.cdiv(n, 256),)](x, y, out, n, BLOCK=256{launch})\n        return out\n",
        indented(module, ""),
        indented(kernel, "    "),
    );
    let candidate = from_python(&text).expect("a candidate");
    let report = lint(&candidate.source, None);
    report.findings.into_iter().filter(|f| f.severity == Severity::Reject).map(|f| f.code).collect()
}

/// Planted bug: a kernel takes the candidate's own objects out of its module and works with them.
#[test]
fn own_objects_are_no_part_of_a_kernel() {
    let boxed = ["class Box:", "    kept = {}", "", "def work():", "    Box.kept['y'] = 1"];
    for kernel in [
        "Box.kept['y'].copy_(Box.kept['x'].softmax(-1))",
        "kept = Box.kept",
        "box = Box",
        "box = Box()",
        "Box.kept.get('y')",
        "work()",
    ] {
        assert!(rejected(&boxed, &[kernel], "").contains("K030"), "{kernel}: {:?}", rejected(&boxed, &[kernel], ""));
    }
    for (module, kernel) in [("KEPT = {}", "KEPT['y'].copy_(KEPT['x'])"), ("KEPT = []", "KEPT[0].copy_(KEPT[1])")] {
        assert!(rejected(&[module], &[kernel], "").contains("K030"), "{kernel}");
    }
}

/// Planted bug: constants that are written where they belong are taken for objects.
#[test]
fn constants_and_helpers_pass() {
    for (module, kernel) in [
        (
            &["class Config:", "    SCALE = 2.0", "    BLOCK: tl.constexpr = 64"][..],
            "x = x * Config.SCALE + Config.BLOCK * 0",
        ),
        (&["class Kind(enum.IntEnum):", "    RELU = 0"], "x = x + Kind.RELU.value + Kind.RELU"),
        (&["SIZES: tl.constexpr = (1, 2)"], "x = x + SIZES[0] * 0"),
        (&["EPS = tl.constexpr(1e-6)"], "x = x + EPS"),
        (&["@triton.jit", "def half(v):", "    return v * 0.5"], "x = half(x) * 2.0"),
        (&["@triton.constexpr_function", "def twice(v):", "    return v * 2"], "x = x + twice(BLOCK) * 0"),
        (&["Pair = collections.namedtuple('Pair', ['a', 'b'])"], "x = x + Pair(1, 2).a * 0"),
        (&["from triton.language.extra import libdevice"], "x = x + libdevice.exp(x) * 0"),
        (
            &["@dataclasses.dataclass", "class Conf:", "    scale: float = 2.0", "CONF = Conf(3.0)"],
            "x = x * CONF.scale",
        ),
    ] {
        assert_eq!(rejected(module, &[kernel], ""), BTreeSet::new(), "{kernel}");
    }
}

/// Planted bug: what a kernel gets as a constant may be a tensor, or hold one, or be a function.
#[test]
fn constants_of_a_kernel_are_constants() {
    let conf = [
        "@dataclasses.dataclass",
        "class Conf:",
        "    t: object = None",
        "@triton.jit",
        "def half(v):",
        "    return v * 0.5",
    ];
    for given in ["x", "[x, y]", "{'x': x}", "Conf(x)", "lambda: y.copy_(x)"] {
        let launch = format!(", C={given}");
        assert!(rejected(&conf, &["C"], &launch).contains("K030"), "{given}: {:?}", rejected(&conf, &["C"], &launch));
    }
    for given in ["1.5", "(1, 2)", "tl.float32", "half", "Conf(2.0)", "x.dtype", "x.shape[0]", "None"] {
        assert_eq!(rejected(&conf, &["C"], &format!(", C={given}")), BTreeSet::new(), "{given}");
    }
}

/// Planted: what a kernel gets is a tensor's method, or something to call with one in it, or nothing but code, by any way that
/// a kernel gets things. Seen: a wrong kernel that has torch do its work passes.
#[test]
fn a_kernel_gets_nothing_to_call() {
    let module = [
        "BOX = [None, None]",
        "def work():",
        "    BOX[0].copy_(BOX[1])",
        "class Op:",
        "    @staticmethod",
        "    def go():",
        "        work()",
        "class Sub(Op):",
        "    size = 4",
        "class Asks:",
        "    def __getattr__(self, name):",
        "        work()",
        "class Kind(enum.IntEnum):",
        "    A = 0",
        "    def go(self):",
        "        work()",
        "@dataclasses.dataclass",
        "class Conf:",
        "    t: object = None",
        "    def go(self):",
        "        work()",
        "@triton.jit",
        "def calls(f):",
        "    f.go()",
    ];
    for (kernel, given) in [
        ("C(x)", "y.copy_"),
        ("C[0](C[1]())", "(y.copy_, x.sigmoid)"),
        ("C[0](C[1]())", "[getattr(y, 'copy_'), x.sigmoid]"),
        ("C.__self__", "y.copy_"),
        ("C(x)", "[].append"),
        ("C(x)", "torch.Tensor.sigmoid"),
        ("C.go()", "Op"),
        ("C.go()", "Sub"),
        ("C.go()", "Op()"),
        ("D = C\n    D.go()", "Op"),
        ("calls(C)", "Op"),
        ("C.t.go()", "Conf(Op)"),
        ("C[0].go()", "(Op, 1)"),
        ("C.value.go()", "tl.constexpr(Op)"),
        ("C.go()", "Conf(1)"),
        ("C.any", "Asks()"),
        ("C.go()", "Kind.A"),
    ] {
        let codes = rejected(&module, &[kernel], &format!(", C={given}"));
        assert!(codes.contains("K030"), "{kernel} with {given}: {codes:?}");
    }
    for (kernel, given) in [("C()", ", **{'C': y.copy_}"), ("C.go()", ", **dict(C=Op)")] {
        let codes = rejected(&module, &[kernel], given);
        assert!(codes.contains("K030"), "{kernel} with {given}: {codes:?}");
    }
    // What it names itself.
    for kernel in ["op = Op\n    op.go()", "calls(Op)", "Conf(3).go()", "work.__call__()", "Op.go()", "Kind.A.go()"] {
        assert!(rejected(&module, &[kernel], "").contains("K030"), "{kernel}");
    }
}

/// Planted: a default, a heuristic or a configuration hands a kernel code, or a tensor. Seen: none of them is an argument.
#[test]
fn nothing_comes_by_another_way() {
    for decorator in [
        "@triton.heuristics({'C': lambda a: a['x_ptr'].sigmoid})",
        "@triton.heuristics({'C': lambda a: a['x_ptr']})",
        "@triton.heuristics({'C': lambda a: work})",
        "@triton.autotune([triton.Config({'C': work})], key=['n'])",
        "@triton.autotune(configs=[triton.Config(kwargs={'C': Op})], key=['n'])",
    ] {
        assert!(tuned(decorator, "0").contains("K030"), "{decorator}: {:?}", tuned(decorator, "0"));
    }
    for decorator in [
        "@triton.heuristics({'C': lambda a: a['n'] % 256 == 0})",
        "@triton.autotune([triton.Config({'C': 1}, pre_hook=lambda nargs: nargs['out_ptr'].zero_())], key=['n'])",
    ] {
        assert_eq!(tuned(decorator, "0"), BTreeSet::new(), "{decorator}");
    }
    for default in ["work", "Op", "(Op,)"] {
        assert!(tuned("", default).contains("K030"), "{default}: {:?}", tuned("", default));
    }
}

/// The rejecting codes of a kernel with this decorator that adds a constant of its own, which nobody hands over.
fn tuned(decorator: &str, default: &str) -> BTreeSet<String> {
    let text = format!(
        "import torch\nimport torch.nn as nn\nimport triton\nimport triton.language as tl\n\n\n\
         class Op:\n    @staticmethod\n    def go():\n        return 1\n\n\ndef work():\n    return 1\n\n\n{decorator}\n\
         @triton.jit\ndef double(x_ptr, out_ptr, n, BLOCK: tl.constexpr, C: tl.constexpr = {default}):\n    \
         i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)\n    x = tl.load(x_ptr + i, mask=i < n)\n    y = C\n    \
         tl.store(out_ptr + i, x * 2.0, mask=i < n)\n\n\n\
         class ModelNew(nn.Module):\n    def forward(self, x):\n        out = torch.empty_like(x)\n        \
         n = x.numel()\n        double[(triton.cdiv(n, 256),)](x, out, n, BLOCK=256)\n        return out\n"
    );
    let candidate = from_python(&text).expect("a candidate");
    let report = lint(&candidate.source, None);
    report.findings.into_iter().filter(|f| f.severity == Severity::Reject).map(|f| f.code).collect()
}

/// Planted: whatever has a method is refused. Seen: settings with a helper for the host are honest.
#[test]
fn settings_with_helpers_pass() {
    let module = [
        "@dataclasses.dataclass(frozen=True)",
        "class Conf:",
        "    scale: float = 2.0",
        "    dims: tuple = ()",
        "    more: tuple = tuple()",
        "    def blocks(self, n):",
        "        return n // 2",
        "class Plain:",
        "    def __init__(self, scale):",
        "        self.scale = scale",
        "class Kind(enum.IntEnum):",
        "    RELU = 1",
        "    GELU = 2",
        "    @classmethod",
        "    def parse(cls, name):",
        "        return cls[name.upper()]",
    ];
    for (kernel, given) in [
        ("x = x * C.scale", "Conf()"),
        ("x = x * C.scale", "Conf(3.0)"),
        ("x = x * C.scale", "Plain(3.0)"),
        ("x = x * C", "Conf(3.0).blocks(n)"),
        ("if C == Kind.RELU:\n        x = x + 0.0", "Kind.parse('relu')"),
        ("if C == Kind.RELU:\n        x = x + 0.0", "Kind(1)"),
        ("if C == Kind.GELU.value:\n        x = x + 0.0", "Kind.RELU"),
        ("x = x.to(C)", "x.dtype"),
        ("x = x * C", "x.element_size()"),
        ("x = x * C", "getattr(self, 'mult', 1)"),
    ] {
        assert_eq!(rejected(&module, &[kernel], &format!(", C={given}")), BTreeSet::new(), "{kernel} with {given}");
    }
}
