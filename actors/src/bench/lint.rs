//! `troupe bench lint`: candidates a second through the static layers on one core, each with its task, as the judge does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reward::lint::PreparedTask;
use serde::Serialize;

use super::corpus::Entry;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct LintBench {
    /// Different candidates, every one linted in every pass.
    pub candidates: usize,
    pub mean_bytes: usize,
    pub passes: usize,
    pub seconds: f64,
    pub per_s: f64,
    /// The slowest candidate and its mean milliseconds.
    pub slowest: String,
    pub slowest_ms: f64,
}

/// Whole passes over the corpus on this thread until `at_least` has gone by; one pass before that is not counted.
pub fn run(entries: &[Entry], at_least: Duration) -> LintBench {
    let sources: Vec<_> =
        entries.iter().filter_map(|e| Some((e, e.candidate.as_ref().ok()?.source.as_str()))).collect();
    // As in the judge: a task is read once for all its candidates.
    let mut tasks = BTreeMap::new();
    for (entry, _) in &sources {
        tasks.entry(&entry.task.id).or_insert_with(|| PreparedTask::new(&entry.task));
    }
    let mut spent = vec![Duration::ZERO; sources.len()];
    let pass = |spent: &mut [Duration]| {
        for ((entry, source), spent) in sources.iter().zip(spent) {
            let began = Instant::now();
            std::hint::black_box(reward::lint::lint_prepared(source, tasks.get(&entry.task.id)));
            *spent += began.elapsed();
        }
    };
    pass(&mut spent);
    spent.fill(Duration::ZERO);
    let (began, mut passes) = (Instant::now(), 0);
    while passes == 0 || began.elapsed() < at_least {
        pass(&mut spent);
        passes += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    let slowest = spent.iter().enumerate().max_by_key(|(_, t)| **t);
    LintBench {
        candidates: sources.len(),
        mean_bytes: sources.iter().map(|(_, s)| s.len()).sum::<usize>() / sources.len().max(1),
        passes,
        seconds,
        per_s: (passes * sources.len()) as f64 / seconds,
        slowest: slowest.map_or(String::new(), |(i, _)| sources[i].0.file.clone()),
        slowest_ms: slowest.map_or(0.0, |(_, t)| t.as_secs_f64() * 1e3 / passes as f64),
    }
}
