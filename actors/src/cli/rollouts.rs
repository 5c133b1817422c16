//! `troupe rollouts`: query a run's store, while the run goes on or afterwards. Reads only.

use std::collections::BTreeSet;
use std::path::Path;

use rollout::task::TaskSpec;

use super::args::RolloutsArgs;
use super::filter::Filter;
use super::{Answer, Done, Failure, output, show};
use crate::config::Config;
use crate::errors::UserError;
use crate::store::reader::RolloutSummary;
use crate::store::{Reader, StoreError, path, schema};

pub fn rollouts(args: RolloutsArgs) -> Done {
    // The filter first: a slip in it is found without a run.
    let filter = args.filter.as_deref().map(Filter::parse).transpose()?;
    let reader = Reader::open(&args.run_dir).map_err(failure)?;
    if let Some(id) = args.show {
        return one(&args, &reader, id);
    }
    let wanted = filter.map(|f| matching(&args.run_dir, &reader, &f)).transpose()?;
    let (mut shown, mut all) = (0u64, 0u64);
    let mut failed = None;
    if args.json {
        output::line("[")?;
    } else {
        output::line(HEADER)?;
    }
    reader
        .each_summary(|summary| {
            all += 1;
            if wanted.as_ref().is_some_and(|ids| !ids.contains(&summary.id)) {
                return true;
            }
            let separator = if shown == 0 { "" } else { "," };
            shown += 1;
            let printed = if args.json { element(&summary, separator) } else { output::line(row(&summary)) };
            failed = printed.err();
            failed.is_none()
        })
        .map_err(failure)?;
    if let Some(failed) = failed {
        return Err(failed);
    }
    if args.json {
        output::line("]")?;
    } else {
        output::say(format!("{shown} of {all} rollouts"));
    }
    Ok(Answer::Yes)
}

fn one(args: &RolloutsArgs, reader: &Reader, id: u64) -> Done {
    let Some(detail) = reader.rollout(id).map_err(failure)? else {
        return Err(Failure::User(
            UserError::new("there is no such rollout in this run")
                .at(args.run_dir.display())
                .found(format!("--show {id}"))
                .expected("the id of a rollout")
                .hint(format!("`troupe rollouts {}` lists them", args.run_dir.display())),
        ));
    };
    if args.json {
        output::pretty_json(&detail)?;
    } else {
        let config = reader.meta("config").map_err(failure)?;
        let config = config.and_then(|text| Config::from_resolved(&text, &args.run_dir).ok());
        output::line(show::text(&detail, config.as_ref()))?;
    }
    Ok(Answer::Yes)
}

/// Ids of the rollouts that a filter selects.
fn matching(run_dir: &Path, reader: &Reader, filter: &Filter) -> Result<BTreeSet<u64>, Failure> {
    let levels = if filter.needs_levels() { levels(reader).map_err(failure)? } else { Vec::new() };
    let (condition, values) = filter.sql(&levels);
    let select = || -> Result<BTreeSet<u64>, StoreError> {
        let connection = schema::open_reader(&path(run_dir))?;
        let sql = format!("SELECT id FROM rollouts WHERE phase IS NOT NULL AND {condition}");
        let mut statement = connection.prepare(&sql)?;
        let rows = statement.query_map(rusqlite::params_from_iter(values), |row| row.get::<_, i64>(0))?;
        Ok(rows.map(|id| id.map(|id| id as u64)).collect::<Result<_, _>>()?)
    };
    select().map_err(failure)
}

/// The run's tasks with their levels, as they were when it began: the folder may have changed since.
fn levels(reader: &Reader) -> Result<Vec<(String, u8)>, StoreError> {
    let text = reader.meta("tasks")?.ok_or_else(|| StoreError::Incomplete("its tasks".into()))?;
    let tasks: Vec<TaskSpec> = serde_json::from_str(&text)?;
    Ok(tasks.into_iter().map(|t| (t.id.0, t.level)).collect())
}

const HEADER: &str = "        id  phase        step  policy  task                                      tokens  verdict         plan   code  ending";

fn row(s: &RolloutSummary) -> String {
    let number = |n: Option<u64>| n.map_or("-".to_string(), |n| n.to_string());
    let real = |x: Option<f64>| x.map_or("-".to_string(), |x| format!("{x:.2}"));
    format!(
        "{:>10}  {:<11}  {:>4}  {:>6}  {:<40}  {:>6}  {:<13}  {:>5}  {:>5}  {}",
        s.id,
        s.phase.as_str(),
        number(s.step),
        number(s.policy_oldest),
        s.task.0,
        number(s.n_tokens),
        s.verdict.as_deref().unwrap_or("-"),
        real(s.reward_plan),
        real(s.reward_code),
        s.ending.as_deref().unwrap_or(&s.state),
    )
}

fn element(summary: &RolloutSummary, separator: &str) -> Result<(), Failure> {
    let text = serde_json::to_string(summary).map_err(|e| Failure::Broken(format!("no JSON: {e}")))?;
    output::line(format!("{separator}{text}"))
}

/// A store that is not there or is another version's is the user's to set right; a damaged one is not.
pub fn failure(error: StoreError) -> Failure {
    let user = |what: &str, at: &Path, found: String, expected: &str, hint: &str| {
        Failure::User(UserError::new(what).at(at.display()).found(found).expected(expected).hint(hint))
    };
    match &error {
        StoreError::Missing(dir) => user(
            "this is not a run directory",
            dir,
            format!("no {} in it", crate::store::FILE),
            "a directory that `troupe run` made",
            "`troupe run` prints the run directory when it starts",
        ),
        StoreError::Exists(dir) => user(
            "this directory already holds a run",
            dir,
            format!("{} in it", crate::store::FILE),
            "a directory that is new or empty",
            "continue the run with `troupe resume`, or name another directory with --run-dir",
        ),
        StoreError::Unbegun(dir) => user(
            "this run was killed before it began",
            dir,
            format!("a {} without a configuration in it", crate::store::FILE),
            "a run that has begun",
            &format!("nothing is lost: start it again with `troupe run --run-dir {}`", dir.display()),
        ),
        StoreError::Format { path, found, expected } => user(
            "this store was made by another version of Troupe",
            path,
            format!("store format {found}"),
            &format!("store format {expected}"),
            "use the version that made it",
        ),
        StoreError::Io { path, source } => Failure::User(UserError::io("write the run directory", path, source)),
        _ => Failure::fault(crate::supervise::STORE_FAILED, error),
    }
}
