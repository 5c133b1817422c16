//! What a person should look at first, with the threshold that was passed. Computed from the store alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Run;
use crate::store::{PhaseTag, Reader, StoreError};

/// A step that is open for more than this many times the median step is a stall.
const STALL: f64 = 6.0;
/// And no stall is told before this many seconds.
const STALL_MIN_MS: f64 = 30_000.0;
/// Shares of recent rollouts or groups above which there is an alarm.
const LOST_MAX: f64 = 0.05;
const TRUNCATED_MAX: f64 = 0.25;
const REJECTED_MAX: f64 = 0.25;
const EQUAL_GROUPS_MAX: f64 = 0.50;
/// The rollouts that are recent.
const RECENT: usize = 1024;
/// Fewer of them say nothing.
const FEW: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Grave,
    Warn,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    pub level: Level,
    pub title: String,
    /// What was found and what the limit is.
    pub detail: String,
    /// A filter that shows the rollouts meant, where there is one.
    pub filter: Option<String>,
}

fn alarm(level: Level, title: &str, detail: String, filter: Option<&str>) -> Alarm {
    Alarm { level, title: title.into(), detail, filter: filter.map(str::to_string) }
}

/// All alarms, the gravest first; `times` are those of the steps.
pub fn alarms(
    run: &Run,
    reader: &Reader,
    ledger: &BTreeMap<String, BTreeMap<String, u64>>,
    times: &[u64],
    now: u64,
) -> Result<Vec<Alarm>, StoreError> {
    let mut found = Vec::new();
    if let Some(trouble) = run.pulse().trouble {
        found.push(alarm(Level::Grave, "the store cannot be read", trouble, None));
    }
    found.extend(stall(run, reader, times, now)?);
    found.extend(shares(run));
    if let Some(step) = reader.last_step()? {
        let named = step.report["alarms"].as_array().map_or_else(Vec::new, |all| {
            all.iter().filter_map(|a| a["kind"].as_str().map(str::to_string)).collect::<Vec<_>>()
        });
        if !named.is_empty() {
            let detail =
                format!("step {}: {} (limits and reactions: [guard] of the run file)", step.step.0, named.join(", "));
            found.push(alarm(Level::Warn, "numbers of the last step", detail, None));
        }
        if !step.applied {
            let detail = format!("step {} changed nothing", step.step.0);
            found.push(alarm(Level::Grave, "the last step was skipped", detail, None));
        }
    }
    let failed = ledger.get("train").and_then(|l| l.get("learner_failed")).copied().unwrap_or(0);
    if failed > 0 {
        let detail = format!("{failed} rollouts were dropped because the learner could not take their step");
        found.push(alarm(Level::Grave, "steps were lost", detail, Some("ending = learner_failed")));
    }
    found.sort_by_key(|a| a.level);
    Ok(found)
}

fn stall(run: &Run, reader: &Reader, times: &[u64], now: u64) -> Result<Option<Alarm>, StoreError> {
    let open = reader.meta("done.train")?.is_none() && run.pulse().open > 0;
    let (Some(last), Some(median)) = (times.last(), median_gap(times)) else { return Ok(None) };
    let since = now.saturating_sub(*last) as f64;
    let limit = (STALL * median).max(STALL_MIN_MS);
    Ok((open && since > limit).then(|| {
        let detail = format!(
            "the last step ended {:.0} s ago, the median step takes {:.1} s (alarm above {:.0} s); {} rollouts are in flight",
            since / 1000.0,
            median / 1000.0,
            limit / 1000.0,
            run.pulse().open
        );
        alarm(Level::Grave, "no step for long", detail, Some("ending = none"))
    }))
}

/// Median time between steps, milliseconds.
fn median_gap(times: &[u64]) -> Option<f64> {
    let mut gaps: Vec<u64> = times.windows(2).map(|w| w[1].saturating_sub(w[0])).collect();
    gaps.sort_unstable();
    gaps.get(gaps.len() / 2).map(|gap| *gap as f64)
}

/// Shares among the newest ended training rollouts.
fn shares(run: &Run) -> Vec<Alarm> {
    let table = run.table();
    // Looked up once: this is asked for again and again.
    let columns = ["phase", "ending", "finish", "verdict"].map(|name| (name, table.words(name)));
    let of = |name: &str, row: usize| columns.iter().find(|(n, _)| *n == name)?.1?.at(row);
    let recent: Vec<usize> = (0..table.len())
        .rev()
        .filter(|row| of("phase", *row) == Some(PhaseTag::Train.as_str()) && of("ending", *row).is_some())
        .take(RECENT)
        .collect();
    if recent.len() < FEW {
        return Vec::new();
    }
    let share =
        |holds: &dyn Fn(usize) -> bool| recent.iter().filter(|row| holds(**row)).count() as f64 / recent.len() as f64;
    let shown = |share: f64, max: f64| {
        format!(
            "{:.1} % of the last {} training rollouts (alarm above {:.0} %)",
            share * 100.0,
            recent.len(),
            max * 100.0
        )
    };
    let mut found = Vec::new();
    let mut check = |share: f64, max: f64, level: Level, title: &str, filter: &str| {
        if share > max {
            found.push(alarm(level, title, shown(share, max), Some(filter)));
        }
    };
    let lost = share(&|row| matches!(of("ending", row), Some("faulted" | "group_too_small")));
    check(
        lost,
        LOST_MAX,
        Level::Grave,
        "rollouts are lost to faults of ours",
        "ending = faulted or ending = group_too_small",
    );
    check(
        share(&|row| of("ending", row) == Some("stale")),
        LOST_MAX,
        Level::Warn,
        "rollouts go stale",
        "ending = stale",
    );
    let truncated = share(&|row| of("finish", row) == Some("length"));
    check(truncated, TRUNCATED_MAX, Level::Warn, "answers are cut off at their length limit", "finish = length");
    let rejected = share(&|row| matches!(of("verdict", row), Some("rejected" | "implausible")));
    check(
        rejected,
        REJECTED_MAX,
        Level::Warn,
        "answers are rejected as hacks or not Triton",
        "verdict = rejected or verdict = implausible",
    );
    found.extend(equal_groups(&table, &recent));
    found
}

/// Groups whose rewards were all equal teach nothing.
fn equal_groups(table: &super::table::Table, recent: &[usize]) -> Option<Alarm> {
    let (plan, code, group) = (table.number("reward_plan"), table.number("reward_code"), table.number("grp"));
    let mut groups: BTreeMap<u64, (u64, bool, f64, f64)> = BTreeMap::new();
    for row in recent.iter().filter(|row| !code[**row].is_nan()) {
        let seen = groups.entry(group[*row] as u64).or_insert((0, true, plan[*row], code[*row]));
        *seen = (seen.0 + 1, seen.1 && seen.2 == plan[*row] && seen.3 == code[*row], seen.2, seen.3);
    }
    let whole: Vec<bool> = groups.values().filter(|g| g.0 > 1).map(|g| g.1).collect();
    let equal = whole.iter().filter(|e| **e).count() as f64 / whole.len().max(1) as f64;
    (whole.len() >= 8 && equal > EQUAL_GROUPS_MAX).then(|| {
        let detail = format!(
            "{:.0} % of the last {} groups (alarm above {:.0} %): no advantage, nothing to learn",
            equal * 100.0,
            whole.len(),
            EQUAL_GROUPS_MAX * 100.0
        );
        alarm(Level::Warn, "groups without any difference in reward", detail, Some("ending = zero_variance"))
    })
}
