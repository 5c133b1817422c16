//! The scripts of `tests/device` that need no GPU to show that they run.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::*;

const LIMIT: Duration = Duration::from_secs(300);

/// Planted bug: a way of `--controls` gives no figure, which shows on a rented GPU first.
#[test]
fn do_bench_measures_every_way_on_the_processor_too() {
    let Some(python) = environment::python() else { return };
    let set = std::path::Path::new("../tests/device").canonicalize().unwrap();
    let request = json!({"task": set.join("tasks/relu.py"), "candidate": set.join("candidates/relu__blocks__1.py")});
    let output = runtime().block_on(async {
        let mut command = tokio::process::Command::new(python);
        command.arg(set.join("do_bench.py")).args(["--controls", "--device", "cpu"]).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut to = child.stdin.take().unwrap();
        to.write_all(format!("{request}\n").as_bytes()).await.unwrap();
        drop(to);
        tokio::time::timeout(LIMIT, child.wait_with_output()).await.expect("it ends").unwrap()
    });
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let [line] = &lines[..] else { panic!("{said} {log}") };
    assert!(line["note"].is_null() && line["host_bound"] == false, "{line} {log}");
    for way in [line, &line["controls"]["ring"], &line["controls"]["ring_kept"]] {
        assert!(way["speedup"].as_f64().is_some_and(|x| x > 0.0), "{line}");
        for side in ["reference_us", "candidate_us"] {
            assert!(way[side].as_array().is_some_and(|us| us.len() == 1 && us[0].as_f64() > Some(0.0)), "{line}");
        }
    }
}
