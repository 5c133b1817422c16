//! `troupe bench cluster --peer-python`: the executors' stage as a loop, ours and Ray's in turns.

use std::path::Path;

use serde_json::json;

use super::args_cluster::ClusterBenchArgs;
use super::{Answer, Done, Failure, interrupt, output, run, runtime};
use crate::bench::cluster::peer;
use crate::bench::cluster::versus::{self, Load, PeerPlan, Reached};
use crate::errors::UserError;

/// Each side once, so often, the order turned round each time.
pub fn versus(args: &ClusterBenchArgs, python: &Path) -> Done {
    let stop = run::signals()?;
    let temp = std::env::temp_dir();
    let scratch = tempfile::Builder::new().prefix("troupe-ray-").tempdir();
    let scratch = scratch.map_err(|e| UserError::io("make a temporary folder", &temp, &e))?;
    for &nodes in &args.nodes {
        let load = Load {
            takes_ms: args.takes_ms,
            nodes,
            workers: args.workers,
            in_flight: args.depth * u64::from(nodes * args.workers),
            warm_up_s: args.seconds / 5.0,
            seconds: args.seconds,
        };
        // Who is measured: ours, or a layout of Ray's with so many candidates in a call.
        let mut sides: Vec<Option<(&'static str, u64)>> = vec![None];
        for layout in ["driver", "actors"] {
            sides.extend(args.peer_batch.iter().map(|batch| Some((layout, *batch))));
        }
        let mut all: Vec<(String, Vec<Reached>)> = sides.iter().map(|side| (name(*side), Vec::new())).collect();
        if !args.json {
            output::line(format!(
                "{nodes} nodes of {} executors, candidates of {} ms, {} in flight\n{:<18} {:>5} {:>11} {:>9} {:>9} {:>9} {:>10}  versions",
                args.workers,
                args.takes_ms,
                load.in_flight,
                "side",
                "round",
                "rollouts/s",
                "p50 ms",
                "p99 ms",
                "PSS MiB",
                "processes"
            ))?;
        }
        for round in 0..args.repeats {
            let mut order: Vec<usize> = (0..sides.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for n in order {
                let found = match sides[n] {
                    None => versus::ours(args.port, &load, &stop)?,
                    Some((layout, batch)) => {
                        let plan = PeerPlan::new(load, layout, batch, scratch.path());
                        runtime()?.block_on(async {
                            tokio::select! {
                                found = peer::ray(python, &plan) => found.map_err(Failure::from),
                                () = interrupt::first() => Err(Failure::Interrupted),
                            }
                        })?
                    }
                };
                let side = &all[n].0;
                if args.json {
                    output::json(&json!({ "side": side, "round": round, "load": load, "found": found }))?;
                } else {
                    output::line(row(side, &round.to_string(), &found))?;
                }
                all[n].1.push(found);
            }
        }
        if !args.json {
            told(&all)?;
        }
    }
    Ok(Answer::Yes)
}

fn name(side: Option<(&'static str, u64)>) -> String {
    side.map_or("troupe".into(), |(layout, batch)| format!("ray {layout} x{batch}"))
}

/// The median round of each side, and how many times as many rollouts ours does.
fn told(all: &[(String, Vec<Reached>)]) -> Result<(), Failure> {
    let mut ours = None;
    for (side, rounds) in all {
        let mut sorted: Vec<&Reached> = rounds.iter().collect();
        sorted.sort_by(|a, b| a.rollouts_per_s.total_cmp(&b.rollouts_per_s));
        let Some(median) = sorted.get(sorted.len() / 2) else { continue };
        let ours = ours.get_or_insert(median.rollouts_per_s);
        output::line(format!("{}  ours is {:.1}x", row(side, "median", median), *ours / median.rollouts_per_s))?;
    }
    Ok(())
}

fn row(side: &str, round: &str, f: &Reached) -> String {
    format!(
        "{side:<18} {round:>5} {:>11.0} {:>9.2} {:>9.2} {:>9.0} {:>10}  {}",
        f.rollouts_per_s, f.p50_ms, f.p99_ms, f.pss_mib, f.processes, f.versions
    )
}
