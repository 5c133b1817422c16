//! SIGUSR1 at a real run: its state lands in the run directory, and it goes on. Needs Python, see `cli_common::python`.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::cli_common::Running;
use crate::cli_kill::place;

/// Far above what a step takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn a_run_and_its_resume_write_their_state_when_asked_and_go_on() {
    let Some(place) = place() else { return };
    let files = || -> Vec<String> {
        let names = std::fs::read_dir(place.path().join("r")).unwrap().map(|e| e.unwrap().file_name());
        let mut states: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
        states.retain(|name| name.starts_with("state-") && name.ends_with(".json"));
        states.sort();
        states
    };
    for args in [&["run", "--run-dir", "r", "--set", "run.steps=1000"][..], &["resume", "r"]] {
        let mut run = Running::start(place.command(args), LIMIT);
        let signal = |name: &str, pid: u32| {
            assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
        };
        run.wait_for("step ");
        // The stages' first word comes after a second.
        let state = loop {
            let before = files().len();
            signal("-USR1", run.pid());
            run.wait_for("state written to ");
            let files = files();
            assert_eq!(files.len(), before + 1, "{files:?}");
            let text = std::fs::read(place.path().join("r").join(&files[before])).unwrap();
            let state: Value = serde_json::from_slice(&text).unwrap();
            let samples = &state["logbook"]["samples"];
            if samples["run"].is_object() && samples["pool"].is_object() {
                break state;
            }
        };
        assert_eq!((&state["what"], &state["phase"]["value"]), (&"head".into(), &"rl".into()));
        assert_eq!(state["cluster"], Value::Null);
        let samples = &state["logbook"]["samples"];
        assert!(samples["run"]["value"]["credits"] == 16 && samples["pool"]["value"]["executors"] == 1, "{state:#}");
        assert_eq!(state["logbook"]["actors"]["orchestrator"]["last"], "started");
        run.wait_for("step ");
        signal("-KILL", run.pid());
        run.end();
    }
}
