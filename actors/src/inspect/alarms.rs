//! What a person should look at first, with the threshold that was passed. Computed from the store alone.

use std::collections::BTreeMap;

use reward::hacks::{CLASSES, UNCLEAR};
use serde::{Deserialize, Serialize};

use super::Run;
use super::table::HACK;
use super::totals::Ledger;
use crate::store::schema::OPENED_AT;
use crate::store::{PhaseTag, Reader, StoreError};

/// A step that is open for more than this many times the median step is a stall.
const STALL: f64 = 6.0;
/// And no stall is told before this many seconds.
const STALL_MIN_MS: f64 = 30_000.0;
/// The limit where no step has told yet how long one takes, and in evaluations.
const UNKNOWN_MS: f64 = 600_000.0;
/// Shares of recent rollouts or groups above which there is an alarm.
const LOST_MAX: f64 = 0.05;
const TRUNCATED_MAX: f64 = 0.25;
const REJECTED_MAX: f64 = 0.25;
const EQUAL_GROUPS_MAX: f64 = 0.50;
/// Shares of one class of hacks: what a policy does that does not know Triton yet, and what it has to find out.
const CLUMSY_MAX: f64 = 0.25;
const SLY_MAX: f64 = 0.05;
const CLUMSY: [&str; 2] = ["delegation", "decoy"];
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

/// All alarms, the gravest first; `times` are those of the steps, `over` that nothing goes on any more.
pub fn alarms(
    run: &Run,
    reader: &Reader,
    ledger: &Ledger,
    times: &[u64],
    over: bool,
    now: u64,
) -> Result<Vec<Alarm>, StoreError> {
    let mut found = Vec::new();
    if let Some(trouble) = run.pulse().trouble {
        found.push(alarm(Level::Grave, "the store cannot be read", trouble, None));
    }
    found.extend(stall(run, reader, ledger, times, over, now)?);
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

/// What a stall is judged by; times in milliseconds.
#[derive(Default)]
struct Going {
    /// Else it evaluates.
    training: bool,
    last_step: Option<u64>,
    median: Option<f64>,
    /// When the run's newest process began.
    opened: Option<u64>,
    last_ended: Option<u64>,
    in_flight: u64,
}

impl Going {
    fn stall(&self, now: u64) -> Option<Alarm> {
        // Steps before this process say when it should have done its first, not how long it takes to begin.
        let steady = self.training && self.last_step.is_some() && self.last_step >= self.opened;
        let median = self.median.filter(|_| steady);
        let limit = median.map_or(UNKNOWN_MS, |median| (STALL * median).max(STALL_MIN_MS));
        let since = [
            (self.last_step, "the last step ended"),
            (self.opened, "the run's process began"),
            (self.last_ended.filter(|_| !self.training), "the last rollout ended"),
        ];
        let (at, what) = since.into_iter().filter_map(|(at, what)| Some((at?, what))).max_by_key(|(at, _)| *at)?;
        let age = now.saturating_sub(at) as f64;
        (age > limit).then(|| {
            let detail = format!(
                "{what} {:.0} s ago{} (alarm above {:.0} s); {} rollouts are in flight",
                age / 1000.0,
                median.map_or(String::new(), |ms| format!(", the median step takes {:.1} s", ms / 1000.0)),
                limit / 1000.0,
                self.in_flight
            );
            let title = if self.training { "no step for long" } else { "no rollout of an evaluation ended for long" };
            alarm(Level::Grave, title, detail, (self.in_flight > 0).then_some("ending = none"))
        })
    }
}

fn stall(
    run: &Run,
    reader: &Reader,
    ledger: &Ledger,
    times: &[u64],
    over: bool,
    now: u64,
) -> Result<Option<Alarm>, StoreError> {
    let done = |phase| reader.meta(crate::driver::done_key(phase)).map(|value| value.is_some());
    let trained = done(PhaseTag::Train)?;
    let evaluates = run.config().is_none_or(|config| config.eval.enabled);
    // Before its first rollout a run is set up, for as long as that takes.
    if over || ledger.is_empty() || done(PhaseTag::EvalAfter)? || (trained && !evaluates) {
        return Ok(None);
    }
    let began = match reader.meta(OPENED_AT)? {
        Some(at) => Some(at),
        None => reader.meta("started_at")?,
    };
    let newest = run.table().totals().newest();
    let going = Going {
        training: ledger.contains_key(PhaseTag::Train.as_str()) && !trained,
        last_step: times.last().copied(),
        median: median_gap(times),
        opened: began.and_then(|text| text.parse().ok()),
        last_ended: newest.map(|second| second * 1000),
        in_flight: run.pulse().open,
    };
    Ok(going.stall(now))
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
    let columns = ["phase", "ending", "finish", "verdict", HACK].map(|name| (name, table.words(name)));
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
    for class in CLASSES.iter().filter(|class| class.name != UNCLEAR) {
        let max = if CLUMSY.contains(&class.name) { CLUMSY_MAX } else { SLY_MAX };
        let title = format!("hacks, {}: {}", class.name, class.what);
        let of_class = share(&|row| of(HACK, row) == Some(class.name));
        check(of_class, max, Level::Warn, &title, &format!("hack = {}", class.name));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    fn told(going: &Going, now: u64) -> Option<String> {
        going.stall(now).map(|a| format!("{}: {}", a.title, a.detail))
    }

    #[test]
    fn a_stall_is_told_before_the_second_step_and_with_nothing_in_flight() {
        let first = Going { training: true, opened: Some(0), ..Going::default() };
        assert_eq!(told(&first, 10 * MINUTE), None);
        let said = told(&first, 10 * MINUTE + 1).unwrap();
        assert!(said.contains("the run's process began 600 s ago (alarm above 600 s); 0 rollouts"), "{said}");
        let steady = Going { last_step: Some(MINUTE), median: Some(10_000.0), ..first };
        assert_eq!(told(&steady, 2 * MINUTE), None);
        let said = told(&steady, 2 * MINUTE + 1).unwrap();
        assert!(
            said.contains("the last step ended 60 s ago, the median step takes 10.0 s (alarm above 60 s)"),
            "{said}"
        );
    }

    #[test]
    fn a_run_that_was_resumed_the_next_morning_does_not_stall_at_once() {
        let (evening, morning) = (100 * MINUTE, 800 * MINUTE);
        let resumed = Going {
            training: true,
            last_step: Some(evening),
            median: Some(1_000.0),
            opened: Some(morning),
            ..Going::default()
        };
        // It has to load its weights before it can take a step.
        assert_eq!(told(&resumed, morning + 5 * MINUTE), None);
        assert!(told(&resumed, morning + 11 * MINUTE).is_some());
        let on = Going { last_step: Some(morning + MINUTE), ..resumed };
        assert!(told(&on, morning + 2 * MINUTE).is_some(), "as before");
    }

    #[test]
    fn an_evaluation_stalls_when_none_of_its_rollouts_ends() {
        let going = Going { opened: Some(0), last_ended: Some(50 * MINUTE), in_flight: 3, ..Going::default() };
        assert_eq!(told(&going, 60 * MINUTE), None);
        let said = told(&going, 61 * MINUTE).unwrap();
        assert!(
            said.starts_with("no rollout of an evaluation ended for long: the last rollout ended 660 s ago"),
            "{said}"
        );
        let after = Going { last_step: Some(55 * MINUTE), median: Some(1_000.0), ..going };
        assert_eq!(told(&after, 62 * MINUTE), None, "it began when the last step was done");
    }
}
