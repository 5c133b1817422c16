//! What a hostile text may cost: a stated processor time for each KiB, whatever it is made of. The interpreter's own step
//! budget bounds what is followed; this bounds everything around it.

use std::time::Duration;

use reward::extract::MAX_SOURCE_BYTES;
use reward::lint::{LintReport, PreparedTask, lint, lint_prepared};
use rollout::outcome::Severity;
use rollout::task::{Split, TaskSpec};

/// Measured at most 2.5 ms a KiB, and 55 ms for all that is bounded by steps, on one core of a small machine.
const BASE: Duration = Duration::from_millis(600);
const PER_KIB: Duration = Duration::from_millis(25);

const HEAD: &str = "
import torch
import torch.nn as nn
import triton
import triton.language as tl

@triton.jit
def k(x_ptr, out_ptr):
    tl.store(out_ptr, tl.exp(tl.load(x_ptr)))
";
const TAIL: &str = "
class ModelNew(nn.Module):
    def forward(self, x):
        return f0(x)
";

/// Time this thread has spent on a processor: what else the machine does does not count.
fn spent() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel keeps the time of threads");
    Duration::from_nanos(text.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number"))
}

/// Lints on a small stack within the time that a text of this length may take.
fn cost(name: &str, text: String) -> LintReport {
    let allowed = BASE + PER_KIB * (text.len() as u32).div_ceil(1024);
    let work = move || {
        let start = spent();
        let report = lint(&text, None);
        (report, spent() - start)
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(work).expect("a thread");
    let (report, took) = thread.join().unwrap_or_else(|_| panic!("{name}: the linter panicked"));
    assert!(took <= allowed, "{name}: {took:?}, allowed are {allowed:?}");
    report
}

/// A candidate around the code of `f0`, cut off at the limit.
fn candidate(code: &str) -> String {
    let mut text = format!("{HEAD}{code}{TAIL}");
    text.truncate(MAX_SOURCE_BYTES);
    text
}

fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(line).collect()
}

fn is_python(report: &LintReport) -> bool {
    report.findings.iter().all(|f| f.code != "K001" || f.severity != Severity::Reject)
}

#[test]
fn a_megabyte_is_refused_without_being_read() {
    let megabyte = 1 << 20;
    for (name, text) in [
        ("brackets", "(".repeat(megabyte)),
        ("strings", format!("s = 'a'{}", " + 'a'".repeat(megabyte / 6))),
        ("lines", "x = 1\n".repeat(megabyte / 6)),
        ("attributes", format!("a{}", ".a".repeat(megabyte / 2))),
        ("calls", format!("f{}", "()".repeat(megabyte / 2))),
        ("tuple", format!("x = ({})", "1, ".repeat(megabyte / 3))),
    ] {
        assert!(!is_python(&cost(name, text)), "{name}");
    }
}

#[test]
fn long_texts_cost_what_their_length_allows() {
    let forward = |body: String| format!("def f0(x):\n{body}    return x\n");
    for (name, code) in [
        ("ten thousand lines", format!("{}{}", lines(10_000, |i| format!("v{i} = {i} + 1\n")), forward(String::new()))),
        ("lines in forward", forward(lines(6_000, |i| format!("    v{i} = torch.empty_like(x)\n")))),
        ("launches", forward("    o = torch.empty_like(x)\n    k[(1,)](x, o)\n".repeat(4_000))),
        (
            "elif",
            forward(format!(
                "    if x.a:\n        pass\n{}",
                lines(5_000, |i| format!("    elif x == {i}:\n        pass\n"))
            )),
        ),
        (
            "cases",
            forward(format!(
                "    match x:\n{}",
                lines(4_000, |i| format!("        case [a{i}, 1]:\n            pass\n"))
            )),
        ),
        ("a huge tuple", format!("t = ({})\n{}", "torch.empty(1), ".repeat(14_000), forward(String::new()))),
        ("a huge dict", format!("t = {{{}}}\n{}", "'a': torch.empty(1), ".repeat(11_000), forward(String::new()))),
        ("sums of text", forward("    s = 'a' + 'b'\n    s = s + s\n".repeat(8_000))),
        (
            "names for names",
            format!("a0 = torch\n{}{}", lines(9_000, |i| format!("a{} = a{i}.x\n", i + 1)), forward(String::new())),
        ),
        ("linked names", forward(lines(3_000, |i| format!("    b{i} = b{}\n    b{i}[0] = 1\n", i * 7 % 3_000)))),
        ("arguments", lines(4_000, |i| format!("def f{i}(p{i}):\n    z(y{i})\n    y{i}[0] = 1\n"))),
        ("kept attributes", forward(lines(4_000, |i| format!("    k.a{i} = x\n")))),
        (
            "objects in places",
            format!("class C:\n    pass\no = C()\n{}", forward(lines(5_000, |i| format!("    o.a{i} = C()\n")))),
        ),
        (
            "calls on what is not known",
            forward(lines(2_500, |i| format!("    b{i} = b{}\n    b{i}.go(len(b{i}))\n", i * 7 % 2_500))),
        ),
        (
            "never called",
            format!(
                "{}{}",
                lines(3_000, |i| format!("def u{i}(x):\n    return u{}\n", i + 1)),
                forward("    u0\n".into())
            ),
        ),
        (
            "kept iterators",
            format!(
                "class C:\n    pass\no = C()\n{}{}",
                lines(2_000, |i| format!("o.a{i} = iter([1, 2])\n")),
                forward(lines(2_000, |i| format!("    for y in o.a{i}:\n        break\n")))
            ),
        ),
        (
            "handed over",
            format!(
                "import logging\n{}{}",
                "logging.x(lambda a: logging.y(a))\n".repeat(3_000),
                forward(String::new())
            ),
        ),
        ("watched names", format!("import os\n{}{}", "os.environ\n".repeat(20_000), forward(String::new()))),
    ] {
        assert!(is_python(&cost(name, candidate(&code))), "{name} is not Python");
    }
}

#[test]
fn what_doubles_is_cut_off() {
    let forward = |body: &str| format!("def f0(x):\n{body}    return x\n");
    let double = |i: usize| format!("def f{i}(x):\n    f{n}(x)\n    return f{n}(x)\n", n = i + 1);
    let everyone = |i: usize| format!("def f{i}(x):\n{}    return x\n", lines(30, |j| format!("    x = f{j}(x)\n")));
    let wide = |i: usize| format!("class C{}({}):\n    pass\n", i + 1, format!("C{i}, ").repeat(30));
    let helper =
        |i: usize| format!("@triton.jit\ndef g{}(x):\n{}    return x\n", i + 1, format!("    x = g{i}(x)\n").repeat(6));
    let launched = "    o = torch.empty_like(x)\n    q[(1,)](x, o)\n";
    for (name, code) in [
        ("calls of two", format!("{}def f200(x):\n    return x\n", lines(200, double))),
        ("everyone calls everyone", lines(30, everyone)),
        ("bases of bases", format!("class C0:\n    pass\n{}{}", lines(80, wide), forward("    C80().missing\n"))),
        (
            "helpers of kernels",
            format!(
                "@triton.jit\ndef g0(x):\n    return x * x\n{}@triton.jit\ndef q(x_ptr, o_ptr):\n    \
                 tl.store(o_ptr, g14(tl.load(x_ptr)))\n{}",
                lines(14, helper),
                forward(launched)
            ),
        ),
        (
            "a helper of many kernels",
            format!(
                "@triton.jit\ndef h(x_ptr, o_ptr):\n    v = tl.load(x_ptr)\n{}{}{}",
                "    v = v * v + v\n".repeat(2_000),
                lines(1_500, |i| format!("@triton.jit\ndef q{i}(x_ptr, o_ptr):\n    h(x_ptr, o_ptr)\n")),
                forward(&lines(1_500, |i| format!("    q{i}[(1,)](x, x)\n")))
            ),
        ),
        (
            "hooks of hooks",
            format!(
                "def h(a):\n    k[(1,)](a['x_ptr'], a['out_ptr'])\n    return 1\n{}{}",
                lines(1_000, |i| format!("c{i} = triton.Config({{}}, pre_hook=lambda a: h(a))\n")),
                forward(&"    k[(1,)](x, x)\n".repeat(3_000))
            ),
        ),
        (
            "comprehensions",
            forward(&format!("    a = [x] * 1\n    b = {}x{}\n", "[".repeat(40), " for y in (x, x, x, x)]".repeat(40))),
        ),
        (
            "generators",
            format!(
                "def g0(x):\n    yield x\n{}{}",
                lines(60, |i| format!("def g{}(x):\n    yield from g{i}(x)\n    yield from g{i}(x)\n", i + 1)),
                forward("    list(g60(x))\n")
            ),
        ),
    ] {
        assert!(is_python(&cost(name, candidate(&code))), "{name} is not Python");
    }
}

#[test]
fn a_task_is_read_within_bounds_too() {
    let forward = lines(5_000, |i| format!("        x = self.m{i}(x) + torch.relu(x)\n"));
    let parts = lines(2_000, |i| format!("def g{i}(x):\n    return g{}(g{}(x))\n", i * 7 % 2_000, i * 3 % 2_000));
    for body in [forward, format!("        return g0(x)\n{parts}")] {
        let mut source = format!("import torch\nclass Model(torch.nn.Module):\n    def forward(self, x):\n{body}");
        source.truncate(MAX_SOURCE_BYTES);
        let id = rollout::id::TaskId("t".to_owned());
        let task = TaskSpec { id, level: 1, split: Split::Train, tags: Vec::new(), source };
        let start = spent();
        let prepared = PreparedTask::new(&task);
        lint_prepared(HEAD, Some(&prepared));
        let took = spent() - start;
        assert!(took <= BASE + PER_KIB * 256, "{took:?}");
    }
}
