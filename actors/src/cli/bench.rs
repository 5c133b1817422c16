//! `troupe bench`: the figures in the README, reproducible.

use sandbox::hostile::{GRACE_MS, LIMITS, MixConfig};

use super::args::{BenchArgs, BenchWhat};
use super::{
    Answer, Done, Failure, bench_cluster, bench_generator, bench_inspect, bench_learner, bench_verifier, failure,
    interrupt, output, pyenv, run, runtime,
};
use crate::bench::orchestrator::{self, OrchestratorBench};
use crate::config::Config;
use crate::errors::UserError;

pub fn bench(args: BenchArgs) -> Done {
    match args.what {
        BenchWhat::Orchestrator { rollouts, json } => {
            let stop = run::signals()?;
            let scratch = std::env::temp_dir();
            output::say(format!("{rollouts} rollouts through the actor graph; the store is in {}", scratch.display()));
            let figures = orchestrator::run(rollouts, None, &stop).map_err(|e| failure::of_run(e, &scratch))?;
            if stop.asked() {
                return Err(Failure::Interrupted);
            }
            if json {
                output::pretty_json(&figures)?;
            } else {
                output::line(human(&figures))?;
            }
            Ok(Answer::Yes)
        }
        BenchWhat::Cluster(args) => bench_cluster::cluster(args),
        BenchWhat::Corpus(args) => bench_verifier::corpus(args),
        BenchWhat::Lint(args) => bench_verifier::lint(args),
        BenchWhat::Executor(args) => bench_verifier::executor(args),
        BenchWhat::Generator(args) => bench_generator::generator(args),
        BenchWhat::Learner(args) => bench_learner::learner(args),
        BenchWhat::Inspect(args) => bench_inspect::inspect(args),
        BenchWhat::Hostile { count, executors, json } => hostile(count, executors, json),
    }
}

fn hostile(count: u64, executors: u32, json: bool) -> Done {
    let python = pyenv::interpreter(&Config::load_here(&[], &[])?)?;
    let temp = std::env::temp_dir();
    let scratch = tempfile::Builder::new().prefix("troupe-hostile-").tempdir();
    let scratch = scratch.map_err(|e| UserError::io("make a temporary folder", &temp, &e))?;
    output::say(format!("{count} candidates, every other one hostile, on {executors} executors"));
    let scratch_dir = scratch.path().to_path_buf();
    let config = MixConfig { python, scratch: scratch_dir, count, executors, limits: LIMITS, grace_ms: GRACE_MS };
    let mix = runtime()?.block_on(async {
        tokio::select! {
            mix = sandbox::hostile::run(&config) => mix.map_err(Failure::from),
            () = interrupt::first() => Err(Failure::Interrupted),
        }
    })?;
    if json {
        output::pretty_json(&mix)?;
    } else {
        output::line(mix.table())?;
    }
    Ok(if mix.problems.is_empty() { Answer::Yes } else { Answer::No })
}

fn human(f: &OrchestratorBench) -> String {
    let endings: Vec<String> = f.endings.iter().map(|(ending, n)| format!("{ending} {n}")).collect();
    format!(
        "{:.0} rollouts/s ({} in {:.1} s)\nresident memory {:.0} MiB after a tenth, {:.0} MiB at the end\nstore {:.0} \
         MiB; rollouts: {}",
        f.rollouts_per_s,
        f.rollouts,
        f.seconds,
        f.rss_tenth_mib,
        f.rss_end_mib,
        f.store_mib,
        endings.join(", ")
    )
}
