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
