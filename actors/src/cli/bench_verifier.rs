//! `troupe bench corpus`, `lint` and `executor`: what the verifier stops, and what it costs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sandbox::Suspects;
use sandbox::executor::ExecutorConfig;

use super::args::{CorpusArgs, ExecutorBenchArgs, LintBenchArgs};
use super::{Answer, Done, Failure, bench_device, doctor, interrupt, output, pyenv, runtime};
use crate::bench::{corpus, executor, lint};
use crate::config::Config;
use crate::errors::UserError;
use crate::policy::Gpus;

pub fn corpus(args: CorpusArgs) -> Done {
    let mut entries = corpus::load(&args.corpus)?;
    if let Some(part) = &args.only {
        entries.retain(|e| e.file.contains(part.as_str()));
    }
    let (config, scratch, gpus) = ready(&args.sets)?;
    let bar = ProgressBar::new(entries.len() as u64);
    bar.set_style(
        ProgressStyle::with_template("{pos}/{len} candidates, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let shown = bar.clone();
    let figures = wait(corpus::run(
        entries,
        args.workers,
        args.behind,
        |n| config(scratch.path(), n),
        gpus,
        move |done| shown.set_position(done as u64),
    ))?;
    bar.finish_and_clear();
    if args.json {
        output::pretty_json(&figures)?;
    } else {
        output::line(corpus::table(&figures))?;
    }
    let good = figures.false_accepts + figures.false_rejects + figures.other_layer + figures.unjudged == 0;
    Ok(if good { Answer::Yes } else { Answer::No })
}

pub fn lint(args: LintBenchArgs) -> Done {
    let entries = corpus::load(&args.corpus)?;
    let f = lint::run(&entries, Duration::from_secs(args.seconds));
    if args.json {
        output::pretty_json(&f)?;
    } else {
        output::line(format!(
            "{:.0} candidates/s on one core ({} candidates of {} bytes on average, {} passes in {:.1} s)\nslowest: {} \
             with {:.2} ms",
            f.per_s, f.candidates, f.mean_bytes, f.passes, f.seconds, f.slowest, f.slowest_ms
        ))?;
    }
    Ok(Answer::Yes)
}

pub fn executor(args: ExecutorBenchArgs) -> Done {
    if !args.cpu {
        return bench_device::executor(args);
    }
    let (config, scratch, _) = ready(&args.sets)?;
    let (task, candidate) = sandbox::doctor::known_good();
    output::say(format!("{} candidates, then {} processes of the peer", 2 * args.candidates, args.peer));
    let make = |n| config(scratch.path(), n);
    let f = wait(executor::run(&task, &candidate, args.candidates, args.peer, args.workers, make))?;
    if args.json {
        output::pretty_json(&f)?;
    } else {
        output::line(format!(
            "one warm executor: median {:.0} ms, 95 % within {:.0} ms, at most {:.0} ms a candidate ({})\n{} executors: \
             {:.2} candidates/s\na fresh Python process with KernelBench's checks alone: median {:.0} ms, {:.2} \
             candidates/s with {} at once ({})\nratio {:.1}",
            f.median_ms,
            f.p95_ms,
            f.max_ms,
            f.candidates,
            f.workers,
            f.per_s,
            f.peer_median_ms,
            f.peer_per_s,
            f.workers,
            f.peer_candidates,
            f.ratio
        ))?;
    }
    Ok(Answer::Yes)
}

type MakeConfig = Box<dyn Fn(&Path, usize) -> ExecutorConfig>;

/// An environment, a folder, how executors are configured in it, and the GPUs they use.
fn ready(sets: &[String]) -> Result<(MakeConfig, tempfile::TempDir, Option<Arc<Gpus>>), Failure> {
    let config = Config::load_here(&[], sets)?;
    let python = pyenv::interpreter(&config)?;
    let temp = std::env::temp_dir();
    let scratch = tempfile::Builder::new().prefix("troupe-bench-").tempdir();
    let scratch = scratch.map_err(|e| UserError::io("make a temporary folder", &temp, &e))?;
    let (limits, secret, suspects) = (doctor::limits(&config), rand::random(), Suspects::default());
    let gpus = Gpus::find(&config, &python, scratch.path(), secret)?;
    let make = move |scratch: &Path, number: usize| ExecutorConfig {
        python: python.clone(),
        scratch: scratch.join(format!("executor-{number}")),
        limits,
        secret,
        suspects: suspects.clone(),
        require: Vec::new(),
        device: None,
    };
    Ok((Box::new(make), scratch, gpus))
}

fn wait<T>(work: impl Future<Output = Result<T, rollout::outcome::Fault>>) -> Result<T, Failure> {
    runtime()?.block_on(async {
        tokio::select! {
            result = work => Ok(result?),
            () = interrupt::first() => Err(Failure::Interrupted),
        }
    })
}
