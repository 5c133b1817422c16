//! `troupe run` with a generation server, through the binary: a whole run whose answers and weights go over HTTP, and what is said
//! about a server that is not there. Needs Python, see `cli_common::python`.
use crate::cli_common;
use crate::endpoint;
use crate::lab;
use crate::server;

use std::time::Duration;

use cli_common::{GOOD, PARTS, Place, TASK, answer};
use lab::Lab;
use server::Form;

/// As `cli_run`'s, with answers from a server.
fn place(python: &str, base_url: &str, more: &str) -> Place {
    let place = Place::new();
    place.put("tasks/train/level1/relu_a.py", TASK);
    place.put("tasks/train/level1/relu_b.py", TASK.replace("16, 64", "8, 32"));
    place.put("tasks/held_out/level2/relu_c.py", TASK.replace("16, 64", "4, 16"));
    place.put("examples/relu_a__1.md", answer(GOOD));
    place.put(
        "cluster.toml",
        format!(
            "tasks.dir = \"tasks\"\npython.interpreter = \"{python}\"\neval.samples = 2\nrun.steps = 2\n\
             [model]\nhidden = 32\nlayers = 1\nheads = 2\nkv_heads = 1\nff = 64\nvocab = 400\n\
             [sft]\nexamples = \"examples\"\nepochs = 1\n\
             [sampling]\nmax_new_tokens = 320\n\
             [rollout]\ngroup_size = 2\ngroups_per_step = 2\ncredits = 16\ndrop_zero_variance = false\n\
             [executor]\nworkers = 1\n\
             [generator]\nkind = \"openai\"\nbase_url = \"{base_url}\"\n{more}\n",
        ),
    );
    place
}

#[test]
fn a_whole_run_on_a_server() {
    let Some(python) = cli_common::python() else { return };
    let python = python.display().to_string();
    for (form, more) in [(Form::Vllm, "model = \"served\""), (Form::SglangWhole, "server = \"sglang\"")] {
        let lab = Lab::open(form, Duration::ZERO, |_| false);
        let place = place(&python, &format!("http://{}/v1", lab.server.address), more);
        let planned = place.troupe(&["run", "--dry-run"]);
        let name = if form == Form::Vllm { "vLLM at http://" } else { "SGLang at http://" };
        assert!(planned.succeeds().out.contains(name), "{}", planned.out);
        let run = place.troupe(&["run"]);
        run.succeeds();
        for text in ["steps      2 (policy 2)", "held out   1 tasks", "faults     0"] {
            assert!(run.out.contains(text), "{}", run.out);
        }
        assert_eq!(lab.version(), 2);
        // 2 x 2 answers of the evaluations, 2 steps of 2 groups of 2.
        assert_eq!(lab.given().len(), 4 + 8, "{form:?}");
        let served = place.path().join("runs/001/served/v000002");
        let trained = place.path().join("runs/001/policy");
        let read = |dir: &std::path::Path| std::fs::read(dir.join("model.safetensors")).unwrap();
        assert!(read(&served) == read(&trained), "what was served last is what was trained last");
        // A complete run is summed up without its server.
        drop(lab);
        assert!(place.troupe(&["resume", "runs/001"]).succeeds().out.contains("steps      2 (policy 2)"));
    }
}

#[test]
fn a_server_that_is_not_there_and_a_key_that_is_not_set_are_told_before_anything_is_sampled() {
    let Some(python) = cli_common::python() else { return };
    let python = python.display().to_string();
    let place = place(&python, &endpoint::nobody(), "model = \"served\"");
    let run = place.troupe(&["run"]);
    run.fails(2, PARTS).fails(2, &["the generation server does not answer", "generator.base_url", "docs/generator.md"]);
    let run = place.troupe(&["run", "--set", "generator.api_key_env=NO_SUCH_VARIABLE"]);
    run.fails(2, PARTS).fails(2, &["the generation server's key", "NO_SUCH_VARIABLE"]);
    let run = place.troupe(&["run", "--set", "generator.base_url=http://127.0.0.1:8000"]);
    run.fails(2, PARTS).fails(2, &["no address", "does not end with /v1"]);
}
