//! The linter ends, without a panic, on any text: random bytes, random Python, broken honest code, absurd depth.

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use proptest::prelude::*;

use reward::extract::MAX_SOURCE_BYTES;
use reward::lint::lint;
use rollout::outcome::Severity;

fn fixtures() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut texts = Vec::new();
    for folder in ["accept", "reject"] {
        let mut paths: Vec<_> =
            fs::read_dir(root.join(folder)).expect("fixtures").map(|e| e.expect("readable entry").path()).collect();
        paths.sort();
        texts.extend(paths.into_iter().map(|p| fs::read_to_string(p).expect("readable file")));
    }
    texts
}

/// Lints on a small stack, as a worker thread has, and within a time that no quadratic walk would keep.
fn survives(name: &str, text: String) -> bool {
    let (done, result) = mpsc::channel();
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(move || done.send(lint(&text, None)));
    let report = result.recv_timeout(Duration::from_secs(15)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(thread.expect("a thread").join().is_ok_and(|sent| sent.is_ok()));
    report.findings.iter().any(|f| f.code == "K001" && f.severity == Severity::Reject)
}

#[test]
fn depth_is_refused_before_it_hurts() {
    let n = MAX_SOURCE_BYTES / 16;
    let cases: Vec<(&str, String)> = vec![
        ("brackets", "(".repeat(n)),
        ("closed brackets", format!("x = {}{}", "(".repeat(n), ")".repeat(n))),
        ("lists", format!("x = {}{}", "[".repeat(n), "]".repeat(n))),
        ("braces", format!("x = {}1{}", "{1:".repeat(n), "}".repeat(n))),
        ("attributes", format!("x = a{}", ".b".repeat(n))),
        ("subscripts", format!("x = a{}", "[0]".repeat(n))),
        ("calls", format!("x = a{}", "()".repeat(n))),
        ("sum", format!("x = 1{}", " + 1".repeat(n))),
        ("power", format!("x = 1{}", " ** 1".repeat(n))),
        ("not", format!("x = {}1", "not ".repeat(n))),
        ("minus", format!("x = {}1", "-".repeat(n))),
        ("lambda", format!("x = {}1", "lambda: ".repeat(n))),
        ("lambda with commas", format!("x = {}1", "lambda a, b: ".repeat(n))),
        ("conditional", format!("x = {}1", "1 if a else ".repeat(n))),
        ("comparison", format!("x = 1{}", " < 1".repeat(n))),
        ("await", format!("async def f():\n  {}x", "await ".repeat(n))),
        ("walrus", format!("{}1{}", "(x := ".repeat(n), ")".repeat(n))),
        ("stars", format!("f({}x)", "*".repeat(n))),
        ("f-string", format!("x = {}1{}", "f'{".repeat(n / 2), "}'".repeat(n / 2))),
        ("f-string format", format!("x = f'{{1:{}{}}}'", "{1:".repeat(n / 2), "}".repeat(n / 2))),
        ("blocks", (0..700).map(|d| format!("{}if x:\n", " ".repeat(d))).collect()),
        ("functions", (0..300).map(|d| format!("{}def f():\n", " ".repeat(d))).collect()),
        ("decorators", format!("{}\ndef f(): pass", "@(".repeat(n))),
        ("match", format!("match x:\n case {}1{}: pass", "[".repeat(n), "]".repeat(n))),
        ("match or", format!("match x:\n case 1{}: pass", " | 1".repeat(n))),
        ("match class", format!("match x:\n case {}1{}: pass", "A(".repeat(n), ")".repeat(n))),
        ("assignment chain", format!("{}1", "x = ".repeat(n))),
        ("type parameters", format!("def f[{}]: pass", "T: (".repeat(n))),
        ("annotations", format!("x: {}int{}", "list[".repeat(n), "]".repeat(n))),
        ("nul", "x = 1\0".to_owned()),
    ];
    for (name, text) in cases {
        assert!(text.len() <= MAX_SOURCE_BYTES, "{name} would be refused for its length");
        assert!(survives(name, text), "{name} was accepted as Python");
    }
}

#[test]
fn width_is_no_depth() {
    let rows = |n: usize, row: &str| row.repeat(n);
    for (name, text) in [
        ("long list", format!("x = [{}]", "1.5, ".repeat(40_000))),
        ("long dict", format!("x = {{{}}}", "'a': 1 + 2, ".repeat(15_000))),
        ("long call", format!("f({})", "a=b.c(d), ".repeat(20_000))),
        ("many lines", rows(10_000, "x = a.b(c)[0] + 1\n")),
        ("many functions", rows(5_000, "def f(a, b=1):\n    return a\n\n")),
        ("elif chain", format!("if a:\n    pass\n{}", "elif b:\n    pass\n".repeat(8_000))),
        ("strings", format!("x = ({})", "'a' 'b'\n".repeat(20_000))),
        ("comments", rows(30_000, "# ((((\n")),
        ("one long string", format!("x = '{}'", "(".repeat(200_000))),
        ("ninety brackets", format!("x = {}1{}", "(".repeat(90), ")".repeat(90))),
    ] {
        assert!(!survives(name, text), "{name} was refused");
    }
    assert!(survives("too long", "x = 1\n".repeat(MAX_SOURCE_BYTES / 6 + 1)));
}

#[test]
fn work_is_bounded() {
    // Calls that double, branches that double, values that grow: the step budget ends them.
    let head = "import torch\nimport torch.nn as nn\n";
    let tail = "class ModelNew(nn.Module):\n    def forward(self, x):\n        return f0(x)\n";
    let calls: String =
        (0..30).map(|i| format!("def f{i}(x):\n    f{}(x)\n    return f{}(x)\n", i + 1, i + 1)).collect();
    survives("doubling calls", format!("{head}{calls}def f30(x):\n    return x\n{tail}"));
    let branches: String =
        (0..2_000).map(|i| format!("    if x.a{i}:\n        y{i} = x\n    else:\n        y{i} = [x]\n")).collect();
    survives("branches", format!("{head}def f0(x):\n{branches}    return x\n{tail}"));
    let lists: String = (0..3_000).map(|_| "    x = [x, x]\n".to_owned()).collect();
    survives("growing lists", format!("{head}def f0(x):\n{lists}    return x\n{tail}"));
    let sums: String = (0..3_000).map(|_| "    x = x + x\n".to_owned()).collect();
    survives("growing sums", format!("{head}def f0(x):\n    x = [x]\n{sums}    return x\n{tail}"));
    let strings: String = (0..3_000).map(|_| "    s = s + s\n".to_owned()).collect();
    survives("growing strings", format!("{head}def f0(x):\n    s = 'a'\n{strings}    return x\n{tail}"));
    let loops: String = (0..80).map(|d| format!("{}for i in x:\n", "  ".repeat(d + 1))).collect();
    survives("nested loops", format!("{head}def f0(x):\n{loops}{}x = [x]\n    \n{tail}", "  ".repeat(81)));
    survives("recursion", format!("{head}def f0(x):\n    return f0(f0(x))\n{tail}"));
    let classes: String = (1..300).map(|i| format!("class C{i}(C{}):\n    pass\n", i - 1)).collect();
    survives(
        "base classes",
        format!("{head}class C0(nn.Module):\n    pass\n{classes}class ModelNew(C299):\n    pass\n"),
    );
    survives("own base", format!("{head}class ModelNew(ModelNew):\n    def forward(self, x):\n        return self\n"));
    let lambdas = "    f = lambda: f\n".repeat(12_000);
    survives("nested closures", format!("{head}def f0(x):\n    f = x\n{lambdas}    return f\n{tail}"));
    let names: String = (0..9_000).map(|i| format!("    f{i} = lambda: x\n")).collect();
    survives("many closures", format!("{head}def f0(x):\n{names}    return x\n{tail}"));
    let chain = "    x = x.a\n".repeat(20_000);
    survives("attribute chain", format!("{head}def f0(x):\n    x = [x]\n{chain}    return x\n{tail}"));
    let partials = "    x = partial(x)\n".repeat(12_000);
    survives("partials", format!("{head}from functools import partial\ndef f0(x):\n{partials}    return x()\n{tail}"));
    let classes = "    class A:\n        b = x\n    x = A()\n    x.c = A\n".repeat(4_000);
    survives("classes", format!("{head}def f0(x):\n{classes}    return x\n{tail}"));
    let kernels: String = (0..30)
        .map(|i| format!("@triton.jit\ndef k{i}(p):\n    k{}(p)\n    k{}(p)\n    k{}(p)\n", i + 1, i + 1, i + 1))
        .collect();
    survives(
        "doubling kernels",
        format!(
            "{head}import triton\n{kernels}@triton.jit\ndef k30(p):\n    pass\ndef f0(x):\n    k0[(1,)](x)\n    return x\n{tail}"
        ),
    );
}

fn mutated() -> impl Strategy<Value = String> {
    let all = fixtures();
    (0..all.len(), prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..6u8), 1..8))
        .prop_map(move |(which, edits)| {
            let mut chars: Vec<char> = all[which].chars().collect();
            for (from, to, kind) in edits {
                if chars.is_empty() {
                    break;
                }
                let (a, b) = (from.index(chars.len()), to.index(chars.len()));
                let (a, b) = (a.min(b), a.max(b).min(a.min(b) + 60));
                match kind {
                    0 => drop(chars.drain(a..b)),
                    1 => chars.extend_from_within(a..b),
                    2 => chars.swap(a, b),
                    3 => chars.insert(a, ['(', ')', '[', ':', '\n', ' ', '\'', '*', '=', '@', '\u{2028}', '#'][b % 12]),
                    4 => {
                        let piece: Vec<char> = chars[a..b].to_vec();
                        let at = b % chars.len();
                        chars.splice(at..at, piece);
                    }
                    _ => chars.truncate(b.max(1)),
                }
            }
            chars.into_iter().collect()
        })
}

fn lines_shuffled() -> impl Strategy<Value = String> {
    let all: Vec<String> = fixtures().iter().flat_map(|t| t.lines().map(str::to_owned)).collect();
    prop::collection::vec(any::<prop::sample::Index>(), 1..40)
        .prop_map(move |picks| picks.iter().map(|p| all[p.index(all.len())].clone() + "\n").collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in any::<String>()) {
        lint(&text, None);
    }

    #[test]
    fn python_looking_text(text in "([a-c.=+*@:(){}\\[\\]\"'#,0 \n]|    |def |class |if |for |in |return |lambda |import |self|torch){0,120}") {
        lint(&text, None);
    }

    #[test]
    fn broken_candidates(text in mutated()) {
        lint(&text, None);
    }

    #[test]
    fn shuffled_candidates(text in lines_shuffled()) {
        lint(&text, None);
    }

    #[test]
    fn findings_name_lines_that_exist(text in mutated()) {
        let lines = text.split('\n').count() as u32;
        for finding in lint(&text, None).findings {
            prop_assert!(finding.line <= lines, "{finding:?}");
        }
    }
}
