//! The real verifier behind the executors of a run: what it tells the user about this machine's isolation.
use crate::cli_common::environment;

use std::sync::{Arc, Mutex};

use actors::observe::{Observer, Progress};
use actors::policy::{isolation_note, verifier_factory};
use sandbox::Suspects;
use sandbox::executor::{Executor, ExecutorConfig, Limits};

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Observer for Notes {
    fn on(&self, progress: Progress) {
        if let Progress::Note(text) = progress {
            self.0.lock().unwrap().push(text);
        }
    }
}

/// Planted bugs that were seen, on a machine where something is missing: a note for every executor, and none at all.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_of_the_isolation_is_said_once_a_run() {
    let Some(python) = environment::python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let scratch = folder.path().to_path_buf();
    let (limits, secret) = (Limits::default(), [1; 32]);
    let config = ExecutorConfig {
        python: python.clone(),
        scratch: scratch.clone(),
        limits,
        secret,
        suspects: Suspects::default(),
        require: Vec::new(),
        device: None,
    };
    let executor = Executor::start(config).await.unwrap();
    // Nothing where everything is in force.
    let expected: Vec<String> = isolation_note(&executor.isolation().await.unwrap()).into_iter().collect();
    executor.shutdown().await;

    let notes = Arc::new(Notes::default());
    let factory = verifier_factory(python, scratch, limits, secret, Vec::new(), None, notes.clone());
    let verifiers = [factory(0).await.unwrap(), factory(1).await.unwrap()];
    assert_eq!(*notes.0.lock().unwrap(), expected);
    drop(verifiers);
}
