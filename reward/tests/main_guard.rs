//! What stands under `if __name__ == "__main__":` at the module's level never runs: it refuses nothing, and it makes nothing
//! honest.

use std::collections::BTreeSet;

use reward::extract::from_python;
use reward::lint::lint;
use rollout::outcome::Severity;

/// The rejecting codes of a candidate that doubles x, with these lines before the class, in forward and at the end.
fn rejected(module: &str, forward: &str, end: &str) -> BTreeSet<String> {
    let lines: String = forward.lines().map(|line| format!("        {line}\n")).collect();
    let text = format!(
        "import torch\nimport torch.nn as nn\nimport triton\nimport triton.language as tl\n\n\n\
         @triton.jit\ndef double(x_ptr, out_ptr, n, BLOCK: tl.constexpr):\n    \
         i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)\n    \
         tl.store(out_ptr + i, tl.load(x_ptr + i, mask=i < n) * 2.0, mask=i < n)\n\n\n{module}\n\n\n\
         class ModelNew(nn.Module):\n    def forward(self, x):\n        n = x.numel()\n        \
         out = torch.empty_like(x)\n{lines}\n\n{end}\n"
    );
    let candidate = from_python(&text).expect("a candidate");
    let report = lint(&candidate.source, None);
    report.findings.into_iter().filter(|f| f.severity == Severity::Reject).map(|f| f.code).collect()
}

const HONEST: &str = "double[(triton.cdiv(n, 256),)](x, out, n, BLOCK=256)\nreturn out";
const TEST: &str = "    import sys\n    import time\n    torch.manual_seed(0)\n    x = torch.randn(64, 64)\n    \
    start = torch.cuda.Event(enable_timing=True)\n    ms = triton.testing.do_bench(lambda: ModelNew()(x))\n    \
    sys.exit(0 if torch.allclose(ModelNew()(x), torch.relu(x)) else 1)";

#[test]
fn a_self_test_under_the_guard_is_free() {
    let end = format!("if __name__ == \"__main__\":\n{TEST}");
    assert_eq!(rejected("", HONEST, &end), BTreeSet::new());
}

/// Planted: tests that are true, or may be made true, when the file is imported. Seen: their bodies count as never run.
#[test]
fn what_runs_is_judged() {
    let patch = "torch.manual_seed(0)";
    for guard in [
        "if __name__ != \"__main__\":\n    PATCH",
        "if \"__main__\" != __name__:\n    PATCH",
        "if not __name__ == \"__main__\":\n    PATCH",
        "if __name__ == \"candidate\":\n    PATCH",
        "if __name__ == \"__main__\" or True:\n    PATCH",
        "if __name__ == \"__main__\" != 0 or 1:\n    PATCH",
        "if __name__ == \"__main__\":\n    pass\nelse:\n    PATCH",
        "if __name__ == \"__main__\":\n    pass\nelif x := 1:\n    PATCH",
        "if False:\n    pass\nelif __name__ == \"__main__\":\n    PATCH",
        "__name__ = \"__main__\"\nif __name__ == \"__main__\":\n    PATCH",
        "for __name__ in [\"__main__\"]:\n    pass\nif __name__ == \"__main__\":\n    PATCH",
        "(__name__ := \"__main__\")\nif __name__ == \"__main__\":\n    PATCH",
        "from math import pi as __name__\nif __name__ == \"__main__\":\n    PATCH",
        "del __name__\nif __name__ == \"__main__\":\n    PATCH",
        "def rename():\n    global __name__\n    __name__ = \"__main__\"\nrename()\nif __name__ == \"__main__\":\n    PATCH",
        "globals()[\"__name__\"] = \"__main__\"\nif __name__ == \"__main__\":\n    PATCH",
        "globals().update(dict(__name__=\"__main__\"))\nif __name__ == \"__main__\":\n    PATCH",
        "locals()[\"__na\" + \"me__\"] = \"__main__\"\nif __name__ == \"__main__\":\n    PATCH",
        "def f():\n    pass\nf.__globals__[\"__na\" + \"me__\"] = \"__main__\"\nif __name__ == \"__main__\":\n    PATCH",
        "class __name__:\n    pass\nif __name__ == \"__main__\":\n    PATCH",
        "match \"__main__\":\n    case __name__:\n        pass\nif __name__ == \"__main__\":\n    PATCH",
        "from math import *\nif __name__ == \"__main__\":\n    PATCH",
        "def later(__name__):\n    if __name__ == \"__main__\":\n        PATCH\nlater(\"__main__\")",
        "class Box:\n    if __name__ == \"__main__\":\n        PATCH",
    ] {
        let codes = rejected("", HONEST, &guard.replace("PATCH", patch));
        assert!(codes.contains("K026"), "{guard}: {codes:?}");
    }
}

/// Planted: something honest of the same name under the guard. Seen: it hides what forward really does, or stands in for it.
#[test]
fn what_the_guard_binds_is_never_bound() {
    for (module, forward, end, code) in [
        ("work = torch.relu", "return work(x)", "    def work(x):\n        return x", "K005"),
        ("", "return torch.relu(x)", "    class torch:\n        relu = ModelNew", "K005"),
        ("def work(x):\n    return x * 2.0", "return work(x)", "    work = double", "K006"),
        ("big = 0", "if not big:\n    return x * 2.0\nreturn out", "    big = 1", "K006"),
        ("", "return work(x)", "    def work(x):\n        return x", "K022"),
        ("", "import sys\nreturn out", "    import math as sys", "K012"),
    ] {
        let end = format!("if __name__ == \"__main__\":\n{end}");
        let codes = rejected(module, forward, &end);
        assert!(codes.contains(code), "{module} / {forward}: {codes:?}");
    }
    let honest = "if __name__ == \"__main__\":\n    double = torch.relu\n    n = triton = tl = None";
    assert_eq!(rejected("", HONEST, honest), BTreeSet::new());
}

#[test]
fn a_kernel_under_the_guard_is_no_kernel() {
    let text = "import torch\nimport torch.nn as nn\nimport triton\nimport triton.language as tl\n\n\n\
        class ModelNew(nn.Module):\n    def forward(self, x):\n        return torch.empty_like(x)\n\n\n\
        if __name__ == \"__main__\":\n    @triton.jit\n    def k(x):\n        tl.store(x, tl.load(x))\n";
    let report = lint(&from_python(text).expect("a candidate").source, None);
    assert!(report.findings.iter().any(|f| f.code == "K002"));
}
