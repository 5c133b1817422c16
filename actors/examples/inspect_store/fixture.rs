//! A small store with hostile answers: what a model could write to break out of the page, the table or the terminal.

use std::path::Path;
use std::sync::Arc;

use actors::bench::standins;
use actors::config::Settings;
use actors::store::rows::{EndingRow, PhaseTag, StepRow};
use actors::store::{
    FaultRow, HappeningRow, Op, RowPatch, SampleRow, SpanRow, StoreConfig, StoreError, StoreHandle, TokenScores, Writer,
};
use rollout::completion::{Completion, Finish, PolicySpan};
use rollout::event::Ending;
use rollout::id::{Attempt, GroupId, PolicyVersion, RolloutId, StepId, TaskId};
use rollout::outcome::{Finding, Outcome, Severity};
use rollout::reward::{Advantage, Reward};
use rollout::task::Split;
use serde_json::json;

/// If any of these is ever markup, `window.hacked` is set, or an element with the id `hacked` exists.
pub const HOSTILE: &[&str] = &[
    "<script>window.hacked = 1</script>",
    "</pre></section><img src=x onerror=\"window.hacked=1\" id=hacked>",
    "</textarea></title></style><svg onload=window.hacked=1 id=hacked>",
    "<a href=\"javascript:window.hacked=1\" id=hacked>click</a>",
    "--><iframe srcdoc=\"<script>parent.hacked=1</script>\" id=hacked></iframe>",
    "{{constructor.constructor('window.hacked=1')()}} ${window.hacked=1} `${window.hacked=1}`",
    "right-to-left \u{202e}cipsuom\u{202c} and \u{2066}isolates\u{2069}, zero\u{200b}width, \u{feff}mark",
    "terminal \u{1b}[2J\u{1b}]0;owned\u{7}\u{1b}[31mred\u{1b}[0m \u{9b}31m and \u{8}\u{8}\u{8}backspaces\rreturn",
];

/// Opens a store and says what a run says at its beginning.
pub fn begin(folder: &Path) -> Result<Writer, Box<dyn std::error::Error>> {
    std::fs::create_dir_all(folder)?;
    let writer = Writer::start(StoreConfig::new(folder.to_path_buf()), Box::new(|e| eprintln!("{e}")))?;
    let config = Settings::builtin()?.resolve()?;
    let tasks: Vec<_> = standins::tasks(3, Split::Train).iter().map(|t| (*t.spec).clone()).collect();
    let meta = |key, value| Op::Meta { key, value };
    writer.handle().send(vec![
        meta("config", config.to_toml()),
        meta("tasks", serde_json::to_string(&tasks)?),
        meta("version", "0.1.0".into()),
        meta("secret", SECRET.into()),
        meta("started_at", now().to_string()),
        meta("done.eval_before", "1".into()),
    ])?;
    Ok(writer)
}

/// Of the executors' inputs: no viewer may show it.
pub const SECRET: &str = "never-shown-0123456789";

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// One ended rollout for each hostile text, which is in its answer, its task's name, its verdict's message; then some
/// steps and faults. The first free id.
pub fn hostile(handle: &StoreHandle) -> Result<u64, StoreError> {
    for (id, text) in (0u64..).zip(HOSTILE) {
        let task = TaskId(format!("task {text}"));
        handle.send(vec![Op::Prompt { task: task.clone(), text: format!("ask {text}"), tokens: vec![1, 2] }])?;
        handle.send(vec![row(
            id,
            RowPatch::Issued {
                phase: PhaseTag::Train,
                group: GroupId(id / 4),
                task: Arc::new(task),
                seed: u64::MAX - id,
                attempt: Attempt(1),
            },
        )])?;
        let answer =
            format!("<think>{text}</think>\n```python\nimport torch\nTEXT = r'''{text}'''  # {text}\n```\n{text}\n");
        handle.send(finished(id, &answer))?;
    }
    let fault = |n: u64| FaultRow {
        rollout: Some(RolloutId(n)),
        attempt: Some(Attempt(1)),
        code: "F103".into(),
        message: HOSTILE[n as usize].into(),
        at_ms: now(),
    };
    handle.send((0..4).map(|n| Op::Fault(fault(n))).collect())?;
    handle.send((1..=8).map(step).collect())?;
    handle.send(notes())?;
    Ok(HOSTILE.len() as u64)
}

pub fn step(n: u64) -> Op {
    Op::Step(Box::new(StepRow {
        step: StepId(n),
        policy: PolicyVersion(n),
        applied: true,
        report: serde_json::json!({ "mismatch_kl": 1e-4 * n as f64, "entropy_plan": 0.9, "entropy_code": 0.1, "ess": 1.0 }),
        batch: serde_json::json!({ "reward_code": 0.1 * n as f64, "reward_plan": 0.1 * n as f64, "staleness_mean": 0.5 }),
        at_ms: now(),
    }))
}

/// Lanes, queues, a GPU and happenings, with hostile names.
fn notes() -> Vec<Op> {
    let at = now();
    let span = |n: u64| SpanRow {
        id: 1 + n,
        lane: if n.is_multiple_of(2) { "executor 0".into() } else { format!("{}/executor 65536", HOSTILE[n as usize]) },
        rollout: Some(n),
        attempt: Some(1),
        began_ms: at - 9_000 + 1_000 * n,
        // The last one goes on.
        ended_ms: (n < 7).then_some(at - 8_100 + 1_000 * n),
        stages: [("reference", 0), ("compile", 100), ("time", 500)].map(|(name, ms)| (name.to_string(), ms)).into(),
        ending: (n < 7).then(|| if n == 3 { "F103".into() } else { "report".into() }),
    };
    let mut ops: Vec<Op> = (0..8).map(|n| Op::Span(span(n))).collect();
    for n in 0..10 {
        let at_ms = at - 10_000 + 1_000 * n;
        let sample = |source: &str, value| Op::Sample(SampleRow { at_ms, source: source.into(), value });
        ops.extend([
            sample("run", json!({ "generators": 3, "judge": 0, "executors": 2, "rest": n, "learner": 0, "credits": 64,
                "credits_in_use": 5 + n, "mailbox_wait_ms": 1, "mailbox_orchestrator": n % 3, "mailbox_generators": 0, "mailbox_judge": 0,
                "mailbox_pool": n % 2, "mailbox_learner": 0, "store_batches": 0, "scored_per_s": 4.5, "notes_dropped": 0 })),
            sample("pool", json!({ "executors": 2, "busy": 1, "queued": n, "oldest_ms": 10 * n, "mailbox_wait_ms": 0,
                "nodes": [{ "name": HOSTILE[1], "executors": 1, "busy": 1, "state": "working", "answered": n, "last_answer_at": at_ms }] })),
            sample("gpu 0", json!({ "uuid": "GPU-0", "name": HOSTILE[0], "position": 0, "of": 1, "sm_mhz": 1_900 + n,
                "memory_mhz": 2_600, "power_w": 300.5, "temperature_c": 50 + n, "utilisation_percent": 90, "throttle": [],
                "memory_used_bytes": 1u64 << 33, "memory_bytes": 1u64 << 37, "inside": 1, "waiting_to_check": 0, "waiting_to_time": 2 })),
        ]);
    }
    let happening = |actor: &str, what: &str, detail: &str| {
        Op::Happening(HappeningRow { at_ms: at, actor: actor.into(), what: what.into(), detail: detail.into() })
    };
    ops.extend([
        happening("orchestrator", "started", "policy 0"),
        happening("executor 0", "died", HOSTILE[0]),
        happening("executor 0", "restarted", ""),
        happening(&format!("node {}", HOSTILE[2]), "joined", HOSTILE[6]),
    ]);
    let logprobs = (0..20).map(|n| -0.2 * n as f32 + 0.05).collect();
    // From the ninth on, of four tokens IcePop left two out, and one has a capped weight.
    let fates = (0..20).map(|n| [0, 2, 2, 1][usize::from(n > 7) * (n % 4).min(3)]).collect();
    let scores = TokenScores { logprobs, entropies: vec![0.5; 20], fates: Some(fates) };
    ops.push(Op::TokenScores { rollout: RolloutId(2), step: StepId(8), scores });
    ops
}

fn row(id: u64, patch: RowPatch) -> Op {
    Op::Row { rollout: RolloutId(id), patch }
}

/// A rollout that a generator was asked for.
pub fn issued(id: u64) -> Vec<Op> {
    let task = Arc::new(TaskId(format!("standin_{:03}", id % 3)));
    let (phase, group, attempt) = (PhaseTag::Train, GroupId(id / 4), Attempt(1));
    vec![row(id, RowPatch::Issued { phase, group, task, seed: id, attempt })]
}

/// A rollout of each of the run's tasks that passed, with a hostile text in its program, which is therefore the best of its task, and
/// in a finding of the executor. The first free id.
pub fn hostile_best(handle: &StoreHandle, first: u64) -> Result<u64, StoreError> {
    let next = first + HOSTILE.len() as u64;
    for (id, text) in (first..next).zip(HOSTILE) {
        let line: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        let answer = standins::ANSWER.replace("```python\n", &format!("```python\n# {line}\n"));
        handle.send(issued(id))?;
        let mut ops = finished(id, &answer);
        for op in &mut ops {
            if let Op::Row { patch: RowPatch::Executed { report }, .. } = op {
                let mut known = (**report).clone();
                known.outcome = Outcome::Passed { speedup: Some(1.0 + id as f64) };
                known.findings =
                    vec![Finding { code: "K105".into(), severity: Severity::Warn, line: 0, message: text.to_string() }];
                *report = Arc::new(known);
            }
        }
        handle.send(ops)?;
    }
    Ok(next)
}

/// The rest of its life.
pub fn finished(id: u64, answer: &str) -> Vec<Op> {
    let task = standins::tasks(1, Split::Train).remove(0);
    let ruling = Arc::new(reward::judge(answer, &task.spec));
    let completion = Completion {
        prompt_tokens: vec![1, 2],
        tokens: vec![3; 20],
        logprobs: (0..20).map(|n| -0.2 * n as f32).collect(),
        spans: vec![
            PolicySpan { start: 0, policy: PolicyVersion(7) },
            PolicySpan { start: 12, policy: PolicyVersion(8) },
        ],
        finish: Finish::Stop,
        text: answer.to_string(),
        plan_tokens: Some(6),
    };
    let good = f64::from(u8::from(id.is_multiple_of(2)));
    let mut patches = vec![
        RowPatch::Sampled { completion: Arc::new(completion), at_ms: now() },
        RowPatch::Judged { ruling: ruling.clone() },
    ];
    if matches!(*ruling, rollout::outcome::Ruling::Admit { .. }) {
        let mut report = standins::report(id.is_multiple_of(2));
        report.log_tail = answer.to_string();
        patches.push(RowPatch::Executed { report: Arc::new(report) });
    }
    patches.extend([
        RowPatch::Scored { reward: Reward { plan: good, code: good } },
        RowPatch::Credited { advantage: Advantage { plan: good - 0.5, code: good - 0.5 } },
        RowPatch::Ended { ending: EndingRow::Train(Ending::Trained(StepId(8))), at_ms: now() },
    ]);
    patches.into_iter().map(|patch| row(id, patch)).collect()
}
