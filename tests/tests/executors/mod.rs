//! Executors with the limits of a run, for tests that send many candidates through the whole verifier.

use std::path::PathBuf;

use actors::config::Config;
use sandbox::Suspects;
use sandbox::executor::{ExecutorConfig, Limits};

/// An executor takes about 1 GB.
const MAX_EXECUTORS: usize = 8;

pub fn count() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_EXECUTORS)
}

pub fn config(python: PathBuf, name: &str, number: usize) -> ExecutorConfig {
    let run = Config::builtin().unwrap().executor;
    let scratch = format!("{name}-{}-{number}", std::process::id());
    ExecutorConfig {
        python,
        scratch: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(scratch),
        limits: Limits {
            compile_ms: run.compile_timeout_ms,
            run_ms: run.run_timeout_ms,
            memory_bytes: run.memory_mb << 20,
            max_processes: run.max_processes,
            ..Limits::default()
        },
        secret: [7; 32],
        suspects: Suspects::default(),
        require: Vec::new(),
        device: None,
    }
}
