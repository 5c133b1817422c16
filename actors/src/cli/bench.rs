//! `troupe bench`: the figures in the README, reproducible.

use super::args::{BenchArgs, BenchWhat};
use super::{Answer, Done, bench_verifier, failure, output, run};
use crate::bench::orchestrator::{self, OrchestratorBench};

pub fn bench(args: BenchArgs) -> Done {
    match args.what {
        BenchWhat::Orchestrator { rollouts, json } => {
            let stop = run::signals()?;
            let scratch = std::env::temp_dir();
            output::say(format!("{rollouts} rollouts through the actor graph; the store is in {}", scratch.display()));
            let figures = orchestrator::run(rollouts, None, &stop).map_err(|e| failure::of_run(e, &scratch))?;
            if stop.asked() {
                return Err(super::Failure::Interrupted);
            }
            if json {
                output::pretty_json(&figures)?;
            } else {
                output::line(human(&figures))?;
            }
            Ok(Answer::Yes)
        }
        BenchWhat::Corpus(args) => bench_verifier::corpus(args),
        BenchWhat::Lint(args) => bench_verifier::lint(args),
        BenchWhat::Executor(args) => bench_verifier::executor(args),
    }
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
