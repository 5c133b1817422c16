//! `troupe doctor`: what is missing on this machine, and a known good candidate as the proof that nothing is.

use sandbox::doctor::{Check, DoctorConfig, Status, checks, prove};
use sandbox::executor::{ExecutorConfig, Limits};
use sandbox::pyenv::{PyEnvConfig, default_cache_dir, find};
use serde::Serialize;

use super::args::DoctorArgs;
use super::{Answer, Done, Failure, interrupt, output, pyenv, runtime};
use crate::config::Config;
use crate::errors::UserError;

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
}

pub fn doctor(args: DoctorArgs) -> Done {
    let config = Config::load_here(&args.config.files, &args.config.sets)?;
    let cache_dir = default_cache_dir().map_err(pyenv::failure)?;
    let environment = PyEnvConfig { interpreter: config.python.path().map(Into::into), cache_dir };
    let scratch = tempfile::Builder::new().prefix("troupe-doctor-").tempdir();
    let temp = std::env::temp_dir();
    let scratch = scratch.map_err(|e| UserError::io("make a temporary folder", &temp, &e))?;
    let limits = limits(&config);
    let mut all = checks(&DoctorConfig {
        python: environment.clone(),
        scratch: scratch.path().to_path_buf(),
        workers: u32::try_from(config.executor.workers).unwrap_or(u32::MAX),
        limits,
    });
    all.push(cuda_build());
    // The proof needs an environment; making one is `troupe run`'s work.
    if let Ok(Some(python)) = find(&environment) {
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
    let report = Report { ok: all.iter().all(|c| c.status != Status::Fail), checks: all };
    if args.json {
        output::pretty_json(&report)?;
    } else {
        output::line(human(&report))?;
    }
    Ok(if report.ok { Answer::Yes } else { Answer::No })
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
    out.push(if report.ok { "Troupe works here.".into() } else { "Troupe does not work here yet.".to_string() });
    out.join("\n")
}
