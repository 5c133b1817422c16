//! `troupe doctor`: what is missing on this machine, and a known good candidate as the proof that nothing is.

use sandbox::doctor::{Check, DoctorConfig, Status, checks, prove};
use sandbox::executor::{ExecutorConfig, Limits};
use sandbox::pyenv::{PyEnvConfig, default_cache_dir, find};
use serde::Serialize;

use super::args::DoctorArgs;
use super::{Answer, Done, Failure, interrupt, output, runtime};
use crate::config::Config;

/// The check's name.
const PROOF: &str = "known good candidate";

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
}

pub fn doctor(args: DoctorArgs) -> Done {
    let config = Config::load_here(&args.config.files, &args.config.sets)?;
    let mut all = Vec::new();
    let environment = environment(&config, &mut all);
    let scratch = scratch(&mut all);
    let limits = limits(&config);
    if let (Some(environment), Some(scratch)) = (&environment, &scratch) {
        all.extend(checks(&DoctorConfig {
            python: environment.clone(),
            scratch: scratch.path().to_path_buf(),
            workers: u32::try_from(config.executor.workers).unwrap_or(u32::MAX),
            limits,
        }));
    }
    all.push(cuda_build());
    // The proof needs an environment; making one is `troupe run`'s work.
    let python = environment.as_ref().and_then(|e| find(e).ok().flatten());
    match (python, &scratch) {
        (Some(python), Some(scratch)) => {
            output::say("running a known good candidate..");
            let (scratch, secret) = (scratch.path().to_path_buf(), rand::random());
            let require = config.executor.require_isolation.clone();
            let executor =
                ExecutorConfig { python, scratch, limits, secret, suspects: Default::default(), require, device: None };
            let proof: Result<Vec<Check>, Failure> = runtime()?.block_on(async {
                tokio::select! {
                    checks = prove(executor) => Ok(checks),
                    () = interrupt::first() => Err(Failure::Interrupted),
                }
            });
            all.extend(proof?);
        }
        (python, _) => all.push(Check {
            name: PROOF.to_string(),
            status: Status::Warn,
            found: format!(
                "not run, nor the isolation looked at: there is no {} to run it in",
                if python.is_none() { "Python environment" } else { "folder" }
            ),
            hint: Some("ask again after the first `troupe run` or `troupe verify`, which makes one".to_string()),
        }),
    }
    let report = Report { ok: all.iter().all(|c| c.status != Status::Fail), checks: all };
    if args.json {
        output::pretty_json(&report)?;
    } else {
        output::line(human(&report))?;
    }
    Ok(if report.ok { Answer::Yes } else { Answer::No })
}

/// Where the Python environment is or would be.
fn environment(config: &Config, all: &mut Vec<Check>) -> Option<PyEnvConfig> {
    let interpreter = config.python.path().map(Into::into);
    default_cache_dir()
        .map(|cache_dir| PyEnvConfig { interpreter, cache_dir })
        .inspect_err(|error| {
            let text = error.to_string();
            let (found, hint) = text.split_once("\n  hint: ").unwrap_or((&text, "set HOME or TROUPE_CACHE"));
            all.push(fails("cache directory", found, hint));
        })
        .ok()
}

fn scratch(all: &mut Vec<Check>) -> Option<tempfile::TempDir> {
    let made = tempfile::Builder::new().prefix("troupe-doctor-").tempdir();
    made.inspect_err(|error| {
        let found = format!("no folder can be made in {}: {error}", std::env::temp_dir().display());
        all.push(fails("scratch directory", &found, "point TMPDIR at a folder that can be written to"));
    })
    .ok()
}

fn fails(name: &str, found: &str, hint: &str) -> Check {
    Check { name: name.to_string(), status: Status::Fail, found: found.to_string(), hint: Some(hint.to_string()) }
}

/// The run file's limits on one candidate.
pub fn limits(config: &Config) -> Limits {
    Limits {
        compile_ms: config.executor.compile_timeout_ms,
        run_ms: config.executor.run_timeout_ms,
        memory_bytes: config.executor.memory_mb << 20,
        max_processes: config.executor.max_processes,
        ..Limits::default()
    }
}

/// Whether this binary can train on a GPU here.
fn cuda_build() -> Check {
    let (status, found, hint) = cuda_state();
    Check { name: "cuda".to_string(), status, found, hint }
}

#[cfg(feature = "cuda")]
fn cuda_state() -> (Status, String, Option<String>) {
    match model::device::missing() {
        None => (Status::Ok, "in this build; driver, GPU, cuBLASLt and NVRTC are there".to_string(), None),
        Some(error) => {
            let text = error.to_string();
            let (what, hint) =
                text.split_once("\n  hint: ").unwrap_or((&text, "needed for model.device = \"cuda\" only"));
            (Status::Warn, format!("in this build, but not usable: {what}"), Some(hint.to_string()))
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda_state() -> (Status, String, Option<String>) {
    let hint = "nothing to do on a machine without a GPU; else build with `cargo build --release --features cuda`";
    (Status::Warn, "not in this build: the policy runs on the CPU".to_string(), Some(hint.to_string()))
}

fn human(report: &Report) -> String {
    let mut out = Vec::new();
    for check in &report.checks {
        let word = match check.status {
            Status::Ok => "ok",
            Status::Warn => "note",
            Status::Fail => "MISSING",
        };
        out.push(format!("{word:<8} {:<22} {}", check.name, check.found));
        if let Some(hint) = &check.hint {
            out.push(format!("{:<31} {hint}", ""));
        }
    }
    let unproven = report.checks.iter().any(|c| c.name == PROOF && c.status == Status::Warn);
    out.push(match (report.ok, unproven) {
        (true, false) => "Troupe works here.".to_string(),
        (true, true) => "Nothing is missing so far; whether candidates run here is not known yet.".to_string(),
        (false, _) => "Troupe does not work here yet.".to_string(),
    });
    out.join("\n")
}
