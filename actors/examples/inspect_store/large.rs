//! A large store, made through the store's own writer.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actors::bench::standins;
use actors::store::rows::{EndingRow, PhaseTag};
use actors::store::{Op, RowPatch, StepRow, StoreConfig, Writer};
use rollout::completion::{Completion, Finish, PolicySpan};
use rollout::event::{DropReason, Ending};
use rollout::id::{Attempt, GroupId, PolicyVersion, RolloutId, StepId, TaskId};
use rollout::reward::{Advantage, Reward};
use rollout::task::Split;

/// Numbers of a step, besides those that are drawn.
const MORE: usize = 40;

/// Groups of 8, 64 groups a step; a third passes, a tenth is rejected, a few go stale; the newest have no ending.
pub fn fill(
    folder: &Path,
    count: u64,
    answer: &mut dyn FnMut(u64) -> String,
) -> Result<(), Box<dyn std::error::Error>> {
    let writer = Writer::start(StoreConfig::new(folder.to_path_buf()), Box::new(|e| eprintln!("{e}")))?;
    let handle = writer.handle();
    let tasks = standins::tasks(64, Split::Train);
    let ruling = Arc::new(reward::judge(standins::ANSWER, &tasks[0].spec));
    let refused = Arc::new(reward::judge(
        "<think>p</think>\n```python\nimport torch\nclass ModelNew(torch.nn.Module):\n    def forward(self, x):\n        return torch.relu(x)\n```\n",
        &tasks[0].spec,
    ));
    for id in 0..count {
        let (step, n) = (id / 512 + 1, id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32);
        let tokens = 16 + (n % 48) as usize;
        let completion = Completion {
            prompt_tokens: vec![1; 16],
            tokens: vec![7; tokens],
            logprobs: (0..tokens).map(|i| -0.01 * i as f32).collect(),
            spans: vec![PolicySpan { start: 0, policy: PolicyVersion(step.saturating_sub(1 + n % 3)) }],
            finish: if n.is_multiple_of(20) { Finish::Length } else { Finish::Stop },
            text: answer(n),
            plan_tokens: Some(6),
        };
        let (rejected, passed) = (n.is_multiple_of(10), n.is_multiple_of(3));
        let reward = if passed {
            Reward { plan: 0.5 + (n % 100) as f64 / 50.0, code: 1.0 }
        } else {
            Reward { plan: 0.0, code: 0.0 }
        };
        let task = Arc::new(TaskId(tasks[(id / 8 % 64) as usize].id.0.clone()));
        let mut patches = vec![
            RowPatch::Issued { phase: PhaseTag::Train, group: GroupId(id / 8), task, seed: n, attempt: Attempt(1) },
            RowPatch::Sampled { completion: Arc::new(completion), at_ms: 1_700_000_000_000 + id },
            RowPatch::Judged { ruling: if rejected { refused.clone() } else { ruling.clone() } },
        ];
        if !rejected {
            patches.push(RowPatch::Executed { report: Arc::new(standins::report(passed)) });
        }
        if id + 1000 < count {
            let ending = if n % 50 == 1 { Ending::Dropped(DropReason::Stale) } else { Ending::Trained(StepId(step)) };
            patches.extend([
                RowPatch::Scored { reward },
                RowPatch::Credited { advantage: Advantage { plan: reward.plan - 0.4, code: reward.code - 0.3 } },
                RowPatch::Ended { ending: EndingRow::Train(ending), at_ms: 1_700_000_000_100 + id },
            ]);
        }
        handle.send(patches.into_iter().map(|patch| Op::Row { rollout: RolloutId(id), patch }).collect())?;
        if id % 512 == 511 && id + 1000 < count {
            handle.send(vec![Op::Step(Box::new(numbers(step)))])?;
        }
    }
    handle.flush(Duration::from_secs(600))?;
    writer.stop()?;
    Ok(())
}

/// A step with as many numbers as a real one has.
fn numbers(step: u64) -> StepRow {
    let wave = |n: usize| ((step as f64 / 100.0 + n as f64).sin() + 1.000_123_456_789) / 3.0;
    let of = |part: &str| {
        let drawn = actors::inspect::overview::DRAWN.iter().filter_map(|name| name.strip_prefix(part));
        let more = (0..MORE / 2).map(|n| format!("more_{n}"));
        let names = drawn.map(str::to_string).chain(more).enumerate();
        serde_json::Value::Object(names.map(|(n, name)| (name, wave(n).into())).collect())
    };
    StepRow {
        step: StepId(step),
        policy: PolicyVersion(step),
        applied: true,
        report: of("learner."),
        batch: of("batch."),
        at_ms: 1_700_000_000_000 + 512 * step,
    }
}
