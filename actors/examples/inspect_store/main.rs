//! Stores for looking at the viewers, made through the store's own writer.
//!
//! `inspect_store bench FOLDER [ROLLOUTS]` makes a large one, then reads, filters and sorts it;
//! `inspect_store live FOLDER SECONDS` makes one of hostile answers and adds a rollout five times a second.

mod fixture;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::bench::standins;
use actors::inspect::Run;
use actors::inspect::query::Query;
use actors::store::rows::{EndingRow, PhaseTag};
use actors::store::{Op, RowPatch, StoreConfig, Writer};
use rollout::completion::{Completion, Finish, PolicySpan};
use rollout::event::{DropReason, Ending};
use rollout::id::{Attempt, GroupId, PolicyVersion, RolloutId, StepId, TaskId};
use rollout::reward::{Advantage, Reward};
use rollout::task::Split;

type AnyError = Box<dyn std::error::Error>;

const REPEATS: usize = 7;

fn main() -> Result<(), AnyError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["bench", folder] => bench(Path::new(folder), 1_000_000),
        ["bench", folder, count] => bench(Path::new(folder), count.parse()?),
        ["live", folder, seconds] => live(Path::new(folder), Duration::from_secs(seconds.parse()?)),
        _ => Err("usage: inspect_store bench FOLDER [ROLLOUTS], or inspect_store live FOLDER SECONDS".into()),
    }
}

/// Rollouts that begin, are sampled and end, a step in time with a viewer.
fn live(folder: &Path, time: Duration) -> Result<(), AnyError> {
    const EVERY: Duration = Duration::from_millis(200);
    let writer = fixture::begin(folder)?;
    let handle = writer.handle();
    let first = fixture::hostile(&handle)?;
    handle.flush(Duration::from_secs(60))?;
    println!("ready");
    let began = Instant::now();
    for id in (first..).take_while(|_| began.elapsed() < time) {
        handle.send(fixture::issued(id))?;
        if id >= first + 5 {
            handle.send(fixture::finished(id - 5, standins::ANSWER))?;
        }
        std::thread::sleep(EVERY);
    }
    writer.stop()?;
    Ok(())
}

fn bench(folder: &Path, count: u64) -> Result<(), AnyError> {
    if !actors::store::path(folder).exists() {
        std::fs::create_dir_all(folder)?;
        let began = Instant::now();
        fill(folder, count)?;
        println!("made a store of {count} rollouts in {:.1} s", began.elapsed().as_secs_f64());
    }
    let bytes = std::fs::metadata(actors::store::path(folder))?.len();
    println!("store: {} MiB", bytes >> 20);
    let before = rss_mib();
    let began = Instant::now();
    let run = Run::open(folder)?;
    run.catch_up()?;
    let rows = run.table().len();
    println!(
        "read the short columns of {rows} rollouts in {:.2} s, {:.0} MiB",
        began.elapsed().as_secs_f64(),
        rss_mib() - before
    );
    println!("{:<66} {:>9} {:>10} {:>10}", "filter; sort", "found", "median ms", "worst ms");
    for (filter, sort) in [
        ("", ""),
        ("", "-reward.plan"),
        ("verdict = passed", ""),
        ("verdict = passed and step >= 100", "-reward.plan"),
        ("task ~ standin_01 and reward.code = 1", "tokens"),
        ("not (ending = trained or staleness > 1) and tokens >= 24", "task"),
        ("id = 777777", ""),
        ("answer ~ empty_like", ""),
        ("verdict = rejected and finding = K007", ""),
        ("answer ~ 'not to be found'", ""),
    ] {
        let query = Query { filter: filter.into(), sort: sort.into(), offset: 0, limit: 100, ..Query::default() };
        let mut times = Vec::new();
        let mut found = String::new();
        for _ in 0..REPEATS {
            let page = run.page(&query)?;
            times.push(page.took_ms);
            found = match (page.matching, page.searched) {
                (Some(n), _) => n.to_string(),
                (None, Some((seen, _))) => format!("in {seen}"),
                (None, None) => String::new(),
            };
        }
        times.sort_by(f64::total_cmp);
        let shown = format!("{filter}; {sort}");
        println!("{shown:<66} {found:>9} {:>10.1} {:>10.1}", times[REPEATS / 2], times[REPEATS - 1]);
    }
    Ok(())
}

/// Groups of 8, 64 groups a step; a third passes, a tenth is rejected, a few go stale; the newest have no ending.
fn fill(folder: &Path, count: u64) -> Result<(), AnyError> {
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
            text: standins::ANSWER.into(),
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
    }
    handle.flush(Duration::from_secs(600))?;
    writer.stop()?;
    Ok(())
}

fn rss_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|p| p.parse::<f64>().ok()).map_or(0.0, |p| p * 4.0 / 1024.0)
}
