//! SIGKILL of the real binary, again and again; `troupe resume` continues each time and comes to the end. The tiny run
//! takes seconds. Needs Python, see `cli_common::python`.
use crate::cli_common;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use cli_common::{GOOD, PARTS, Place, Running, TASK, answer};
use serde_json::Value;

const KILLS: u64 = 3;
/// Far more than the lives before the last one take: whoever reads their lines may be late by many steps.
const STEPS: usize = 60;
/// For two lines of one life.
const LIFE: Duration = Duration::from_secs(300);

pub fn place() -> Option<Place> {
    let python = cli_common::python()?;
    let place = Place::new();
    place.put("tasks/train/level1/relu_a.py", TASK);
    place.put("tasks/train/level1/relu_b.py", TASK.replace("16, 64", "8, 32"));
    place.put("examples/relu_a__1.md", answer(GOOD));
    place.put("examples/relu_b__1.md", answer(GOOD));
    place.put(
        "cluster.toml",
        format!(
            "tasks.dir = \"tasks\"\npython.interpreter = \"{}\"\neval.enabled = false\n\
             [model]\nhidden = 32\nlayers = 1\nheads = 2\nkv_heads = 1\nff = 64\nvocab = 400\n\
             [sft]\nexamples = \"examples\"\nepochs = 2\n\
             [sampling]\nmax_new_tokens = 512\n\
             [rollout]\ngroup_size = 2\ngroups_per_step = 2\ncredits = 16\ndrop_zero_variance = false\n\
             [executor]\nworkers = 1\n\
             [run]\nsteps = {STEPS}\n",
            python.display()
        ),
    );
    Some(place)
}

/// Lines about a step before the kill: what the first of them told is committed before the second step begins.
const LINES: u64 = 2;

/// Starts a command, waits for its lines, and then a moment more that differs; SIGKILL.
fn kill_after(place: &Place, args: &[&str], moment: Duration) {
    let mut running = Running::start(place.command(args), LIFE);
    (0..LINES).for_each(|_| running.wait_for("step "));
    std::thread::sleep(moment);
    assert!(Command::new("kill").args(["-9", &running.pid().to_string()]).status().unwrap().success());
    let ended = running.end();
    assert_eq!(ended.code, None, "it ended by itself:\n{}", ended.err);
}

fn trained(place: &Place) -> Vec<Value> {
    let got = place.troupe(&["rollouts", "r", "--json", "--filter", "ending = trained"]);
    serde_json::from_str(&got.succeeds().out).unwrap()
}

#[test]
fn the_binary_killed_in_the_middle_is_continued_by_resume() {
    let Some(place) = place() else { return };
    let mut before = 0;
    for n in 0..KILLS {
        let args: &[&str] = if n == 0 { &["run", "--run-dir", "r"] } else { &["resume", "r"] };
        kill_after(&place, args, Duration::from_millis(23 * n));
        let now = trained(&place).len();
        assert!(now > before, "life {n} trained nothing: {now} rollouts, {before} before");
        before = now;
    }
    let end = place.troupe(&["resume", "r"]);
    assert!(end.succeeds().out.contains(&format!("steps      {STEPS} (policy {STEPS})")), "{}", end.out);
    assert!(end.out.contains("faults     0"), "{}", end.out);
    // Each step took its whole batch once: none trained twice, none lost.
    let rows = trained(&place);
    let ids: BTreeSet<u64> = rows.iter().map(|r| r["id"].as_u64().unwrap()).collect();
    let steps: BTreeSet<u64> = rows.iter().map(|r| r["step"].as_u64().unwrap()).collect();
    assert_eq!((rows.len(), ids.len(), steps.len()), (4 * STEPS, 4 * STEPS, STEPS));
    // The weights are gone: going on would train another policy under the same numbers. Planted: no look at the store's
    // steps (as it was). Seen by a reviewer: exit code 0, and step 4 trained policy 1.
    std::fs::remove_dir_all(place.path().join("r/checkpoints")).unwrap();
    let got = place.troupe(&["resume", "r"]);
    got.fails(2, PARTS).fails(2, &["newest weights are gone", "newest.json", &format!("step {STEPS} was trained")]);
}
