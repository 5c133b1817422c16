//! A small store with hostile answers: what a model could write to break out of the page, the table or the terminal.

use std::path::Path;
use std::sync::Arc;

use actors::bench::standins;
use actors::config::Settings;
use actors::store::rows::{EndingRow, PhaseTag, StepRow};
use actors::store::{FaultRow, Op, RowPatch, StoreConfig, StoreError, StoreHandle, Writer};
use rollout::completion::{Completion, Finish, PolicySpan};
use rollout::event::Ending;
use rollout::id::{Attempt, GroupId, PolicyVersion, RolloutId, StepId, TaskId};
use rollout::reward::{Advantage, Reward};
use rollout::task::Split;

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
    let step = |n: u64| StepRow {
        step: StepId(n),
        policy: PolicyVersion(n),
        applied: true,
        report: serde_json::json!({ "mismatch_kl": 1e-4 * n as f64, "entropy_plan": 0.9, "entropy_code": 0.1, "ess": 1.0 }),
        batch: serde_json::json!({ "reward_code": 0.1 * n as f64, "reward_plan": 0.1 * n as f64, "staleness_mean": 0.5 }),
        at_ms: now(),
    };
    handle.send((1..=8).map(|n| Op::Step(Box::new(step(n)))).collect())?;
    Ok(HOSTILE.len() as u64)
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
