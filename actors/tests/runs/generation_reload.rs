//! New weights on a generation server: the control requests in their order, spans over a reload, and that a server which does
//! not take them over never goes on unnoticed.

use crate::desk;
use crate::endpoint;
use crate::server;

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actors::config::{ReloadKind, ServerKind};
use actors::crew::Taken;
use actors::openai::{Setup, Tuning};
use desk::Desk;
use endpoint::Received;
use model::sampling::Sampling;
use serde_json::{Value, json};
use server::{Form, Reply, Server, answers_path, obey, path, wait_until};

const EOS: u32 = desk::EOS;
pub const VLLM: [&str; 4] =
    ["/pause?mode=keep", "/collective_rpc", "/reset_prefix_cache?reset_running_requests=true", "/resume"];
const SGLANG: [&str; 3] = ["/pause_generation", "/update_weights_from_disk", "/continue_generation"];

fn sequence(kind: ServerKind) -> &'static [&'static str] {
    match kind {
        ServerKind::Vllm => &VLLM,
        ServerKind::Sglang => &SGLANG,
    }
}

/// The folder that a control request names.
fn folder(request: &Received) -> Option<String> {
    let body = &request.body;
    let named = body["kwargs"]["weights_path"].as_str().or(body["model_path"].as_str());
    named.map(str::to_string)
}

/// Planted: `Adopted` when the load begins. Seen: it comes before the control requests are out.
#[test]
fn a_version_is_written_loaded_and_only_then_adopted() {
    for kind in [ServerKind::Vllm, ServerKind::Sglang] {
        let server = Server::start(|_, request, reply| {
            if let Some(folder) = folder(request) {
                assert!(Path::new(&folder).is_absolute() && Path::new(&folder).is_dir(), "{folder}");
                std::thread::sleep(Duration::from_millis(100));
            }
            obey(request, reply)
        });
        let calls = sequence(kind);
        let mut desk = Desk::open(&server.section(kind));
        assert_eq!(server.paths(), calls, "the server's weights are ours before the first answer");
        assert_eq!(desk.adopt(0), Taken::Now);
        assert_eq!(desk.adopt(1), Taken::Later);
        while desk.done.adopted.is_empty() {
            assert!(desk.sampler.busy());
            desk.step().unwrap();
            assert!(desk.done.adopted.is_empty() || server.paths().len() == 2 * calls.len());
        }
        assert_eq!((&desk.done.adopted[..], desk.folders()), (&[1][..], vec!["v000000".into(), "v000001".into()]));
        // The last two stay; whatever else is there is not ours to remove.
        let served = desk.dir.path().join("served");
        std::fs::create_dir(served.join(".v000009.77.new")).unwrap();
        std::fs::create_dir(served.join("notes")).unwrap();
        for version in [2, 3] {
            desk.adopt(version);
            desk.step_until("the adoption", |done| done.adopted.last() == Some(&version));
        }
        assert_eq!(desk.folders(), ["notes", "v000002", "v000003"]);
        let named: Vec<String> = server.received().iter().filter_map(folder).collect();
        assert!(named.last().unwrap().ends_with("/served/v000003"), "{named:?}");
        if kind == ServerKind::Sglang {
            let labels: Vec<Value> = server.received().iter().map(|r| r.body["weight_version"].clone()).collect();
            assert_eq!(labels[1], json!("troupe-0"));
            assert!(labels.contains(&json!("troupe-3")), "{labels:?}");
        }
    }
}

/// A server that streams `before` tokens of an answer, and the rest once it has been told to go on `times` times; whether the first are out.
fn frozen(form: Form, before: usize, times: usize, stamped: bool) -> (Server, Arc<AtomicBool>) {
    let (going, early) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let said = early.clone();
    let server = Server::start(move |_, request, reply| {
        let kind = form.server();
        if path(request) != answers_path(kind) {
            obey(request, reply)?;
            going.fetch_add(usize::from(path(request) == *sequence(kind).last().unwrap()), Ordering::SeqCst);
            return Ok(());
        }
        let all: Vec<(u32, f64)> = (0..6).map(|n| (if n == 5 { EOS } else { 40 + n }, -0.5)).collect();
        let event = |until: usize, finish| {
            let mut event = form.event(&all[..until], until.min(1), finish);
            if stamped {
                let spans = [("troupe-0", 0, before + 1), ("troupe-1", before + 1, 6)];
                event["meta_info"]["weight_versions"] =
                    spans.iter().map(|(v, a, b)| json!({ "version": v, "start": a, "end": b })).collect();
            }
            event.to_string()
        };
        reply.begin()?;
        (1..=before).try_for_each(|n| reply.event(&event(n, None)))?;
        said.store(true, Ordering::SeqCst);
        while going.load(Ordering::SeqCst) < times {
            std::thread::sleep(Duration::from_millis(1));
        }
        (before + 1..=6).try_for_each(|n| reply.event(&event(n, (n == 6).then_some("stop"))))?;
        reply.end()
    });
    (server, early)
}

/// Planted: the version counts 30 ms after the server goes on. Seen: left [(0, 0)].
#[test]
fn an_answer_over_a_reload_keeps_its_tokens_and_knows_which_version_sampled_which() {
    for (form, stamped, boundary) in [
        (Form::Vllm, false, 3),
        (Form::SglangWhole, false, 3),
        (Form::SglangNew, false, 3),
        // The server's own word is finer: here one token was late.
        (Form::SglangWhole, true, 4),
    ] {
        let (server, early) = frozen(form, 3, 2, stamped);
        // Silence while weights are loaded is not held against the server.
        let mut desk = Desk::with(&server.section(form.server()), |t| t.timeout = Some(Duration::from_secs(5)));
        desk.ask(1);
        wait_until("the first tokens", || early.load(Ordering::SeqCst));
        // And they are read.
        std::thread::sleep(Duration::from_millis(200));
        desk.adopt(1);
        let done = desk.finish();
        let [item] = &done.items[..] else { panic!("{form:?}: {:?}", done.faults) };
        assert_eq!((item.completion.tokens.len(), &done.adopted[..]), (6, &[1][..]));
        let spans: Vec<(u32, u64)> = item.completion.spans.iter().map(|s| (s.start, s.policy.0)).collect();
        assert_eq!(spans, [(0, 0), (boundary, 1)], "{form:?} {stamped}");
        assert_eq!(server.asked_for(answers_path(form.server())), 1, "nothing was asked for twice");
    }
}

#[test]
fn silence_during_a_reload_does_not_count_and_new_requests_wait_for_its_end() {
    let (loading, asked_while) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (busy, early, going) = (loading.clone(), asked_while.clone(), AtomicUsize::new(0));
    let all = [(40, -0.5), (EOS, -0.5)];
    let server = Server::start(move |n, request, reply| match path(request).as_str() {
        "/v1/completions" => {
            early.fetch_add(usize::from(busy.load(Ordering::SeqCst)), Ordering::SeqCst);
            reply.begin()?;
            reply.event(&Form::Vllm.event(&all[..1], 1, None).to_string())?;
            while n == 0 && going.load(Ordering::SeqCst) < 2 {
                std::thread::sleep(Duration::from_millis(1));
            }
            reply.event(&Form::Vllm.event(&all, 1, Some("stop")).to_string())?;
            reply.end()
        }
        "/collective_rpc" if n > 0 => {
            busy.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_secs(3));
            obey(request, reply)
        }
        "/resume" => {
            busy.store(false, Ordering::SeqCst);
            going.fetch_add(1, Ordering::SeqCst);
            obey(request, reply)
        }
        _ => obey(request, reply),
    });
    let mut desk = Desk::with(&server.section(ServerKind::Vllm), |t| t.timeout = Some(Duration::from_millis(1500)));
    desk.ask(1);
    wait_until("the request", || server.asked_for("/v1/completions") == 1);
    desk.adopt(1);
    wait_until("the load", || loading.load(Ordering::SeqCst));
    desk.ask(2);
    let done = desk.finish();
    assert_eq!((done.items.len(), server.asked_for("/v1/completions")), (2, 2), "{:?}", done.faults);
    assert_eq!(asked_while.load(Ordering::SeqCst), 0);
    let second = done.items.iter().find(|i| i.rollout.0 == 2).unwrap();
    assert_eq!(second.completion.spans.iter().map(|s| s.policy.0).collect::<Vec<_>>(), [1]);
}

/// Planted: a request goes out as soon as the gate is open. Seen: version 0 where 1 was asked for, as a run's last evaluation was
/// whose weights took long to be written.
#[test]
fn an_answer_of_a_version_waits_until_that_version_is_there() {
    for form in [Form::Vllm, Form::SglangWhole] {
        let server = Server::start(move |_, request, reply| {
            if path(request) != answers_path(form.server()) {
                return obey(request, reply);
            }
            reply.begin()?;
            reply.event(&form.event(&[(EOS, -0.5)], 1, Some("stop")).to_string())?;
            reply.end()
        });
        let mut section = server.section(form.server());
        // Whoever waits keeps nobody from being answered.
        section.max_batch = 1;
        let mut desk = Desk::open(&section);
        desk.writing.store(true, Ordering::SeqCst);
        desk.adopt(1);
        desk.ask_from(1, 1);
        desk.ask_from(2, 0);
        desk.step_until("the answer that may be of any version", |done| !done.items.is_empty());
        (0..5).for_each(|_| desk.step().unwrap());
        assert_eq!(server.asked_for(answers_path(form.server())), 1);
        desk.writing.store(false, Ordering::SeqCst);
        let done = desk.finish();
        let of: Vec<(u64, u64)> = done.items.iter().map(|i| (i.rollout.0, i.completion.spans[0].policy.0)).collect();
        assert_eq!(of, [(2, 0), (1, 1)], "{:?}", done.faults);
    }
}

/// Planted: nobody remembers that the server was away. Seen: the new server is asked for an answer and for nothing else.
#[test]
fn a_server_that_starts_anew_gets_its_weights_before_it_is_asked() {
    let serve = |request: &Received, reply: &mut Reply| match path(request) == "/v1/completions" {
        true => {
            reply.begin()?;
            reply.event(&Form::Vllm.event(&[(EOS, -0.5)], 1, Some("stop")).to_string())?;
            reply.end()
        }
        false => obey(request, reply),
    };
    let server = Server::start(move |_, request, reply| serve(request, reply));
    let (mut section, address) = (server.section(ServerKind::Vllm), server.address);
    section.retries = 30;
    let mut desk = Desk::open(&section);
    desk.adopt(1);
    assert_eq!(desk.finish().adopted, [1]);
    drop(server);
    wait_until("the end of the first server", || TcpStream::connect(address).is_err());
    desk.ask(1);
    (0..20).for_each(|_| desk.step().unwrap());
    let server = Server::on(TcpListener::bind(address).unwrap(), move |_, request, reply| serve(request, reply));
    let done = desk.finish();
    assert_eq!(done.items.len(), 1, "{:?}", done.faults);
    assert_eq!(server.paths()[..4], VLLM);
    assert_eq!(server.asked_for("/v1/completions"), 1);
    let named: Vec<String> = server.received().iter().filter_map(folder).collect();
    assert!(named[0].ends_with("/v000001"), "{named:?}");
}

/// Planted: a server that was away in the middle of a reload is told the rest only. Seen: left is the first two of these six.
#[test]
fn a_server_that_starts_anew_in_the_middle_of_a_reload_is_told_everything_again() {
    let server = Server::start(|n, request, reply| match n > 0 && path(request) == VLLM[2] {
        true => reply.die(),
        false => obey(request, reply),
    });
    let (mut section, address) = (server.section(ServerKind::Vllm), server.address);
    section.retries = 30;
    let mut desk = Desk::open(&section);
    let began = Instant::now();
    desk.adopt(1);
    wait_until("a reload that is under way", || server.asked_for(VLLM[2]) > 1);
    drop(server);
    wait_until("the end of the first server", || TcpStream::connect(address).is_err());
    // Longer than any pause before the next try that has come so far (they double): one of them finds nobody.
    std::thread::sleep(Duration::from_millis(500) + 2 * began.elapsed());
    let server = Server::on(TcpListener::bind(address).unwrap(), |_, request, reply| obey(request, reply));
    assert_eq!(desk.finish().adopted, [1]);
    assert_eq!(server.paths(), [&VLLM[2..], &VLLM[..]].concat());
}

#[test]
fn weights_that_are_none_of_the_runs_are_replaced_and_the_answer_asked_for_again() {
    let server = Server::start(|n, request, reply| {
        if path(request) != "/generate" {
            return obey(request, reply);
        }
        let mut event = Form::SglangWhole.event(&[(40, -0.5), (EOS, -0.5)], 2, Some("stop"));
        event["meta_info"]["weight_version"] = json!(if n == 0 { "default" } else { "troupe-0" });
        reply.begin()?;
        reply.event(&event.to_string())?;
        reply.end()
    });
    let mut desk = Desk::open(&server.section(ServerKind::Sglang));
    desk.ask(1);
    let done = desk.finish();
    assert_eq!((done.items.len(), server.asked_for("/generate")), (1, 2), "{:?}", done.faults);
    assert_eq!(server.asked_for("/update_weights_from_disk"), 2);
}

/// A server that answers one control request in its own way from the `from`-th time on.
fn stubborn(at: &'static str, from: usize, how: fn(&mut Reply) -> std::io::Result<()>) -> Server {
    Server::start(move |n, request, reply| match path(request).as_str() {
        "/v1/completions" | "/generate" => {
            reply.begin()?;
            loop {
                reply.bytes(b": thinking\n\n")?;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        asked if asked == at && n >= from => how(reply),
        _ => obey(request, reply),
    })
}

#[test]
fn a_server_that_does_not_take_weights_over_ends_the_sampler_and_every_answer_under_way() {
    type How = fn(&mut Reply) -> std::io::Result<()>;
    let cases: [(ServerKind, &str, How, &str, usize); 5] = [
        (
            ServerKind::Vllm,
            VLLM[1],
            |r| r.whole("500 Internal Server Error", "", "shape mismatch"),
            "shape mismatch",
            3,
        ),
        (ServerKind::Vllm, VLLM[0], |r| r.whole("404 Not Found", "", "{}"), "VLLM_SERVER_DEV_MODE=1", 1),
        (ServerKind::Vllm, VLLM[2], |r| r.json(&json!({ "success": false })), "\"success\":false", 3),
        (
            ServerKind::Sglang,
            SGLANG[1],
            |r| r.whole("400 Bad Request", "", "{\"success\": false, \"message\": \"no such path\"}"),
            "no such path",
            1,
        ),
        (ServerKind::Vllm, VLLM[3], |r| r.die(), "POST /resume", 3),
    ];
    for (kind, at, how, text, tries) in cases {
        let server = stubborn(at, 1, how);
        let mut desk = Desk::open(&server.section(kind));
        desk.ask(1);
        wait_until("the request", || server.asked_for(answers_path(kind)) == 1);
        desk.adopt(1);
        let fault = desk.failure();
        assert!(fault.code == "F122" && fault.message.contains(text), "{at}: {fault}");
        assert!(!fault.message.contains("sesame"));
        let release = usize::from(at == VLLM[3]);
        assert_eq!(server.asked_for(at), 1 + tries + release, "{at}");
        assert!(desk.done.adopted.is_empty() && !desk.sampler.busy());
        wait_until("the answer's end", || server.hung_up() == 1);
        // Others may wait for the server: it is not left paused.
        assert_eq!(server.paths().last().map(String::as_str), sequence(kind).last().copied(), "{at}");
    }
}

#[test]
fn a_reload_that_may_pass_is_tried_again_and_one_that_never_ends_has_a_deadline() {
    let server = Server::start(|n, request, reply| match (path(request).as_str(), n) {
        ("/collective_rpc", 1) => reply.whole("503 Service Unavailable", "", ""),
        ("/pause?mode=keep", 1) => reply.die(),
        ("/reset_prefix_cache?reset_running_requests=true", 1) => reply.json(&json!({ "success": false })),
        _ => obey(request, reply),
    });
    let mut desk = Desk::open(&server.section(ServerKind::Vllm));
    desk.adopt(1);
    assert_eq!(desk.finish().adopted, [1]);

    let server = stubborn("/collective_rpc", 1, |_| {
        std::thread::sleep(Duration::from_secs(30));
        Ok(())
    });
    let section = server.section(ServerKind::Vllm);
    let mut desk = Desk::with(&section, |t| t.reload_timeout = Some(Duration::from_secs(6)));
    let started = Instant::now();
    desk.adopt(1);
    let fault = desk.failure();
    assert!(fault.message.contains("version 1 was not loaded within generator.reload_timeout_s = 6"), "{fault}");
    assert!(started.elapsed() < Duration::from_secs(20));

    // At the start there is no sampler without the weights.
    let server = stubborn("/collective_rpc", 0, |r| r.whole("400 Bad Request", "", "no"));
    let fault = Desk::try_with(&server.section(ServerKind::Vllm), |_| {}).err().unwrap();
    assert_eq!(fault.code, "F122");
}

#[test]
fn a_version_announced_twice_is_loaded_once_and_a_newer_one_replaces_what_waits() {
    let server = Server::start(|_, request, reply| {
        if path(request) == "/collective_rpc" {
            std::thread::sleep(Duration::from_millis(150));
        }
        obey(request, reply)
    });
    let mut desk = Desk::open(&server.section(ServerKind::Vllm));
    desk.adopt(1);
    desk.adopt(1);
    desk.adopt(2);
    desk.adopt(3);
    assert_eq!(desk.finish().adopted, [1, 3]);
    assert_eq!(server.asked_for("/collective_rpc"), 3);
    assert_eq!(desk.adopt(3), Taken::Now);
}

#[test]
fn a_server_that_keeps_its_weights_is_told_nothing_and_serves_version_0_alone() {
    let server = Server::start(|_, request, reply| match path(request) == "/v1/completions" {
        true => {
            reply.begin()?;
            reply.event(&Form::Vllm.event(&[(EOS, -0.5)], 1, Some("stop")).to_string())?;
            reply.end()
        }
        false => obey(request, reply),
    });
    let mut section = server.section(ServerKind::Vllm);
    section.reload = ReloadKind::None;
    let mut desk = Desk::open(&section);
    assert_eq!(desk.adopt(0), Taken::Now);
    desk.ask(1);
    assert_eq!(desk.finish().items.len(), 1);
    assert_eq!(server.paths(), ["/v1/completions"]);
    desk.adopt(1);
    assert!(desk.failure().message.contains("generator.reload = \"none\""));
}

/// What a server says of itself before a run.
fn probe(models: Value, info: (&'static str, Value), longest: usize, sampling: Sampling) -> Result<(), String> {
    let server = Server::start(move |_, request, reply| match path(request).as_str() {
        "/v1/models" => reply.json(&models),
        "/server_info?config_format=json" => reply.whole(info.0, "", &info.1.to_string()),
        _ => obey(request, reply),
    });
    let dir = tempfile::tempdir().unwrap();
    let section = server.section(ServerKind::Vllm);
    let setup = Setup::with(&section, None, Duration::from_secs(5), dir.path(), Tuning::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(setup.probe(longest, &sampling)).map_err(|e| e.to_string())
}

#[test]
fn a_server_that_cannot_serve_the_run_is_found_before_it_begins() {
    let models = |name: &str, length: Value| json!({ "data": [{ "id": name, "max_model_len": length }] });
    let mode = |mode: &str| ("200 OK", json!({ "vllm_config": { "model_config": { "logprobs_mode": mode } } }));
    let plain = Sampling::default();
    let hot = Sampling { temperature: 0.7, ..plain };
    let served = models("served", json!(100));
    assert_eq!(probe(served.clone(), mode("raw_logprobs"), 100, plain), Ok(()));
    assert_eq!(probe(served.clone(), mode("processed_logprobs"), 100, hot), Ok(()));
    let silent = || ("200 OK", json!({ "vllm_config": "text" }));
    assert_eq!(probe(served.clone(), silent(), 100, plain), Ok(()));
    let cases = [
        (probe(models("other", json!(100)), mode("raw_logprobs"), 9, plain), "\"other\""),
        (probe(served.clone(), mode("raw_logprobs"), 101, plain), "at least 101 tokens"),
        (probe(served.clone(), mode("raw_logprobs"), 9, hot), "processed_logprobs"),
        (probe(served.clone(), mode("raw_logprobs"), 9, Sampling { top_p: 0.9, ..plain }), "processed_logprobs"),
        (probe(served.clone(), silent(), 9, hot), "logprobs_mode = not told"),
        (probe(served.clone(), mode("processed_logits"), 9, plain), "processed_logits"),
        (probe(served, ("404 Not Found", json!({})), 9, plain), "VLLM_SERVER_DEV_MODE=1"),
        (probe(json!({ "detail": "?" }), mode("raw_logprobs"), 9, plain), "does not answer"),
    ];
    for (result, text) in cases {
        let error = result.unwrap_err();
        assert!(error.contains(text), "{text}: {error}");
    }
}
