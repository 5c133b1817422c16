//! `troupe rollouts`: query a run's store, while the run goes on or afterwards. Reads only.

use std::path::Path;

use super::args::RolloutsArgs;
use super::{Answer, Done, Failure, output, printable, show};
use crate::errors::UserError;
use crate::inspect::Run;
use crate::inspect::filter::Filter;
use crate::inspect::query::summary;
use crate::store::StoreError;
use crate::store::reader::RolloutSummary;

pub fn rollouts(args: RolloutsArgs) -> Done {
    // The filter first: a slip in it is found without a run.
    let filter = args.filter.as_deref().map(Filter::parse).transpose()?;
    let run = Run::open(&args.run_dir).map_err(failure)?;
    if let Some(id) = args.show {
        return one(&args, &run, id);
    }
    run.catch_up().map_err(failure)?;
    let ids = run.matching(filter.as_ref()).map_err(failure)?;
    let table = run.table();
    if args.json {
        output::line("[")?;
    } else if !args.jsonl {
        output::line(HEADER)?;
    }
    for (n, summary) in ids.iter().filter_map(|id| summary(&table, table.row(*id)?)).enumerate() {
        if args.json || args.jsonl {
            element(&summary, if n == 0 || args.jsonl { "" } else { "," })?;
        } else {
            output::line(row(&summary))?;
        }
    }
    if args.json {
        output::line("]")?;
    } else {
        // Talk, on stderr.
        output::say(format!("{} of {} rollouts", ids.len(), table.len()));
    }
    Ok(Answer::Yes)
}

fn one(args: &RolloutsArgs, run: &Run, id: u64) -> Done {
    let Some(detail) = run.reader().and_then(|reader| reader.rollout(id)).map_err(failure)? else {
        return Err(Failure::User(
            UserError::new("there is no such rollout in this run")
                .at(args.run_dir.display())
                .found(format!("--show {id}"))
                .expected("the id of a rollout")
                .hint(format!("`troupe rollouts {}` lists them", args.run_dir.display())),
        ));
    };
    if args.jsonl {
        element(&detail, "")?;
    } else if args.json {
        output::pretty_json(&detail)?;
    } else {
        output::line(show::text(&detail, run.config()))?;
    }
    Ok(Answer::Yes)
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
        printable(&s.task.0),
        number(s.n_tokens),
        s.verdict.as_deref().unwrap_or("-"),
        real(s.reward_plan),
        real(s.reward_code),
        s.ending.as_deref().unwrap_or(&s.state),
    )
}

fn element(value: &impl serde::Serialize, separator: &str) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|e| Failure::Broken(format!("no JSON: {e}")))?;
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
        StoreError::WentOn(dir) => user(
            "this run went on while it was read",
            dir,
            "a run that writes its store now".into(),
            "a store that stays as it is, or a run that goes on from the beginning",
            "do it again: the run is read beside its writer now. What was written is not complete",
        ),
        StoreError::Io { path, source } => Failure::User(UserError::io("write the run directory", path, source)),
        _ => Failure::fault(crate::supervise::STORE_FAILED, error),
    }
}
