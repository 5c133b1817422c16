//! `troupe verify`, `lint`, `explain` and `doctor`: documents, exit codes, readable text. Executing a candidate needs an
//! interpreter with torch and triton: `TROUPE_PYTHON`, else Troupe's own environment in its cache folder.
use crate::cli_common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cli_common::{CHEAT, GOOD, Got, PARTS, Place, TASK, answer, got};
use serde_json::Value;

fn json(got: &Got) -> Value {
    serde_json::from_str(&got.out).unwrap_or_else(|e| panic!("{e}\n{}\n{}", got.out, got.err))
}

const KEYS: [&str; 9] =
    ["verdict", "layers", "speedup", "timing", "findings", "compat", "fault", "protocol", "candidate"];

#[track_caller]
fn check_document(document: &Value) {
    let keys: Vec<&String> = document.as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), KEYS.len(), "{keys:?}");
    for key in KEYS {
        assert!(document.get(key).is_some(), "{key} is missing");
    }
    for layer in ["extracted", "syntax", "functional", "compiled", "correct"] {
        assert!(document["layers"].get(layer).is_some(), "{layer} is missing");
    }
    assert_eq!(document["protocol"].as_str().unwrap().len(), 64);
}

#[test]
fn a_cheat_is_rejected_without_python() {
    let place = Place::new();
    place.put("task.py", TASK);
    place.put("cheat.py", CHEAT);
    let got = place.troupe(&["verify", "task.py", "cheat.py", "--json"]);
    assert_eq!(got.code, Some(1), "{}", got.err);
    let document = json(&got);
    check_document(&document);
    assert_eq!(document["verdict"], "rejected");
    assert_eq!(document["layers"]["extracted"], true);
    assert_eq!(document["layers"]["compiled"], Value::Null);
    assert_eq!(document["candidate"].as_str().unwrap().len(), 64);
    let first = &document["findings"][0];
    assert!(first["code"].as_str().unwrap().starts_with('K') && first["severity"] == "reject", "{first}");
    assert!(first["line"].is_u64() && first["message"].is_string(), "{first}");
    // The same for a reader: the layers one by one, the source line marked.
    let got = place.troupe(&["verify", "task.py", "cheat.py"]);
    assert_eq!(got.code, Some(1));
    for text in ["extracted   yes", "compiled    not reached", "rejected: K"] {
        assert!(got.out.contains(text), "{}", got.out);
    }
}

#[test]
fn an_answer_without_one_program_is_unparsed() {
    let place = Place::new();
    place.put("task.py", TASK);
    place.put("none.md", "<think>a plan</think>\nno code\n");
    place.put("two.txt", format!("{}\n```python\n{GOOD}```\n", answer(GOOD)));
    for file in ["none.md", "two.txt"] {
        let got = place.troupe(&["verify", "task.py", file, "--json"]);
        assert_eq!(got.code, Some(1), "{}", got.err);
        let document = json(&got);
        check_document(&document);
        assert_eq!(document["verdict"], "unparsed");
        assert_eq!(document["layers"]["extracted"], false);
        assert_eq!(document["layers"]["syntax"], Value::Null);
        assert_eq!(document["candidate"], Value::Null);
    }
}

#[test]
fn what_cannot_be_verified_is_an_error_of_usage() {
    let place = Place::new();
    place.put("task.py", TASK);
    place.put("good.py", GOOD);
    place.put("good.rs", GOOD);
    place.put("latin.py", b"x = '\xe9'\n");
    place.put("broken_task.py", "def get_inputs(:\n");
    let verify = |task: &str, candidate: &str| place.troupe(&["verify", task, candidate]);
    verify("nowhere.py", "good.py").fails(2, &["cannot read the task file", "nowhere.py", "hint:"]);
    verify("task.py", "nowhere.py").fails(2, &["cannot read the candidate", "nowhere.py", "hint:"]);
    verify("task.py", "good.rs").fails(2, PARTS).fails(2, &["`.rs`", "`.md`, `.txt`"]);
    verify("task.py", "latin.py").fails(2, PARTS).fails(2, &["UTF-8", "offset 5"]);
    verify("broken_task.py", "good.py").fails(2, PARTS).fails(2, &["broken_task.py, line 1"]);
    // Where a GPU is asked for and there is none.
    let uuid = "gpu.devices=GPU-none";
    let got = place.troupe(&["verify", "task.py", "good.py", "--device", "cuda", "--set", uuid]);
    got.fails(2, PARTS).fails(2, &["gpu.devices", "GPU-none", "troupe doctor"]);
}

#[test]
fn lint_prints_one_line_of_json_a_file_and_exits_1_when_one_is_bad() {
    let place = Place::new();
    place.put("task.py", TASK);
    place.put("good.py", GOOD);
    place.put("good.md", answer(GOOD));
    place.put("cheat.py", CHEAT);
    place.put("broken.py", "def f(:\n");
    let files = ["good.py", "good.md", "cheat.py", "broken.py"];
    let got = place.troupe(&[&["lint", "--json", "--task", "task.py"], &files[..]].concat());
    assert_eq!(got.code, Some(1), "{}", got.err);
    let lines: Vec<Value> = got.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    for (line, file) in lines.iter().zip(files) {
        assert_eq!(line["file"], file);
        assert_eq!(line.as_object().unwrap().len(), 4, "{line}");
    }
    let layers: Vec<(bool, bool)> =
        lines.iter().map(|l| (l["syntax"].as_bool().unwrap(), l["functional"].as_bool().unwrap())).collect();
    assert_eq!(&layers[..2], [(true, true), (true, true)]);
    assert!(!layers[2].0 || !layers[2].1, "{layers:?}");
    assert!(!layers[3].0, "{layers:?}");
    let got = place.troupe(&["lint", "good.py"]);
    assert!(got.succeeds().out.contains("good.py: ok"), "{}", got.out);
    // The line is marked.
    let got = place.troupe(&["lint", "broken.py"]);
    assert!(got.code == Some(1) && got.out.contains(">    1 | def f(:"), "{}", got.out);
    place.troupe(&["lint", "good.py", "nowhere.py"]).fails(2, &["nowhere.py"]);
    place.troupe(&["lint"]).fails(2, &["FILE"]);
}

#[test]
fn explain_has_a_page_for_every_code_that_it_lists() {
    let place = Place::new();
    let list = place.troupe(&["explain"]);
    let codes: Vec<&str> = list.succeeds().out.lines().filter_map(|l| l.split(':').next()).collect();
    assert!(codes.contains(&"K001") && codes.contains(&"F001") && codes.contains(&"F101"), "{codes:?}");
    for code in &codes {
        let got = place.troupe(&["explain", &code.to_lowercase()]);
        assert!(got.succeeds().out.starts_with(&format!("# {code}")), "{}", got.out);
    }
    place.troupe(&["explain", "K9999"]).fails(2, PARTS);
}

#[test]
fn a_good_candidate_passes_and_a_wrong_one_does_not() {
    let Some(python) = cli_common::python() else { return };
    let place = Place::new();
    place.put("task.py", TASK);
    place.put("good.md", answer(GOOD));
    place.put("wrong.py", GOOD.replace("value > 0, value, 0.0", "value > 0, value, 0.5"));
    let set = format!("python.interpreter={}", python.display());
    let verify =
        |file: &str, more: &[&str]| got(place.command(&[&["verify", "task.py", file, "--set", &set], more].concat()));
    let good = verify("good.md", &["--json", "--no-timing", "--seed", "3"]);
    assert_eq!(good.code, Some(0), "{}{}", good.out, good.err);
    let document = json(&good);
    check_document(&document);
    assert_eq!(document["verdict"], "passed");
    assert!(document["layers"].as_object().unwrap().values().all(|v| v == true), "{document}");
    assert_eq!((&document["speedup"], &document["timing"]), (&Value::Null, &Value::Null));
    assert_eq!(document["compat"]["kernelbench_1e-4"], true);
    let wrong = verify("wrong.py", &["--json"]);
    assert_eq!(wrong.code, Some(1), "{}{}", wrong.out, wrong.err);
    let document = json(&wrong);
    assert_eq!((&document["verdict"], &document["layers"]["correct"]), (&"wrong_answer".into(), &false.into()));
    // On a device, here the processor in its place, it is timed unless nobody wants that.
    let there =
        |more: &[&str]| json(&verify("good.md", &[&["--json", "--set", "gpu.devices=processor"], more].concat()));
    assert!(there(&[])["timing"].is_object());
    let untimed = there(&["--no-timing"]);
    assert_eq!(
        (&untimed["verdict"], &untimed["speedup"], &untimed["timing"]),
        (&"passed".into(), &Value::Null, &Value::Null)
    );
    assert_eq!(there(&["--device", "cpu"])["timing"], Value::Null);
    let human = verify("good.md", &[]);
    assert!(human.out.contains("correct     yes") && human.out.contains("relu_kernel on a grid of"), "{}", human.out);
}

/// Verifies this candidate on this task as `--json`; exit code and document.
fn verified(python: &Path, task: &str, candidate: &str) -> (Got, Value) {
    let place = Place::new();
    place.put("task.py", task);
    place.put("candidate.py", candidate);
    let set = format!("python.interpreter={}", python.display());
    let got = place.troupe(&["verify", "task.py", "candidate.py", "--json", "--set", &set]);
    let document = json(&got);
    check_document(&document);
    (got, document)
}

/// Planted bug that was seen: the static layer kept, so that nothing in the document said why it is rejected.
#[test]
fn a_program_that_launches_nothing_when_it_runs_is_not_functional() {
    let Some(python) = cli_common::python() else { return };
    // A grid of no blocks, which only the shape of the input makes so.
    let never = GOOD.replace("triton.cdiv(n, 256),", "n // 65536,");
    let (got, document) = verified(&python, TASK, &never);
    assert_eq!(got.code, Some(1), "{}{}", got.out, got.err);
    assert_eq!(document["verdict"], "rejected", "{document}");
    let findings = document["findings"].as_array().unwrap();
    let rejecting: Vec<_> = findings.iter().filter(|f| f["severity"] == "reject").map(|f| &f["code"]).collect();
    assert_eq!(rejecting, ["K101"], "the rules must let it through, the run must not: {document}");
    let layers = &document["layers"];
    assert_eq!((&layers["syntax"], &layers["functional"]), (&true.into(), &false.into()), "{document}");
    assert_eq!((&layers["compiled"], &layers["correct"]), (&Value::Null, &Value::Null), "{document}");
}

/// Planted bug that was seen: a fault answered as "no", exit code 1.
#[test]
fn a_fault_of_ours_is_no_verdict_on_the_candidate() {
    let Some(python) = cli_common::python() else { return };
    let raises = TASK.replace("return torch.relu(x)", "raise ValueError('the reference is broken')");
    let (got, document) = verified(&python, &raises, GOOD);
    got.fails(3, &["fault F006", "the reference is broken", "troupe explain F006"]);
    assert_eq!(document["verdict"], "fault");
    let fault = document["fault"].as_object().unwrap();
    assert_eq!(fault.keys().collect::<Vec<_>>(), ["code", "message"]);
    assert_eq!(fault["code"], "F006");
    assert!(fault["message"].as_str().unwrap().contains("the reference is broken"), "{document}");
    let layers = &document["layers"];
    assert_eq!((&layers["functional"], &layers["compiled"]), (&true.into(), &Value::Null), "{document}");
}

/// As on Debian without `python3-venv`. Planted bug that was seen: `doctor` that says "the first run makes it".
#[test]
fn doctor_names_a_python_that_cannot_make_an_environment() {
    let place = Place::new();
    let python = place.put(
        "empty/python3",
        "#!/bin/sh\ncase \"$*\" in *ensurepip*) echo \"ModuleNotFoundError: No module named 'ensurepip'\" >&2; exit 1;; esac\n\
         echo '{\"python\": [3, 12], \"site\": \"/nowhere\", \"torch\": null, \"triton\": null, \"numpy\": null}'\n",
    );
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    let got = place.troupe(&["doctor", "--json"]);
    assert_eq!(got.code, Some(1), "{}{}", got.out, got.err);
    let document = json(&got);
    let checks = document["checks"].as_array().unwrap();
    let check = checks.iter().find(|c| c["name"] == "python environment").unwrap();
    assert_eq!(check["status"], "fail", "{check}");
    let (found, hint) = (check["found"].as_str().unwrap(), check["hint"].as_str().unwrap());
    assert!(
        found.contains("cannot make virtual environments") && found.contains("No module named 'ensurepip'"),
        "{found}"
    );
    assert!(hint.contains("apt install python3-venv") && !hint.contains('\n'), "{hint}");
}
