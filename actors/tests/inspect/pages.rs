//! What single pages say: hacks by class, the best kernel of a task, leases, what the learner left out.

use std::sync::Arc;
use std::time::Duration;

use actors::bench::standins;
use actors::inspect::Run;
use actors::inspect::leases::Hold;
use actors::store::rows::EndingRow;
use actors::store::{Op, PhaseTag, RowPatch, SpanRow, Writer};
use rollout::completion::{Completion, Finish, PolicySpan};
use rollout::event::Ending;
use rollout::id::{Attempt, GroupId, PolicyVersion, RolloutId, StepId, TaskId};
use rollout::outcome::{Outcome, Ruling};

use crate::fixture;

const LONG: Duration = Duration::from_secs(30);

fn opened(dir: &std::path::Path) -> Run {
    let run = Run::open(dir).unwrap();
    run.catch_up().unwrap();
    run
}

/// An answer to the first task, sampled by `policy`.
fn answer(writer: &Writer, id: u64, policy: u64, tokens: usize, ruling: Ruling, outcome: Option<Outcome>) {
    let completion = Completion {
        prompt_tokens: vec![1],
        tokens: vec![2; tokens],
        logprobs: vec![-0.5; tokens],
        spans: vec![PolicySpan { start: 0, policy: PolicyVersion(policy) }],
        finish: Finish::Stop,
        text: standins::ANSWER.replace("one program", &format!("program {id}")),
        plan_tokens: Some(4),
    };
    let task = Arc::new(TaskId("standin_000".into()));
    let (phase, group, attempt) = (PhaseTag::Train, GroupId(id / 8), Attempt(1));
    let mut patches = vec![
        RowPatch::Issued { phase, group, task, seed: id, attempt },
        RowPatch::Sampled { completion: Arc::new(completion), at_ms: 1_700_000_000_000 + 1000 * id },
        RowPatch::Judged { ruling: Arc::new(ruling) },
    ];
    if let Some(outcome) = outcome {
        let mut report = standins::report(true);
        report.outcome = outcome;
        patches.push(RowPatch::Executed { report: Arc::new(report) });
    }
    patches.push(RowPatch::Ended { ending: EndingRow::Train(Ending::Trained(StepId(policy + 1))), at_ms: id });
    let op = |patch| Op::Row { rollout: RolloutId(id), patch };
    writer.handle().send(patches.into_iter().map(op).collect()).unwrap();
}

fn judged(program: &str) -> Ruling {
    let task = standins::tasks(1, rollout::task::Split::Train).remove(0);
    reward::judge(&format!("<think>p</think>\n```python\n{program}```\n"), &task.spec)
}

fn admitted() -> Ruling {
    reward::judge(standins::ANSWER, &standins::tasks(1, rollout::task::Split::Train).remove(0).spec)
}

#[test]
fn hacks_are_counted_by_class_and_by_the_policy_that_sampled_them_and_ring_at_their_limit() {
    let dir = tempfile::tempdir().unwrap();
    let writer = fixture::begin(dir.path()).unwrap();
    let torch =
        "import torch\nclass ModelNew(torch.nn.Module):\n    def forward(self, x):\n        return torch.relu(x)\n";
    for id in 0..80 {
        let late = id >= 40;
        match id % 4 {
            // Torch does it; all the time.
            0 => answer(&writer, id, id / 40, 9, judged(torch), None),
            // What the executor finds, in the second half alone.
            1 if late => {
                let reason = "K107: calls are counted".to_string();
                answer(&writer, id, id / 40, 9, admitted(), Some(Outcome::Rejected { reason }));
            }
            _ => answer(&writer, id, id / 40, 9, admitted(), Some(Outcome::Passed { speedup: None })),
        }
    }
    writer.handle().flush(LONG).unwrap();
    let run = opened(dir.path());
    let overview = run.overview().unwrap();
    let hacks = &overview.hacks;
    assert_eq!((hacks.answers, hacks.classes["delegation"], hacks.classes["conditional"]), (80, 20, 10));
    assert_eq!(hacks.rate(), Some(30.0 / 80.0));
    assert_eq!(hacks.curves.x, [0.0, 1.0]);
    assert_eq!(hacks.curves.y["delegation"], [Some(0.25), Some(0.25)]);
    assert_eq!(hacks.curves.y["conditional"], [Some(0.0), Some(0.25)]);
    assert_eq!(hacks.curves.y["all"], [Some(0.25), Some(0.5)]);
    // 25 % is the limit of delegation, 5 % that of the others.
    let named: Vec<_> = overview.alarms.iter().filter(|a| a.title.starts_with("hacks, ")).collect();
    assert_eq!(named.len(), 1, "{:?}", overview.alarms);
    assert!(named[0].title.contains("conditional") && named[0].detail.contains("12.5 %"), "{:?}", named[0]);
    let found = run.matching(Some(&actors::inspect::filter::Filter::parse(named[0].filter.as_ref().unwrap()).unwrap()));
    assert_eq!(found.unwrap().len(), 10);
    writer.stop().unwrap();
}

#[test]
fn the_best_kernel_is_that_of_all_answers_however_old_with_a_diff_to_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    let writer = fixture::begin(dir.path()).unwrap();
    let passed = |speedup| Some(Outcome::Passed { speedup });
    answer(&writer, 0, 0, 40, admitted(), passed(None));
    // The shortest, and 300 that passed after it.
    answer(&writer, 1, 0, 12, admitted(), passed(None));
    for id in 2..300 {
        let outcome = if id % 3 == 0 { Some(Outcome::WrongAnswer { message: String::new() }) } else { passed(None) };
        answer(&writer, id, 1, 20, admitted(), outcome);
    }
    writer.handle().flush(LONG).unwrap();
    let task = opened(dir.path()).task("standin_000").unwrap().unwrap();
    let best = task.best.as_ref().unwrap();
    assert_eq!((best.rollout, best.speedup, best.of), (1, None, 201));
    let diff = task.diff.unwrap();
    let of = |tag: char| diff.iter().filter(|l| l.tag == tag).map(|l| l.text.clone() + "\n").collect::<String>();
    assert!(of('-').contains("class Model(torch.nn.Module)") && of('+').contains("@triton.jit"), "{diff:?}");
    assert_eq!(of('+').lines().count() + of('=').lines().count(), best.code_lines);
    // Over time: two in three are solved.
    let rates = &task.solve_rate.y["solved"];
    assert_eq!((task.solve_rate.x.len(), rates.len()), (24, 24));
    assert!(task.solve_rate.x.is_sorted() && rates.iter().all(|r| (0.5..=0.85).contains(&r.unwrap())), "{rates:?}");
    // One that was timed counts more, however slow; and of those the fastest.
    answer(&writer, 300, 2, 50, admitted(), passed(Some(0.5)));
    answer(&writer, 301, 2, 60, admitted(), passed(Some(2.5)));
    answer(&writer, 302, 2, 60, admitted(), passed(Some(2.25)));
    writer.handle().flush(LONG).unwrap();
    let best = opened(dir.path()).task("standin_000").unwrap().unwrap().best.unwrap();
    assert_eq!((best.rollout, best.speedup, best.of), (301, Some(2.5), 3));
    writer.stop().unwrap();
}

#[test]
fn leases_are_what_goes_on_and_the_learners_choice_of_tokens_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let writer = fixture::begin(dir.path()).unwrap();
    fixture::hostile(&writer.handle()).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let learner = SpanRow { id: 900, lane: "learner".into(), began_ms: now - 400, ..SpanRow::default() };
    writer.handle().send(vec![Op::Span(learner)]).unwrap();
    writer.handle().flush(LONG).unwrap();
    let run = opened(dir.path());
    let timeline = run.timeline(60).unwrap();
    let held: Vec<_> = timeline.leases.iter().map(|l| (l.lane.as_str(), l.rollout, l.hold)).collect();
    assert_eq!(held[0], ("learner", None, Hold::Learner));
    // The last of the hostile ones goes on, at its timing.
    assert_eq!((held.len(), held[1].1, held[1].2), (2, Some(7), Hold::Alone));
    assert!(timeline.live && timeline.leases[1].deadline_ms > Some(now));
    let tokens = run.rollout_page(2).unwrap().unwrap().tokens.unwrap();
    let fates = tokens.learner.unwrap().fates.unwrap();
    assert_eq!(
        fates,
        [[0; 8].as_slice(), [0, 2, 2, 1].as_slice(), [0, 2, 2, 1].as_slice(), [0, 2, 2, 1].as_slice()].concat()
    );
    writer.stop().unwrap();
}
