//! Bad input: each slip is one clear error that names place, found, expected and a hint, with exit code 2.
use crate::cli_common;

use cli_common::{PARTS, Place, TASK};

#[test]
fn an_unknown_key_in_a_file_and_on_the_command_line() {
    let place = Place::new();
    place.put("my.toml", "[rollout]\n\ngroup_sise = 4\n");
    let got = place.troupe(&["run", "-c", "my.toml", "--dry-run"]);
    got.fails(2, PARTS).fails(2, &["my.toml, line 3", "rollout.group_sise", "did you mean `group_size`?"]);
    assert_eq!(got.out, "", "nothing on stdout");
    let got = place.troupe(&["run", "--dry-run", "--set", "learner.lrr=1"]);
    got.fails(2, PARTS).fails(2, &["--set learner.lrr=1", "did you mean `lr`?"]);
}

#[test]
fn a_key_without_effect_a_wrong_type_and_a_range() {
    let place = Place::new();
    let cases: &[(&str, &[&str])] = &[
        ("reward.uniform_beta=0.5", &["has no effect", "reward.mode = \"uniform\""]),
        ("rollout.group_size=1", &["a whole number from 2"]),
        ("rollout.group_size=abc", &["rollout.group_size", "abc"]),
        ("sampling.temperature=0", &["above 0"]),
        ("learner.gpu_recompute=true", &["has no effect", "model.device = \"cuda\""]),
        ("gpu.timing_tries=5", &["has no effect", "gpu.devices"]),
    ];
    for (set, texts) in cases {
        place.troupe(&["run", "--dry-run", "--set", set]).fails(2, PARTS).fails(2, &[set]).fails(2, texts);
    }
    if !cfg!(feature = "cuda") {
        let got = place.troupe(&["run", "--dry-run", "--set", "model.device=cuda"]);
        got.fails(2, PARTS).fails(2, &["without CUDA", "--features cuda"]);
    }
}

#[test]
fn cluster_toml_of_the_present_folder_is_the_run_file() {
    let place = Place::new();
    place.put("cluster.toml", "[run]\nseed = 4242\n");
    let got = place.troupe(&["run", "--dry-run"]);
    assert!(got.succeeds().out.contains("seed = 4242"), "{}", got.out);
    place.put("cluster.toml", "[run]\nsed = 4242\n");
    place.troupe(&["run", "--dry-run"]).fails(2, &["cluster.toml, line 2", "did you mean `seed`?"]);
    // The documented file itself is a valid run file.
    place.put("cluster.toml", actors::config::DEFAULT_TOML);
    place.troupe(&["run", "--dry-run"]).succeeds();
}

#[test]
fn a_dry_run_prints_placement_and_a_run_file_and_makes_nothing() {
    let place = Place::new();
    let got = place.troupe(&["run", "--dry-run", "--set", "steps=7"]);
    got.succeeds();
    for text in ["# placement", "executors      2", "steps = 7", "held out"] {
        assert!(got.out.contains(text), "{}", got.out);
    }
    place.put("again.toml", &got.out);
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1, "something was made");
}

#[test]
fn a_run_that_could_never_take_a_step_is_refused_before_anything_is_made() {
    let place = Place::new();
    let cases: &[(&str, &[&str])] = &[
        ("rollout.groups_per_step=40", &["no step could ever be taken", "rollout.credits = 640"]),
        ("rollout.credits=24", &["no step could ever be taken", "rollout.credits = 192"]),
        ("sft.enabled=false", &["without a warm start", "model.dir"]),
        ("executor.run_timeout_ms=330000", &["before its own limits", "rollout.execute_deadline_s = 550"]),
    ];
    for (set, texts) in cases {
        place.troupe(&["run", "--dry-run", "--set", set]).fails(2, PARTS).fails(2, &[set]).fails(2, texts);
    }
}

#[test]
fn an_evaluation_without_tasks_is_refused() {
    let place = Place::new();
    place.put("t/train/level1/relu.py", TASK);
    let got = place.troupe(&["run", "--dry-run", "--set", "tasks.dir=t"]);
    got.fails(2, PARTS).fails(2, &["nothing to evaluate", "tasks.dir = ", "eval.split = \"held_out\""]);
    place.troupe(&["run", "--dry-run", "--set", "tasks.dir=t", "--set", "eval.enabled=false"]).succeeds();
    place.put("t/validation/level1/relu2.py", TASK.replace("16, 64", "8, 8"));
    place.troupe(&["run", "--dry-run", "--set", "tasks.dir=t", "--set", "eval.split=validation"]).succeeds();
}

/// Planted: no look at the scope of a command (as it was). Seen: `verify` goes on to look for its task.
#[test]
fn a_key_of_a_run_has_no_effect_on_other_commands() {
    let place = Place::new();
    let cases: &[(&[&str], &str)] = &[
        (&["verify", "t.py", "c.py", "--set", "learner.lr=1"], "[executor], [gpu], [judge], [python]"),
        (&["sft", "--set", "rollout.credits=300"], "[sft], [model], [tasks], `run.seed`"),
        (&["sft", "--set", "sampling.top_k=3"], "`sampling.max_new_tokens`"),
        (&["doctor", "--set", "run.seed=3"], "[executor], [gpu], [python], [model]"),
    ];
    for (args, expected) in cases {
        place.troupe(args).fails(2, PARTS).fails(2, &["no effect on `troupe", expected, args.last().unwrap()]);
    }
    // A file is shared with runs.
    place.put("my.toml", "[learner]\nlr = 0.5\n");
    let got = place.troupe(&["verify", "t.py", "c.py", "-c", "my.toml"]);
    assert!(!got.err.contains("no effect"), "{}", got.err);
}

#[test]
fn a_run_that_was_killed_before_it_began() {
    let place = Place::new();
    place.put("r/run.sqlite", "");
    let got = place.troupe(&["resume", "r"]);
    got.fails(2, PARTS).fails(2, &["killed before it began", "troupe run --run-dir r"]);
    // Taken over: it comes as far as the Python that is not there, and so it does again, since nothing was begun.
    for _ in 0..2 {
        place.troupe(&["run", "--run-dir", "r"]).fails(2, PARTS).fails(2, &["error: no Python"]);
    }
}

#[test]
fn a_missing_model_folder_and_a_folder_without_a_model() {
    let place = Place::new();
    let got = place.troupe(&["run", "--set", "model.dir=nowhere", "--run-dir", "r"]);
    got.fails(2, PARTS).fails(2, &["model folder does not exist", "nowhere", "config.json"]);
    assert!(!place.path().join("r").exists(), "the run directory was made for nothing");
}

#[test]
fn missing_tasks_a_syntax_error_in_a_task_and_nothing_to_train_on() {
    let place = Place::new();
    place.troupe(&["run", "--dry-run", "--set", "tasks.dir=none"]).fails(2, &["error: ", "none", "hint:"]);
    place.put("t/train/level1/bad.py", "import torch\n\ndef get_inputs(:\n");
    let got = place.troupe(&["run", "--dry-run", "--set", "tasks.dir=t"]);
    got.fails(2, PARTS).fails(2, &["bad.py, line 3", "def get_inputs(:"]);
    place.put("k/level1/19_ReLU.py", TASK);
    let got = place.troupe(&["run", "--dry-run", "--set", "tasks.dir=k"]);
    got.fails(2, PARTS).fails(2, &["nothing to train on", "evaluation only"]);
}

#[test]
fn an_unwritable_run_directory() {
    let place = Place::new();
    // A file where a folder is wanted fails for every user, the superuser too.
    place.put("file", "x");
    for args in [&["run", "--run-dir", "file/r"][..], &["run", "--set", "run.dir=file/runs"][..]] {
        let got = place.troupe(args);
        got.fails(2, &["error: cannot", "where:", "file/r", "found:"]);
    }
}

#[test]
fn not_a_run_directory() {
    let place = Place::new();
    std::fs::create_dir(place.path().join("empty")).unwrap();
    for command in ["resume", "rollouts"] {
        let got = place.troupe(&[command, "empty"]);
        got.fails(2, PARTS).fails(2, &["not a run directory", "run.sqlite"]);
        place.troupe(&[command, "missing"]).fails(2, PARTS);
    }
}

#[test]
fn no_python_on_the_machine() {
    let place = Place::new();
    let task = place.put("task.py", TASK);
    let good = place.put("good.py", cli_common::GOOD);
    let (task, good) = (task.to_str().unwrap(), good.to_str().unwrap());
    let got = place.troupe(&["verify", task, good]);
    got.fails(2, &["error: no Python", "hint:", "python.interpreter"]);
    let got = place.troupe(&["verify", task, good, "--set", "python.interpreter=/nowhere/python"]);
    got.fails(2, &["error: ", "/nowhere/python", "hint:"]);
}

#[test]
fn unknown_flags_and_commands_are_errors_of_usage() {
    let place = Place::new();
    place.troupe(&["run", "--sett", "a=b"]).fails(2, &["--sett"]);
    place.troupe(&["rum"]).fails(2, &["rum"]);
    place.troupe(&["verify", "one.py"]).fails(2, &["CANDIDATE"]);
    for later in ["watch", "dashboard", "launch", "serve", "export", "replay"] {
        place.troupe(&[later]).fails(2, &[later]);
    }
    place.troupe(&["join", "127.0.0.1:1"]).fails(2, &["--role"]);
    place.troupe(&["join", "127.0.0.1:1", "--role", "learner"]).fails(2, &["executor"]);
}

/// What opens a cluster is looked for before anything is made or dialled.
#[test]
fn a_cluster_needs_a_cookie_and_an_address() {
    let place = Place::new();
    let without = ["--set", "cluster.cookie_env=TROUPE_NO_SUCH_COOKIE"];
    let of = |args: &[&'static str]| [args, &without[..]].concat();
    for args in [
        of(&["run", "--run-dir", "r", "--set", "cluster.listen=127.0.0.1:1"]),
        of(&["join", "127.0.0.1:1", "--role", "executor"]),
        of(&["nodes", "--head", "127.0.0.1:1"]),
    ] {
        place.troupe(&args).fails(2, PARTS).fails(2, &["TROUPE_NO_SUCH_COOKIE"]);
    }
    assert!(!place.path().join("r").exists());
    place.put("cookie", "0123456789abcdef");
    let with = ["--set", "cluster.cookie_file=cookie"];
    place.troupe(&[&["drain", "x"], &with[..]].concat()).fails(2, &["which head?", "cluster.listen"]);
    let nobody = ["join", "127.0.0.1:1", "--role", "executor", "--set", "cluster.reconnect_s=0"];
    place.troupe(&[&nobody[..], &with[..]].concat()).fails(2, PARTS).fails(2, &["no head to join"]);
    let scope = ["join", "127.0.0.1:1", "--role", "executor", "--set", "rollout.credits=9"];
    place.troupe(&scope).fails(2, &["has no effect on `troupe join`"]);
    place.troupe(&["run", "--set", "executor.workers=0"]).fails(2, PARTS).fails(2, &["nobody to evaluate"]);
    place.troupe(&["run", "--set", "cluster.lease_ms=100000"]).fails(2, &["cluster.listen"]);
    let order = ["run", "--set", "cluster.listen=127.0.0.1:1", "--set", "cluster.dead_ms=100"];
    place.troupe(&order).fails(2, PARTS).fails(2, &["heartbeat_ms < suspect_ms < dead_ms"]);
}

#[test]
fn every_command_has_help_with_an_example() {
    let place = Place::new();
    for command in [
        "run", "resume", "sft", "verify", "lint", "rollouts", "join", "nodes", "drain", "launch", "doctor", "explain",
        "bench",
    ] {
        let got = place.troupe(&[command, "--help"]);
        let example = format!("troupe {command}");
        assert!(got.succeeds().out.contains("Example") && got.out.contains(&example), "{}", got.out);
    }
    for bench in ["orchestrator", "cluster", "corpus", "lint", "executor", "generator", "learner", "inspect", "hostile"]
    {
        let got = place.troupe(&["bench", bench, "--help"]);
        assert!(got.succeeds().out.contains("Example"), "{}", got.out);
    }
    assert!(place.troupe(&["--help"]).succeeds().out.contains("Exit codes"));
}

#[test]
fn a_run_replaces_nothing_of_somebody_elses() {
    let place = Place::new();
    for name in ["policy", "warm-start", "scratch", "published", "summary.json"] {
        let dir = place.path().join(format!("mine-{name}"));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name), "precious").unwrap();
        let run_dir = dir.display().to_string();
        let got = place.troupe(&["run", "--run-dir", &run_dir, "--set", "run.steps=1"]);
        got.fails(2, PARTS).fails(2, &[name, "new or empty", "--run-dir"]);
        assert_eq!(std::fs::read_to_string(dir.join(name)).unwrap(), "precious");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "something was made");
    }
}

/// Found only once the run has begun to look around: the corrected command names the same directory.
#[test]
fn a_mistake_does_not_use_up_a_run_directory() {
    let place = Place::new();
    for _ in 0..2 {
        let got = place.troupe(&["run", "--run-dir", "first", "--set", "python.interpreter=/nowhere/python"]);
        got.fails(2, PARTS).fails(2, &["/nowhere/python"]);
        assert!(!place.path().join("first").exists());
    }
    std::fs::create_dir(place.path().join("empty")).unwrap();
    let got = place.troupe(&["run", "--run-dir", "empty", "--set", "python.interpreter=/nowhere/python"]);
    got.fails(2, PARTS);
    assert_eq!(std::fs::read_dir(place.path().join("empty")).unwrap().count(), 0, "something was left");
}

#[test]
fn what_is_no_address_is_refused_at_once() {
    let place = Place::new();
    for address in ["gpu1", "gpu1:port", ":7700", "gpu1:0", "gpu1:70000"] {
        place.troupe(&["join", address, "--role", "executor"]).fails(2, PARTS).fails(2, &[address, "HOST:PORT"]);
    }
}

#[test]
fn a_dry_run_asks_for_the_gpus_that_it_places() {
    let place = Place::new();
    place
        .troupe(&["run", "--dry-run", "--set", "gpu.devices=GPU-none"])
        .fails(2, PARTS)
        .fails(2, &["gpu.devices", "GPU-none"]);
    let got = place.troupe(&["run", "--dry-run", "--set", "gpu.devices=processor"]);
    let got = got.succeeds();
    assert!(got.out.contains("in a GPU's place") && !got.out.contains("nothing is timed"), "{}", got.out);
}
