//! Hostile candidates in a row, mixed with honest ones: does each end as a typed outcome in time, is the next candidate
//! unharmed, is nothing left? For `troupe bench hostile`, and in short for the tests.

mod kinds;
mod remains;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rollout::id::Digest;
use rollout::outcome::{Candidate, ExecReport, Fault, Phase};
use rollout::task::TaskSpec;
use sha2::{Digest as _, Sha256};

use crate::executor::{Executor, ExecutorConfig, Isolation, Limits};
use crate::fault::{KILLED, SYSTEM, ZYGOTE_LOST, fault};
use crate::suspects::Suspects;
use remains::Remains;

pub use kinds::KINDS;

/// A hostile candidate may take this long beyond the deadline of its phase, all its processes ended and reaped.
pub const GRACE_MS: f64 = 2_000.0;
/// As often as a run tries again after a fault.
const TRIES: u32 = 3;

/// What to run.
#[derive(Clone, Debug)]
pub struct MixConfig {
    pub python: PathBuf,
    pub scratch: PathBuf,
    /// Candidates, honest ones included: every hostile one is followed by an honest one on the same executor.
    pub count: u64,
    pub executors: u32,
    pub limits: Limits,
    /// See [`GRACE_MS`]; more where the machine has other work, which makes every end later.
    pub grace_ms: f64,
}

/// Short deadlines, for hostile ones that use them up; an honest candidate takes a tenth.
pub const LIMITS: Limits = Limits {
    import_ms: 4_000,
    compile_ms: 8_000,
    run_ms: 8_000,
    memory_bytes: 1 << 30,
    max_processes: 32,
    log_bytes: 64 << 20,
};

/// One kind of hostile candidate.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Row {
    pub kind: String,
    pub count: u64,
    /// Verdicts with how often each was given.
    pub outcomes: BTreeMap<String, u64>,
    /// Kills that were tried again before they were scored (`F004`, `F011`).
    pub retried: u64,
    /// Longest time beyond the deadline of a phase, ending and reaping included, milliseconds.
    pub worst_over_ms: f64,
    /// Processes that lived after the outcome.
    pub strays: u64,
    /// Files outside the private directory, or that directory itself, after the outcome.
    pub files: u64,
}

/// What became of all of them.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Mix {
    pub rows: Vec<Row>,
    pub honest: u64,
    pub honest_passed: u64,
    /// Descriptors of this process before and after.
    pub descriptors: [u64; 2],
    /// Zygotes that had to be started again.
    pub restarts: u64,
    pub seconds: f64,
    /// Parts of the isolation that did not hold, in words.
    pub missing: String,
    /// Everything that should not have been; empty is good.
    pub problems: Vec<String>,
}

struct Work {
    next: AtomicU64,
    pairs: u64,
    mix: Mutex<Mix>,
    remains: Remains,
    task: TaskSpec,
    grace_ms: f64,
}

/// Runs the mix. A fault is one of starting; what goes wrong later is among the problems.
pub async fn run(config: &MixConfig) -> Result<Mix, Fault> {
    let began = Instant::now();
    let rows = KINDS.iter().map(|k| Row { kind: k.name.into(), ..Row::default() }).collect();
    let work = Arc::new(Work {
        next: AtomicU64::new(0),
        pairs: config.count.div_ceil(2),
        mix: Mutex::new(Mix { rows, ..Mix::default() }),
        remains: Remains::new(),
        task: kinds::task(),
        grace_ms: config.grace_ms,
    });
    let before = remains::descriptors();
    let suspects = Suspects::default();
    let mut running = tokio::task::JoinSet::new();
    for number in 0..config.executors {
        let executor = ExecutorConfig {
            python: config.python.clone(),
            scratch: config.scratch.join(format!("executor-{number}")),
            limits: config.limits,
            secret: Sha256::digest(format!("hostile {number}")).into(),
            suspects: suspects.clone(),
            require: Vec::new(),
            device: None,
        };
        running.spawn(one_executor(executor, work.clone()));
    }
    while let Some(ended) = running.join_next().await {
        ended.map_err(|e| fault(SYSTEM, format!("an executor of the mix ended: {e}")))??;
    }
    let mut mix = std::mem::take(&mut *lock(&work.mix));
    mix.descriptors = [before, remains::descriptors()];
    if mix.descriptors[1] > mix.descriptors[0] {
        mix.problems.push(format!("{} descriptors before, {} after", mix.descriptors[0], mix.descriptors[1]));
    }
    mix.problems.extend(work.remains.of_all().into_iter().map(|what| format!("left: {what}")));
    mix.seconds = began.elapsed().as_secs_f64();
    Ok(mix)
}

fn lock(mix: &Mutex<Mix>) -> std::sync::MutexGuard<'_, Mix> {
    mix.lock().unwrap_or_else(|e| e.into_inner())
}

async fn one_executor(config: ExecutorConfig, work: Arc<Work>) -> Result<(), Fault> {
    let (limits, scratch) = (config.limits, config.scratch.clone());
    let executor = Executor::start(config).await?;
    let isolation = executor.isolation().await.unwrap_or_default();
    lock(&work.mix).missing = isolation.missing();
    let mut zygote = executor.pids().await[0];
    loop {
        let pair = work.next.fetch_add(1, Ordering::Relaxed);
        if pair >= work.pairs {
            break;
        }
        hostile(&executor, &isolation, &work, &limits, &scratch, pair).await;
        let candidate = candidate(kinds::honest(), pair, "honest");
        let result = executor.evaluate(&work.task, &candidate).await;
        let now = executor.pids().await[0];
        let mut mix = lock(&work.mix);
        mix.honest += 1;
        mix.restarts += u64::from(now != zygote);
        zygote = now;
        match result {
            Ok(report) if report.outcome.is_correct() => mix.honest_passed += 1,
            other => {
                let kind = KINDS[pair as usize % KINDS.len()].name;
                let said = other.map(|r| format!("{:?}", r.outcome)).unwrap_or_else(|f| f.to_string());
                mix.problems.push(format!("honest candidate after {kind} (pair {pair}): {said}"));
            }
        }
    }
    executor.shutdown().await;
    Ok(())
}

async fn hostile(
    executor: &Executor,
    isolation: &Isolation,
    work: &Work,
    limits: &Limits,
    scratch: &std::path::Path,
    pair: u64,
) {
    let index = pair as usize % KINDS.len();
    let kind = &KINDS[index];
    let round = pair as usize / KINDS.len();
    let place = [Phase::Import, Phase::Compile, Phase::Run][(index + round) % 3];
    let candidate = candidate(kinds::source(kind, place, work.remains.mark()), pair, kind.name);
    let (mut retried, mut over_ms) = (0, 0f64);
    let result = loop {
        let began = Instant::now();
        let result = executor.evaluate(&work.task, &candidate).await;
        let took_ms = began.elapsed().as_secs_f64() * 1e3;
        match &result {
            Ok(report) => over_ms = over_ms.max(over(report, limits)),
            Err(_) => over_ms = over_ms.max(took_ms - (limits.import_ms + limits.compile_ms + limits.run_ms) as f64),
        }
        match result {
            Err(f) if [KILLED, ZYGOTE_LOST].contains(&f.code.as_str()) && retried + 1 < TRIES => retried += 1,
            other => break other,
        }
    };
    let zygote = executor.pids().await[0];
    let strays = remains::below(zygote, isolation.namespaces.iter().any(|n| n == "pid"));
    let files = remains::trials(scratch);
    let mut mix = lock(&work.mix);
    let at = format!("{} in {place:?} (pair {pair})", kind.name);
    let verdict = match &result {
        Ok(report) => report.outcome.verdict().to_string(),
        Err(f) => f.code.clone(),
    };
    match result {
        Err(f) => mix.problems.push(format!("{at}: no outcome: {f}")),
        Ok(report) if report.outcome.is_correct() && !kind.harmless => mix.problems.push(format!("{at}: passed")),
        Ok(_) => {}
    }
    if over_ms > work.grace_ms {
        mix.problems.push(format!("{at}: {over_ms:.0} ms beyond its deadline"));
    }
    if strays + files > 0 {
        mix.problems.push(format!("{at}: {strays} processes and {files} files left"));
    }
    let row = &mut mix.rows[index];
    row.count += 1;
    *row.outcomes.entry(verdict).or_default() += 1;
    row.retried += u64::from(retried);
    row.worst_over_ms = row.worst_over_ms.max(over_ms);
    row.strays += strays;
    row.files += files;
}

/// How long beyond the deadline of the phase in which it ended the candidate was there, its end included, milliseconds.
fn over(report: &ExecReport, limits: &Limits) -> f64 {
    let ms = |name: &str| report.phase_ms.get(name).copied().unwrap_or(0.0);
    let phases = [("import", limits.import_ms), ("compile", limits.compile_ms), ("run", limits.run_ms)];
    let inside: f64 = phases.iter().map(|(name, _)| ms(name)).sum();
    // Everything that is neither a phase nor the referee's: the kill, the reaping.
    let around = ms("total") - inside - ms("reference") - ms("compare");
    let entered = phases.iter().filter(|(name, _)| report.phase_ms.contains_key(*name));
    let beyond = entered.map(|(name, limit)| ms(name) - *limit as f64).collect::<Vec<_>>();
    let (last, earlier) = beyond.split_last().map_or((0.0, &[][..]), |(last, rest)| (*last, rest));
    earlier.iter().fold((last + around).max(0.0), |worst, over| worst.max(*over))
}

fn candidate(source: String, pair: u64, name: &str) -> Candidate {
    let digest = Sha256::digest(format!("{pair} {name}\n{source}"));
    Candidate { source, digest: Digest(crate::harness::hex(&digest)) }
}

impl Mix {
    /// A line for each kind, then the sums.
    pub fn table(&self) -> String {
        let mut out = vec![format!(
            "{:<34} {:>5} {:>7} {:>9} {:>6} {:>5}  outcomes",
            "hostile kind", "count", "retried", "over, ms", "strays", "files"
        )];
        for r in &self.rows {
            let outcomes: Vec<String> = r.outcomes.iter().map(|(name, n)| format!("{name} {n}")).collect();
            out.push(format!(
                "{:<34} {:>5} {:>7} {:>9.0} {:>6} {:>5}  {}",
                r.kind,
                r.count,
                r.retried,
                r.worst_over_ms,
                r.strays,
                r.files,
                outcomes.join(", ")
            ));
        }
        let sum = |f: fn(&Row) -> u64| self.rows.iter().map(f).sum::<u64>();
        let worst = self.rows.iter().map(|r| r.worst_over_ms).fold(0.0, f64::max);
        out.push(format!(
            "{} hostile, {} honest of which {} passed; worst time beyond a deadline {worst:.0} ms; {} strays, {} \
             files left; {} zygotes restarted; descriptors {} before, {} after; {:.0} s",
            sum(|r| r.count),
            self.honest,
            self.honest_passed,
            sum(|r| r.strays),
            sum(|r| r.files),
            self.restarts,
            self.descriptors[0],
            self.descriptors[1],
            self.seconds
        ));
        let missing = if self.missing.is_empty() { "nothing" } else { &self.missing };
        out.push(format!("missing of the isolation here: {missing}"));
        out.extend(self.problems.iter().map(|p| format!("PROBLEM {p}")));
        out.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use rollout::outcome::Outcome;

    use super::*;

    #[test]
    fn time_beyond_a_deadline_includes_the_end_and_not_the_referee() {
        let report = |phases: &[(&str, f64)]| ExecReport {
            outcome: Outcome::Rejected { reason: String::new() },
            launches: Vec::new(),
            phase_ms: phases.iter().map(|(name, ms)| (name.to_string(), *ms)).collect(),
            kernelbench_1e2: None,
            kernelbench_1e4: None,
            max_abs_error: None,
            evidence: Default::default(),
            timing: None,
            findings: Vec::new(),
            log_tail: String::new(),
            protocol: crate::protocol_digest(),
            reused: false,
        };
        let late = [("reference", 900.0), ("import", 4_100.0), ("total", 5_350.0)];
        assert_eq!(over(&report(&late), &LIMITS), 450.0);
        let earlier = [("import", 4_300.0), ("compile", 10.0), ("total", 4_310.0)];
        assert_eq!(over(&report(&earlier), &LIMITS), 300.0);
        assert_eq!(over(&report(&[("import", 10.0), ("compile", 20.0), ("total", 90.0)]), &LIMITS), 0.0);
    }
}
