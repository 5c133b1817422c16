//! Stores for looking at the viewers, made through the store's own writer.
//!
//! `inspect_store bench FOLDER [ROLLOUTS]` makes a large one, then reads, filters and sorts it; `inspect_store texts` does so with
//! answers as long and as different as real ones, and searches through them as a viewer does, with an index;
//! `inspect_store live FOLDER SECONDS` makes one of hostile answers and adds a rollout five times a second.

mod answers;
mod fixture;
mod large;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actors::bench::standins;
use actors::inspect::Run;
use actors::inspect::query::Query;

type AnyError = Box<dyn std::error::Error>;

const REPEATS: usize = 7;

fn main() -> Result<(), AnyError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["bench", folder] => bench(Path::new(folder), 1_000_000),
        ["bench", folder, count] => bench(Path::new(folder), count.parse()?),
        ["texts", folder] => texts(Path::new(folder), 1_000_000),
        ["texts", folder, count] => texts(Path::new(folder), count.parse()?),
        ["live", folder, seconds] => live(Path::new(folder), Duration::from_secs(seconds.parse()?)),
        _ => Err("usage: inspect_store bench|texts FOLDER [ROLLOUTS], or inspect_store live FOLDER SECONDS".into()),
    }
}

/// Rollouts that begin, are sampled and end, a step in time with a viewer.
fn live(folder: &Path, time: Duration) -> Result<(), AnyError> {
    const EVERY: Duration = Duration::from_millis(200);
    let writer = fixture::begin(folder)?;
    let handle = writer.handle();
    let first = fixture::hostile(&handle)?;
    let first = fixture::hostile_best(&handle, first)?;
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
        large::fill(folder, count, &mut |_| standins::ANSWER.into())?;
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
    questions(
        &run,
        &[
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
        ],
    )
}

/// As `bench`, with a viewer that stays: its index of answers is built by the first search.
fn texts(folder: &Path, count: u64) -> Result<(), AnyError> {
    if !actors::store::path(folder).exists() {
        std::fs::create_dir_all(folder)?;
        let mut answers = answers::Answers::new()?;
        large::fill(folder, count, &mut |n| answers.next(n))?;
    }
    println!("store: {} MiB", std::fs::metadata(actors::store::path(folder))?.len() >> 20);
    let before = rss_mib();
    let run = Arc::new(Run::open(folder)?);
    let stop = Arc::new(AtomicBool::new(false));
    let follower = run.follow(stop.clone())?;
    wait(|| run.pulse().loaded)?;
    println!("read {} rollouts, {:.0} MiB", run.table().len(), rss_mib() - before);
    let rare = Query { filter: "answer ~ 'not to be found'".into(), limit: 100, ..Query::default() };
    let page = run.page(&rare)?;
    println!("the first search: {:.0} ms, looked at {:?}", page.took_ms, page.searched);
    let (before, began) = (rss_mib(), Instant::now());
    let ended = run.page(&Query { filter: "ending != none".into(), limit: 1, ..Query::default() })?.matching;
    wait(|| run.page(&rare).is_ok_and(|p| p.indexed == ended))?;
    println!("the index is built after {:.0} s, {:.0} MiB", began.elapsed().as_secs_f64(), rss_mib() - before);
    questions(
        &run,
        &[
            ("answer ~ empty_like", ""),
            ("answer ~ tl.load", ""),
            ("answer ~ e", ""),
            ("answer ~ 'num_warps=16'", ""),
            ("answer ~ word777", ""),
            ("answer ~ 'not to be found'", ""),
            ("answer ~ nottobefound", ""),
            ("answer ~ 'import torch'", ""),
            ("answer ~ 'axis=1)'", "-reward.plan"),
            ("verdict = passed and not answer ~ atomic_add", "tokens"),
            ("finding = K007", ""),
            ("verdict = rejected and finding != K007", ""),
        ],
    )?;
    stop.store(true, Ordering::Relaxed);
    follower.join().map_err(|_| "the follower panicked")?;
    Ok(())
}

fn wait(holds: impl Fn() -> bool) -> Result<(), AnyError> {
    let until = Instant::now() + Duration::from_secs(1800);
    while !holds() {
        if Instant::now() > until {
            return Err("it did not come to hold".into());
        }
        std::thread::sleep(Duration::from_secs(2));
    }
    Ok(())
}

fn questions(run: &Run, questions: &[(&str, &str)]) -> Result<(), AnyError> {
    println!("{:<66} {:>9} {:>10} {:>10}", "filter; sort", "found", "median ms", "worst ms");
    for (filter, sort) in questions {
        let query = Query { filter: (*filter).into(), sort: (*sort).into(), offset: 0, limit: 100, ..Query::default() };
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

fn rss_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|p| p.parse::<f64>().ok()).map_or(0.0, |p| p * 4.0 / 1024.0)
}
