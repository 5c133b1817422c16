//! `troupe bench cluster --drills`: hits, told as they come, and a line for each drill.

use std::path::Path;

use serde_json::json;

use super::args_cluster::ClusterBenchArgs;
use super::{Answer, Done, Failure, failure, output, run};
use crate::bench::cluster::drill::{self, ALL, BACK, Drill, Hit, Verdict};
use crate::bench::cluster::{limits, scene, tun, whole};
use crate::errors::UserError;

/// The drills' own head.
pub fn head(dir: &Path, listen: &str, sampled: bool) -> Done {
    let stop = run::signals()?;
    whole::head(&scene::whole(dir, listen, sampled)?, &stop).map_err(|e| failure::of_run(e, dir))?;
    Ok(Answer::Yes)
}

/// One end of a bad network.
pub fn end() -> Done {
    tun::serve().map_err(|e| UserError::new("no TUN device can be had").found(e.to_string()))?;
    Ok(Answer::Yes)
}

pub fn drills(args: &ClusterBenchArgs) -> Done {
    let stop = run::signals()?;
    let names = || ALL.map(|(name, _)| name).join(", ");
    if let Some(other) = args.only.iter().find(|name| !ALL.iter().any(|(known, _)| known == name)) {
        return Err(UserError::new("no such drill").at("--only").found(other).expected(names()).into());
    }
    let program =
        std::env::current_exe().map_err(|e| UserError::new("this program cannot be found").found(e.to_string()))?;
    let mut good = true;
    for (name, what) in ALL.into_iter().filter(|(name, _)| args.only.is_empty() || args.only.iter().any(|o| o == name))
    {
        let mut hits: Vec<Hit> = Vec::new();
        let ended = drill::run(what, &program, args.repeats, args.port, &stop, BACK, |n, hit| {
            output::say(format!("{name} {n}: {}", line(hit)));
            hits.push(hit.clone());
        });
        if stop.asked() {
            return Err(Failure::Interrupted);
        }
        good &= told(name, what, &hits, ended, args.json)?;
    }
    Ok(if good { Answer::Yes } else { Answer::No })
}

/// One drill's row; false where the run did not stand it.
fn told(
    name: &str,
    what: Drill,
    hits: &[Hit],
    ended: Result<whole::Books, Verdict>,
    as_json: bool,
) -> Result<bool, Failure> {
    let (books, why) = match ended {
        Ok(books) => (Some(books), None),
        Err(Verdict::Skipped(why)) => (None, Some(format!("skipped: {why}"))),
        Err(Verdict::Failed(why)) => (None, Some(format!("FAILED: {why}"))),
    };
    let failed = why.as_ref().is_some_and(|why| why.starts_with("FAILED"));
    let late = limits::late(what, hits);
    let wrong = books.as_ref().is_some_and(|books| !books.wrong.is_empty());
    if as_json {
        output::json(
            &json!({ "drill": what, "hits": hits, "books": books, "why": why, "limits": limits::told(what), "late": late }),
        )?;
    } else {
        output::line(format!(
            "{name:<16} {:>3} hits | suspected {} | noticed {} | at work again {} | rate back {}",
            hits.len(),
            spread(hits, |hit| hit.suspected_ms),
            spread(hits, |hit| hit.noticed_ms),
            spread(hits, |hit| hit.recovered_ms),
            spread(hits, |hit| Some(hit.rate_back_ms)),
        ))?;
        if let Some(books) = &books {
            let said =
                if books.wrong.is_empty() { "nothing lost, nothing twice".into() } else { books.wrong.join("; ") };
            output::line(format!(
                "{:<16} {} sampled = {} trained + {} dropped + {} in flight; {} steps; faults {:?}: {said}",
                "", books.sampled, books.trained, books.dropped, books.in_flight, books.steps, books.faults
            ))?;
        }
        let alarms = hits.iter().filter_map(|hit| hit.false_alarms);
        if let Some((suspected, lost)) = alarms.reduce(|(a, b), (c, d)| (a + c, b + d)) {
            output::line(format!(
                "{:<16} false alarms: nodes that were there, {suspected} times suspected and {lost} times lost",
                ""
            ))?;
        }
        if !hits.is_empty() {
            let kept = if late.is_empty() { "kept".into() } else { format!("NOT KEPT: {}", late.join("; ")) };
            output::line(format!("{:<16} limits ({}): {kept}", "", limits::told(what)))?;
        }
        if let Some(why) = &why {
            output::line(format!("{:<16} {why}", ""))?;
        }
    }
    Ok(!failed && !wrong && late.is_empty())
}

fn line(hit: &Hit) -> String {
    let ms = |value: Option<u64>| value.map_or("-".into(), |ms| format!("{ms} ms"));
    let packets = hit
        .packets
        .map_or_else(String::new, |(passed, lost)| format!(", {passed} packets passed and {lost} were lost"));
    let alarms = hit.false_alarms.map_or_else(String::new, |(suspected, lost)| {
        format!(", false alarms: {suspected} times suspected, {lost} times lost")
    });
    format!(
        "suspected {}, noticed {}, at work again {}, rate back {} ms (before {:.0}/s){packets}{alarms}; each second {:?}",
        ms(hit.suspected_ms),
        ms(hit.noticed_ms),
        ms(hit.recovered_ms),
        hit.rate_back_ms,
        hit.rate_before,
        hit.curve
    )
}

/// Least, median and most.
fn spread(hits: &[Hit], of: impl Fn(&Hit) -> Option<u64>) -> String {
    let mut all: Vec<u64> = hits.iter().filter_map(of).collect();
    all.sort_unstable();
    match (all.first(), all.get(all.len() / 2), all.last()) {
        (Some(least), Some(median), Some(most)) => format!("{least} / {median} / {most} ms"),
        _ => "-".into(),
    }
}
