//! The one reader: the live tail, a crash, a copy, and a real run seen whole.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actors::config::Settings;
use actors::inspect::Run;
use actors::inspect::query::Query;
use actors::observe::Silent;
use actors::orchestrator::RunEnd;
use actors::stop::StopToken;
use actors::store::rows::EndingRow;
use actors::store::{Op, PhaseTag, Reader, RowPatch, StoreConfig, Writer};
use rollout::completion::{Completion, Finish};
use rollout::event::{DropReason, Ending};
use rollout::id::{Attempt, GroupId, RolloutId, StepId, TaskId};
use rollout::reward::Reward;

use crate::fixture;
use crate::rig::Rig;

/// Where processors are busy, answers are indexed in small bites.
const LONG: Duration = Duration::from_secs(120);

fn query(filter: &str) -> Query {
    // However long a search takes on a busy machine.
    Query { filter: filter.into(), limit: 1000, deep: true, ..Query::default() }
}

fn ids(run: &Run, filter: &str) -> Vec<u64> {
    let mut ids: Vec<u64> = run.page(&query(filter)).unwrap().rollouts.iter().map(|r| r.id).collect();
    ids.sort_unstable();
    ids
}

/// Waits, with a deadline, until it holds; how long that took.
fn until(holds: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LONG, "it did not come to hold");
        std::thread::sleep(Duration::from_millis(5));
    }
    began.elapsed()
}

/// Planted and seen to fail: a follower that takes new rows only.
#[test]
fn a_rollout_is_seen_at_each_change_and_leaves_the_open_ones_when_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let writer = fixture::begin(dir.path()).unwrap();
    let handle = writer.handle();
    let first = fixture::hostile(&handle).unwrap();
    handle.flush(LONG).unwrap();
    let run = Arc::new(Run::open(dir.path()).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let thread = run.follow(stop.clone()).unwrap();
    until(|| run.pulse().loaded);
    assert_eq!((run.table().len() as u64, run.pulse().open), (first, 0));

    let mut watch = run.watch();
    watch.borrow_and_update();
    handle.send(fixture::issued(first)).unwrap();
    // The follower writes the row first and tells of it then.
    let seen = until(|| ids(&run, "state = sampling") == [first] && run.pulse().open == 1);
    println!("seen after {seen:?}");
    assert!(watch.has_changed().unwrap(), "whoever watches is told");

    handle.send(fixture::finished(first, "<think>no program</think>")).unwrap();
    let seen = until(|| ids(&run, "ending = trained and verdict = unparsed") == [first] && run.pulse().open == 0);
    println!("seen after {seen:?}");
    assert_eq!(ids(&run, "ending = none"), [0; 0]);
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    writer.stop().unwrap();
}

/// Whoever waits for another version hears of it.
#[test]
fn that_the_store_can_no_longer_be_read_is_a_new_version() {
    let dir = tempfile::tempdir().unwrap();
    let writer = fixture::begin(dir.path()).unwrap();
    writer.handle().flush(LONG).unwrap();
    let run = Arc::new(Run::open(dir.path()).unwrap());
    writer.stop().unwrap();
    std::fs::remove_file(actors::store::path(dir.path())).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let thread = run.follow(stop.clone()).unwrap();
    until(|| run.pulse().trouble.is_some());
    assert_eq!(run.pulse().version, 1);
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
}

fn copy(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

#[test]
fn a_crashed_run_and_its_copy_open_as_they_were_and_viewing_changes_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    let writer = fixture::begin(dir.path()).unwrap();
    let first = fixture::hostile(&writer.handle()).unwrap();
    writer.handle().send(fixture::issued(first)).unwrap();
    writer.handle().flush(LONG).unwrap();
    // As SIGKILL leaves it: the log is not merged. The writer itself is still there and holds no lock against readers.
    let copied = tempfile::tempdir().unwrap();
    copy(dir.path(), copied.path());
    let bytes = |dir: &Path| std::fs::read(actors::store::path(dir)).unwrap();
    let before = bytes(copied.path());
    let mut seen = Vec::new();
    for place in [dir.path(), copied.path()] {
        let run = Run::open(place).unwrap();
        run.catch_up().unwrap();
        let page = run.page(&query("")).unwrap();
        assert_eq!(page.all, first + 1);
        assert_eq!(ids(&run, "ending = none"), [first]);
        run.overview().unwrap();
        seen.push(format!("{:?} {:?}", page.rollouts, run.rollout_page(0).unwrap()));
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(bytes(copied.path()), before);
    drop(writer);
}

#[test]
fn long_texts_are_searched_in_the_store_with_the_quick_parts_decided_first() {
    let dir = tempfile::tempdir().unwrap();
    let writer = fixture::begin(dir.path()).unwrap();
    let first = fixture::hostile(&writer.handle()).unwrap();
    writer.stop().unwrap();
    let run = Run::open(dir.path()).unwrap();
    run.catch_up().unwrap();
    assert_eq!(ids(&run, "answer ~ 'onerror'"), [1]);
    assert_eq!(ids(&run, "not answer ~ 'hacked' and id < 100"), [6, 7]);
    assert_eq!(ids(&run, "answer ~ 'import torch'").len() as u64, first);
    // As a page asks, which a stall may cut off. A full one does not end a search that has so few left.
    let quick = Query { sort: "id".into(), limit: 2, offset: 1, deep: false, ..query("answer ~ hacked") };
    until(|| run.page(&quick).unwrap().matching == Some(6));
    assert_eq!(run.page(&quick).unwrap().rollouts.iter().map(|r| r.id).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn the_index_of_answers_says_what_the_store_says_and_goes_on_with_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let writer = fixture::begin(dir.path()).unwrap();
    let handle = writer.handle();
    let first = fixture::hostile(&handle).unwrap();
    let more = first + 3_000;
    for id in first..more {
        handle.send(fixture::issued(id)).unwrap();
        let name = if id.is_multiple_of(1000) { "rare_name" } else { "x" };
        handle.send(fixture::finished(id, &format!("<think>plan {id}</think>\n{name} = tl.load(p + {id})\n"))).unwrap();
    }
    handle.flush(LONG).unwrap();
    let far = Run::open(dir.path()).unwrap();
    far.catch_up().unwrap();
    let run = Arc::new(Run::open(dir.path()).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let thread = run.follow(stop.clone()).unwrap();
    until(|| run.pulse().loaded);
    until(|| run.page(&query("answer ~ nowhere")).unwrap().indexed == Some(more));
    for filter in [
        "answer ~ hacked",
        "answer ~ RARE_name",
        "answer ~ nowhere",
        "answer ~ 'plan 1234<'",
        "not answer ~ tl.load",
        "answer ~ rare_name and not id < 2000",
        "answer ~ '(p + 77' or answer ~ onerror",
        "answer ~ '<' and finding = K007",
    ] {
        let found = |run: &Run| {
            let page = run.page(&query(filter)).unwrap();
            (page.matching, page.rollouts.iter().map(|r| r.id).collect::<Vec<_>>())
        };
        assert_eq!(found(&run), found(&far), "{filter}");
        assert!(found(&run).0.is_some(), "{filter}");
    }
    // One goes on and is asked for in the store, then it ends and is in the index.
    handle.send(fixture::issued(more)).unwrap();
    handle.send(fixture::finished(more, "rare_name once more")).unwrap();
    until(|| ids(&run, "answer ~ rare_name").contains(&more));
    until(|| run.page(&query("answer ~ nowhere")).unwrap().indexed == Some(more + 1));
    assert!(ids(&run, "answer ~ rare_name").contains(&more));
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    writer.stop().unwrap();
}

/// A real run (tiny policy, real engine, learner and store): everything that the viewers compute agrees with the store.
#[test]
fn a_real_run_is_seen_whole() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path());
    let writer = Writer::start(StoreConfig::new(rig.run_dir.clone()), Box::new(|_| {})).unwrap();
    let mut config = Settings::builtin().unwrap().resolve().unwrap();
    // As on another machine, whose viewer has no GPU and does not find the model.
    config.model.dir = "/nowhere/model.gguf".into();
    config.model.device = actors::config::Device::Cuda;
    let tasks: Vec<_> = rig.entries().iter().map(|t| (*t.spec).clone()).collect();
    writer
        .handle()
        .send(vec![
            Op::Meta { key: "config", value: config.to_toml() },
            Op::Meta { key: "tasks", value: serde_json::to_string(&tasks).unwrap() },
        ])
        .unwrap();
    let end = rig.play_with(&writer, rig.crew(), Arc::new(Silent), &StopToken::default(), |_| {});
    assert_eq!(end, RunEnd::Completed);
    writer.stop().unwrap();

    let run = Run::open(&rig.run_dir).unwrap();
    run.catch_up().unwrap();
    let reader = Reader::open(&rig.run_dir).unwrap();
    let overview = run.overview().unwrap();
    assert_eq!(overview.ledger["train"], reader.endings(PhaseTag::Train).unwrap());
    assert_eq!(overview.steps.x, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(overview.steps_planned, Some(config.run.steps));
    let stored = reader.steps().unwrap();
    for (name, part) in [("learner.loss", 0), ("batch.reward_code", 1)] {
        let found: Vec<f64> = overview.steps.y[name].iter().map(|x| x.unwrap()).collect();
        let of = |s: &actors::store::StepRow| [&s.report["loss"], &s.batch["reward_code"]][part].as_f64().unwrap();
        assert_eq!(found, stored.iter().map(of).collect::<Vec<_>>(), "{name}");
    }
    // Answers by task add up to the verdicts, and their passes to the passed ones.
    let rows = run.task_rows();
    let verdicts: u64 = overview.verdicts.values().sum();
    assert_eq!(rows.iter().map(|r| r.answers).sum::<u64>(), verdicts);
    assert_eq!(rows.iter().map(|r| r.passed).sum::<u64>(), overview.verdicts["passed"]);
    let solved = rows.iter().find(|r| r.passed > 0).unwrap();
    let best = run.task(&solved.task).unwrap().unwrap().best.unwrap();
    assert!(best.code.contains("class ModelNew"), "{}", best.code);

    // The arithmetic of each trained rollout, recomputed from its group, is what the learner was given.
    let (mut trained, mut on_policy) = (0, 0);
    for id in run.matching(None).unwrap() {
        let page = run.rollout_page(id).unwrap().unwrap();
        if page.summary.ending.as_deref() != Some("trained") {
            continue;
        }
        trained += 1;
        assert_eq!(page.group.len(), 4);
        assert_eq!(page.arithmetic.last().unwrap(), "computed again from the group just now: the same");
        let tokens = page.tokens.unwrap();
        assert!(
            tokens.trained && tokens.ids.len() == tokens.logprobs.len() && tokens.ids.len() == tokens.policies.len()
        );
        assert_eq!(tokens.policies.iter().min().copied(), page.summary.policy_oldest);
        // The learner's own words on each token; on policy it says nearly what the generator said.
        let learner = tokens.learner.unwrap();
        assert_eq!((learner.logprobs.len(), learner.entropies.len()), (tokens.ids.len(), tokens.ids.len()));
        assert!(learner.entropies.iter().all(|e| e.is_finite() && *e >= 0.0));
        if page.summary.policy_oldest == page.summary.step.map(|step| step - 1) {
            on_policy += 1;
            let close = |(ours, theirs): (&f32, &f32)| (ours - theirs).abs() < 1e-2;
            assert!(learner.logprobs.iter().zip(&tokens.logprobs).all(close), "rollout {id}");
        }
    }
    assert_eq!(trained, overview.ledger["train"]["trained"]);
    assert!(on_policy > 0, "some of it was on policy");
    // Every evaluation is in its executor's lane, every step in the learner's, and nothing goes on any more.
    let timeline = run.timeline(3600).unwrap();
    let ended = |lane: &str| -> Vec<String> {
        let lanes = timeline.lanes.iter().filter(|l| l.name.starts_with(lane));
        lanes.flat_map(|l| &l.spans).map(|s| s.ending.clone().unwrap()).collect()
    };
    assert_eq!(ended("learner"), ["step"; 6]);
    let executed = ended("executor");
    assert!(executed.iter().any(|e| e == "report"), "{executed:?}");
    assert!(executed.iter().all(|e| e == "report" || e == "started"), "{executed:?}");
    assert!(timeline.happenings.iter().any(|h| h.actor == "generators" && h.what == "adopted"));
    for name in ["orchestrator", "generators", "judge", "pool", "learner"] {
        assert!(timeline.sources["run"].last[format!("mailbox_{name}")].is_u64(), "{name}");
    }
    let crew = run.crew().unwrap();
    assert_eq!((crew.in_flight, crew.stages), (0, BTreeMap::new()));
}

/// 64 groups of 8 that ended as `how` says: (reward, ending, finish) by rollout.
fn alarms_of(how: impl Fn(u64) -> (f64, EndingRow, Finish)) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let writer = fixture::begin(dir.path()).unwrap();
    for id in 0..512 {
        let (reward, ending, finish) = how(id);
        let completion = Completion {
            prompt_tokens: vec![1],
            tokens: vec![2],
            logprobs: vec![-0.5],
            spans: Vec::new(),
            finish,
            text: String::new(),
            plan_tokens: None,
        };
        let patches = [
            RowPatch::Issued {
                phase: PhaseTag::Train,
                group: GroupId(id / 8),
                task: Arc::new(TaskId("t".into())),
                seed: id,
                attempt: Attempt(1),
            },
            RowPatch::Sampled { completion: Arc::new(completion), at_ms: id },
            RowPatch::Scored { reward: Reward { plan: reward, code: reward } },
            RowPatch::Ended { ending, at_ms: id },
        ];
        let op = |patch| Op::Row { rollout: RolloutId(id), patch };
        writer.handle().send(patches.map(op).into()).unwrap();
    }
    writer.stop().unwrap();
    let run = Run::open(dir.path()).unwrap();
    run.catch_up().unwrap();
    run.overview().unwrap().alarms.into_iter().map(|a| a.title).collect()
}

#[test]
fn alarms_come_when_their_limit_is_passed_and_not_before() {
    let trained = EndingRow::Train(Ending::Trained(StepId(1)));
    let dropped = |reason| EndingRow::Train(Ending::Dropped(reason));
    // Every second rollout of each group is right.
    let mixed = |id: u64| (id % 2) as f64;
    let none: [&str; 0] = [];
    assert_eq!(alarms_of(|id| (mixed(id), trained, Finish::Stop)), none);

    let faulted = |every: u64| {
        alarms_of(|id| {
            let ending = if id.is_multiple_of(every) { dropped(DropReason::Faulted) } else { trained };
            (mixed(id), ending, Finish::Stop)
        })
    };
    assert_eq!(faulted(25), none, "4 %");
    assert_eq!(faulted(16), ["rollouts are lost to faults of ours"], "6 %");
    let stale = |id: u64| if id.is_multiple_of(10) { dropped(DropReason::Stale) } else { trained };
    assert_eq!(alarms_of(|id| (mixed(id), stale(id), Finish::Stop)), ["rollouts go stale"]);

    let cut = |every| move |id: u64| if id.is_multiple_of(every) { Finish::Length } else { Finish::Stop };
    assert_eq!(alarms_of(|id| (mixed(id), trained, cut(4)(id))), none, "exactly a quarter");
    assert_eq!(alarms_of(|id| (mixed(id), trained, cut(3)(id))), ["answers are cut off at their length limit"]);

    // The first `equal` groups are all right, the others mixed.
    let groups = |equal: u64| alarms_of(|id| (if id / 8 < equal { 1.0 } else { mixed(id) }, trained, Finish::Stop));
    assert_eq!(groups(32), none);
    assert_eq!(groups(33), ["groups without any difference in reward"]);
    let failed =
        alarms_of(|id| (mixed(id), if id < 2 { dropped(DropReason::LearnerFailed) } else { trained }, Finish::Stop));
    assert_eq!(failed, ["steps were lost"]);
}

/// Format 2 added tables. Planted and seen to fail: a reader that asks for them whatever the format.
#[test]
fn a_store_of_format_1_is_read_as_it_is_and_gets_the_new_tables_when_its_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let writer = fixture::begin(dir.path()).unwrap();
    let first = fixture::hostile(&writer.handle()).unwrap();
    writer.stop().unwrap();
    let connection = rusqlite::Connection::open(actors::store::path(dir.path())).unwrap();
    connection
        .execute_batch(
            "DROP TABLE spans; DROP TABLE samples; DROP TABLE happenings; DROP TABLE token_scores; DROP TABLE token_fates;
             UPDATE meta SET value = '1' WHERE key = 'format';",
        )
        .unwrap();
    drop(connection);
    let run = Run::open(dir.path()).unwrap();
    run.catch_up().unwrap();
    assert_eq!(run.table().len() as u64, first);
    let page = run.rollout_page(2).unwrap().unwrap();
    assert!(page.places.is_empty() && page.tokens.unwrap().learner.is_none());
    let timeline = run.timeline(60).unwrap();
    assert!(!timeline.noted && timeline.lanes.is_empty() && timeline.sources.is_empty());
    let writer = Writer::start(StoreConfig::new(dir.path().to_path_buf()), Box::new(|_| {})).unwrap();
    writer.stop().unwrap();
    let reader = Reader::open(dir.path()).unwrap();
    assert_eq!(reader.meta("format").unwrap().as_deref(), Some("3"));
    assert_eq!(reader.newest_spans(9).unwrap(), []);
}
