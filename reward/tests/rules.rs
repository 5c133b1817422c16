//! Fixtures of the lint rules. `fixtures/reject/*.py` name on their first line the codes that must be among the rejecting
//! findings; `fixtures/accept/*.py` and every warm-start example must have no rejecting finding. A fixture may name its task
//! in its first lines: `# task: l1_relu_12x100`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use reward::extract::{extract, from_python};
use reward::judge::judge;
use reward::lint::{LintReport, PreparedTask, lint, lint_prepared, rules};
use rollout::outcome::{Outcome, Ruling, Severity};
use rollout::task::{Split, TaskSpec};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn files(folder: &Path, extension: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.expect("readable entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .map(|path| {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).expect("readable file"))
        })
        .collect();
    found.sort();
    found
}

fn rejects(report: &LintReport) -> BTreeSet<&str> {
    report.findings.iter().filter(|f| f.severity == Severity::Reject).map(|f| f.code.as_str()).collect()
}

fn shown(report: &LintReport) -> String {
    report
        .findings
        .iter()
        .map(|f| format!("\n    {} {:?} line {}: {}", f.code, f.severity, f.line, f.message))
        .collect()
}

#[test]
fn cheats_are_rejected_by_the_named_rules() {
    let mut wrong = String::new();
    let mut fired = BTreeSet::new();
    let tasks = tasks();
    for (name, text) in files(&root().join("tests/fixtures/reject"), "py") {
        let codes: BTreeSet<&str> =
            text.lines().next().expect("a line").trim_start_matches('#').split_whitespace().collect();
        assert!(!codes.is_empty() && codes.iter().all(|c| c.starts_with('K')), "{name}: first line names no rule");
        let candidate = from_python(&text).expect("a candidate");
        let report = lint_prepared(&candidate.source, named_task(&text, &tasks));
        let found = rejects(&report);
        if !codes.is_subset(&found) {
            wrong.push_str(&format!("\n{name}: expected {codes:?}{}", shown(&report)));
        }
        assert!(!report.functional, "{name}");
        fired.extend(codes.into_iter().map(str::to_owned));
    }
    assert!(wrong.is_empty(), "{wrong}");
    for rule in rules() {
        assert!(fired.contains(rule.code), "{} has no fixture that it rejects", rule.code);
    }
}

#[test]
fn honest_candidates_pass() {
    let mut wrong = String::new();
    let tasks = tasks();
    for (name, text) in files(&root().join("tests/fixtures/accept"), "py") {
        let candidate = from_python(&text).expect("a candidate");
        let report = lint_prepared(&candidate.source, named_task(&text, &tasks));
        if !rejects(&report).is_empty() || !report.syntax || !report.functional {
            wrong.push_str(&format!("\n{name}:{}", shown(&report)));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn warm_start_examples_are_clean() {
    let folder = root().join("../tasks/examples");
    let examples = files(&folder, "md");
    let tasks = tasks();
    assert!(examples.len() >= 100, "{} examples", examples.len());
    let mut wrong = String::new();
    for (name, text) in examples {
        let candidate = extract(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (id, _) = name.rsplit_once("__").expect("a task and a number");
        let task = tasks.get(id).unwrap_or_else(|| panic!("{name}: no such task"));
        for report in [lint(&candidate.source, None), lint_prepared(&candidate.source, Some(task))] {
            if !report.findings.is_empty() {
                wrong.push_str(&format!("\n{name}:{}", shown(&report)));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The task that a fixture names.
fn named_task<'a>(text: &str, tasks: &'a BTreeMap<String, PreparedTask>) -> Option<&'a PreparedTask> {
    let name = text.lines().take(2).find_map(|l| l.strip_prefix("# task: "))?;
    Some(tasks.get(name).unwrap_or_else(|| panic!("no task {name}")))
}

/// All tasks by their id.
fn tasks() -> BTreeMap<String, PreparedTask> {
    let mut all = BTreeMap::new();
    for split in ["train", "validation", "held_out"] {
        for level in ["level1", "level2"] {
            let folder = root().join("../tasks").join(split).join(level);
            all.extend(files(&folder, "py").into_iter().map(|(name, text)| (name, PreparedTask::new(&task(&text)))));
        }
    }
    all
}

fn task(source: &str) -> TaskSpec {
    TaskSpec {
        id: rollout::id::TaskId("t".to_owned()),
        level: 1,
        split: Split::Train,
        tags: Vec::new(),
        source: source.to_owned(),
    }
}

const SCALED: &str = "
import torch
import torch.nn as nn
import triton
import triton.language as tl

@triton.jit
def k(x_ptr, out_ptr, s, n, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    tl.store(out_ptr + offs, tl.load(x_ptr + offs, mask=offs < n) * s, mask=offs < n)

class ModelNew(nn.Module):
    def forward(self, x, s):
        out = torch.empty_like(x)
        k[(1,)](x, out, float(s) * 2, x.numel(), BLOCK=128)
        return out
";

#[test]
fn the_task_tells_which_inputs_are_tensors() {
    assert!(rejects(&lint(SCALED, None)).contains("K006"), "a tensor for all the linter knows");
    let scalar = task("import torch\nN = 4\ndef get_inputs():\n    return [torch.rand(N, N), 3.14]\n");
    assert_eq!(rejects(&lint(SCALED, Some(&scalar))), BTreeSet::new());
    let tensor = task("import torch\ndef get_inputs():\n    x = torch.rand(4)\n    return [x, x]\n");
    assert!(rejects(&lint(SCALED, Some(&tensor))).contains("K006"));
}

/// What a reference of these lines needs of a candidate that only scales: the codes of what is missing.
fn missing(init: &str, forward: &str, head: &str) -> BTreeSet<String> {
    let source = format!(
        "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n{head}\nclass Model(nn.Module):\n    \
         def __init__(self):\n        super().__init__()\n        {init}\n    def forward(self, x):\n        {forward}\n\n\
         def get_inputs():\n    return [torch.rand(4, 4), 2.0]\n"
    );
    let report = lint(SCALED, Some(&task(&source)));
    rejects(&report).into_iter().map(str::to_owned).collect()
}

#[test]
fn the_reference_says_what_is_needed() {
    // SCALED has a product and nothing else.
    for (init, forward) in [
        ("pass", "return torch.softmax(x, -1)"),
        ("pass", "return x.tanh()"),
        ("pass", "return F.relu(x)"),
        ("self.m = nn.Sequential(nn.Linear(4, 4), nn.GELU())", "return self.m(x)"),
        ("self.c = nn.MaxPool2d(2)", "return self.c(x)"),
        ("pass", "return x.amax(1)"),
        ("self.n = nn.LayerNorm(4)", "return self.n(x)"),
    ] {
        assert!(missing(init, forward, "").contains("K031"), "{init}; {forward}");
    }
    for (init, forward) in [
        ("self.l = nn.Linear(4, 4)", "return self.l(x)"),
        ("pass", "return x @ x.t()"),
        ("pass", "return x.sum(1)"),
        // Simplified away, or not certain to run.
        ("pass", "return torch.log(torch.exp(x))"),
        ("pass", "return F.relu(torch.square(x))"),
        ("pass", "return x.sum(1, keepdim=True).softmax(1)"),
        ("self.unused = nn.Softmax(-1)", "return x * 2"),
        ("self.d = nn.Dropout(0.5)", "return self.d(x)"),
        ("pass", "return x.tanh() if x.dim() == 3 else x * 2"),
        ("pass", "return torch.einsum('ij->ji', x)"),
    ] {
        assert_eq!(missing(init, forward, ""), BTreeSet::new(), "{init}; {forward}");
    }
    assert!(missing("pass", "return x * 2", "REQUIRED_OPS = ['softmax']").contains("K031"));
    assert_eq!(missing("pass", "return x * 2", "REQUIRED_OPS = ['matmul']"), BTreeSet::new());
}

#[test]
fn an_unknown_required_operation_is_shown() {
    let odd = task("REQUIRED_OPS = ['frobnicate']\ndef get_inputs():\n    return [torch.rand(4), 2.0]\nimport torch\n");
    let report = lint(SCALED, Some(&odd));
    let warned = report.findings.iter().any(|f| f.code == "K031" && f.severity == Severity::Warn);
    assert!(warned && report.functional, "{}", shown(&report));
}

#[test]
fn judge_admits_rejects_and_says_why() {
    let task = task("import torch\ndef get_inputs():\n    return [torch.rand(4), 2.0]\n");
    let answer = format!("<think>scale it</think>\n```python{SCALED}```\n");
    let Ruling::Admit { candidate, findings } = judge(&answer, &task) else {
        panic!("{:?}", judge(&answer, &task));
    };
    assert!(findings.is_empty() && candidate.source.starts_with("import torch\n"));
    let cheat = answer.replace("return out", "return torch.relu(x)");
    let Ruling::Reject { candidate: Some(_), findings, outcome } = judge(&cheat, &task) else {
        panic!("{:?}", judge(&cheat, &task));
    };
    assert_eq!(findings[0].code, "K005");
    assert_eq!(findings[0].line, 15);
    assert!(matches!(outcome, Outcome::Rejected { reason } if reason.starts_with("K005 (line 15): torch.relu")));
    let broken = answer.replace("return out", "return (out");
    let ruling = judge(&broken, &task);
    assert!(
        matches!(&ruling, Ruling::Reject { candidate: Some(_), outcome: Outcome::Unparsed { .. }, .. }),
        "{ruling:?}"
    );
    let none = judge("I would rather not.", &task);
    assert!(matches!(&none, Ruling::Reject { candidate: None, outcome: Outcome::Unparsed { .. }, .. }), "{none:?}");
}

#[test]
fn every_rule_has_its_page() {
    let mut codes = BTreeSet::new();
    for rule in rules().iter().chain(reward::rubric::rules()).chain(reward::evidence::DOCS) {
        assert!(codes.insert(rule.code), "{} is there twice", rule.code);
        let heading = format!("# {}: {}\n", rule.code, rule.title);
        assert!(rule.page.starts_with(&heading), "docs/rules/{}.md must begin with '{}'", rule.code, heading.trim());
        for part in ["## What it finds", "## Why", "## Accepted"] {
            assert!(rule.page.contains(part), "docs/rules/{}.md lacks '{part}'", rule.code);
        }
        let examples = ["## Rejected", "## Warned of"].iter().filter(|part| rule.page.contains(**part)).count();
        assert_eq!(examples, 1, "docs/rules/{}.md says either what it rejects or what it warns of", rule.code);
    }
    let pages: BTreeSet<String> =
        files(&root().join("../docs/rules"), "md").into_iter().map(|(name, _)| name).collect();
    assert_eq!(pages, codes.iter().map(|c| (*c).to_owned()).collect(), "one page a rule");
}
