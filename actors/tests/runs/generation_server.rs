//! The generator on a server that plays vLLM and SGLang: what is sent, what an answer must be, and that whatever goes
//! wrong is a fault within its deadline.

use crate::desk;
use crate::endpoint;
use crate::server;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actors::config::ServerKind;
use desk::Desk;
use rollout::completion::Finish;
use rollout::id::RolloutId;
use serde_json::{Value, json};
use server::{Form, Server, answers_path, obey, path, section, wait_until};

const EOS: u32 = desk::EOS;

/// Three tokens and the end of the sequence.
fn tokens() -> Vec<(u32, f64)> {
    vec![(40, -0.25), (41, -1.5), (42, -0.0), (EOS, -2.0)]
}

/// A server that streams `tokens` in events of two.
fn streaming(form: Form) -> Server {
    Server::start(move |_, request, reply| match path(request) == answers_path(form.server()) {
        true => {
            let all = tokens();
            reply.begin()?;
            reply.event(&form.event(&all[..2], 2, None).to_string())?;
            reply.event(&form.event(&all, 2, Some("stop")).to_string())?;
            reply.end()
        }
        false => obey(request, reply),
    })
}

#[test]
fn an_answer_arrives_with_its_tokens_logprobs_and_version() {
    for form in Form::ALL {
        let server = streaming(form);
        let mut desk = Desk::open(&server.section(form.server()));
        desk.ask(7);
        let done = desk.finish();
        let [item] = &done.items[..] else { panic!("{form:?}: {:?}", done.faults) };
        let c = &*item.completion;
        assert_eq!((&c.tokens[..], c.finish), (&[40, 41, 42, EOS][..], Finish::Stop), "{form:?}");
        assert_eq!(c.logprobs, [-0.25, -1.5, -0.0, -2.0]);
        assert_eq!(c.spans.iter().map(|s| (s.start, s.policy.0)).collect::<Vec<_>>(), [(0, 0)]);
        assert_eq!(c.prompt_tokens, desk.prompt());
        assert_eq!(c.text, desk.tokenizer.decode_answer(&c.tokens).unwrap());
        assert!(done.faults.is_empty());

        let request = server.received().into_iter().find(|r| path(r) == answers_path(form.server())).unwrap();
        assert!(request.headers.iter().any(|h| h == "authorization: Bearer sesame-open"), "{:?}", request.headers);
        let body = &request.body;
        let seed = json!(7u64 >> 1);
        if form == Form::Vllm {
            assert_eq!((&body["prompt"], &body["model"]), (&json!(desk.prompt()), &json!("served")));
            assert_eq!(
                (&body["logprobs"], &body["return_token_ids"], &body["stream"]),
                (&json!(0), &json!(true), &json!(true))
            );
            assert_eq!((&body["seed"], &body["stop_token_ids"]), (&seed, &json!([EOS])));
            assert_eq!(
                (&body["max_tokens"], &body["top_k"], &body["repetition_penalty"]),
                (&json!(12), &json!(-1), &json!(1.0))
            );
        } else {
            let sampling = &body["sampling_params"];
            assert_eq!((&body["input_ids"], &body["return_logprob"]), (&json!(desk.prompt()), &json!(true)));
            assert_eq!((&sampling["sampling_seed"], &sampling["stop_token_ids"]), (&seed, &json!([EOS])));
            assert_eq!((&sampling["max_new_tokens"], &sampling["top_k"]), (&json!(12), &json!(-1)));
        }
    }
}

/// Planted: an event ends with the chunk it began in. Seen: 22 of 41 answers are F120.
#[test]
fn where_the_stream_is_cut_does_not_matter() {
    for form in Form::ALL {
        let (kind, all) = (form.server(), tokens());
        let events = [form.event(&all[..1], 1, None), form.event(&all, 3, Some("stop"))];
        let stream: String = events.iter().map(|e| format!("data: {e}\n\n")).collect();
        let length = stream.len();
        // Each request is cut elsewhere; the last one into single bytes.
        let server = Server::start(move |n, request, reply| match path(request) == answers_path(kind) {
            true => {
                let bytes = stream.as_bytes();
                reply.begin()?;
                match n < 40 {
                    true => {
                        let cut = n * length / 40;
                        reply.bytes(&bytes[..cut])?;
                        std::thread::sleep(Duration::from_millis(3));
                        reply.bytes(&bytes[cut..])?;
                    }
                    false => bytes.chunks(1).try_for_each(|byte| reply.bytes(byte))?,
                }
                reply.end()
            }
            false => obey(request, reply),
        });
        let mut desk = Desk::open(&server.section(kind));
        (0..41).for_each(|n| desk.ask(n));
        let done = desk.finish();
        assert_eq!((done.items.len(), &done.faults[..]), (41, &[][..]), "{form:?}");
        for item in &done.items {
            assert_eq!(item.completion.tokens, [40, 41, 42, EOS]);
            assert_eq!(item.completion.logprobs, [-0.25, -1.5, -0.0, -2.0]);
        }
    }
}

/// A server whose only event is `event`, as it is written.
fn saying(kind: ServerKind, event: String) -> Server {
    Server::start(move |_, request, reply| match path(request) == answers_path(kind) {
        true => {
            reply.begin()?;
            reply.event(&event)?;
            reply.end()
        }
        false => obey(request, reply),
    })
}

#[test]
fn an_answer_that_cannot_be_used_is_a_fault_that_says_why_and_is_not_asked_for_again() {
    let vllm = |fields: Value| (ServerKind::Vllm, json!({ "choices": [fields] }).to_string());
    let logprobs = |values: Value| json!({ "tokens": ["token_id:40", "token_id:41"], "token_logprobs": values });
    let sglang = |meta: Value| (ServerKind::Sglang, json!({ "meta_info": meta }).to_string());
    let nan = vllm(json!({ "token_ids": [40, 41], "logprobs": logprobs(json!([-0.5, 7777])) }));
    let cases = [
        (vllm(json!({ "text": "x = 1", "finish_reason": "stop" })), "no token ids in the answer"),
        (vllm(json!({ "token_ids": [40, 41], "finish_reason": "stop" })), "no log-probs in the answer"),
        (vllm(json!({ "token_ids": [40, 41], "logprobs": logprobs(json!([-0.5])) })), "2 token ids and 1 log-probs"),
        (
            vllm(json!({ "token_ids": [40, 41], "logprobs": logprobs(json!([-0.5, null])) })),
            "token 1 has the log-prob null",
        ),
        (
            vllm(json!({ "token_ids": [40, 41], "logprobs": logprobs(json!([-0.5, 0.7])) })),
            "token 1 has the log-prob 0.7",
        ),
        ((nan.0, nan.1.replace("7777", "NaN")), "no JSON"),
        (
            vllm(
                json!({ "token_ids": [40, 99999], "logprobs": { "token_logprobs": [-0.5, -0.5], "tokens": ["a", "b"] } }),
            ),
            "token 1 is 99999",
        ),
        (
            vllm(
                json!({ "token_ids": [EOS, 41], "logprobs": { "token_logprobs": [-0.5, -0.5], "tokens": ["a", "b"] } }),
            ),
            "more came after it",
        ),
        (
            vllm(
                json!({ "token_ids": [40], "finish_reason": "stop", "logprobs": { "token_logprobs": [-0.5], "tokens": ["a"] } }),
            ),
            "without an end-of-sequence token",
        ),
        (vllm(json!({ "token_ids": [], "prompt_token_ids": [1] })), "read a prompt of 1 tokens"),
        (sglang(json!({ "completion_tokens": 2, "finish_reason": null })), "no log-probs in the answer"),
        (
            sglang(json!({ "completion_tokens": 3, "output_token_logprobs": [[-0.5, 40, null]] })),
            "`completion_tokens` is 3",
        ),
        (sglang(json!({ "completion_tokens": 1, "output_token_logprobs": [[null, 40, null]] })), "log-prob null"),
        (sglang(json!({ "completion_tokens": 1, "output_token_logprobs": [[-0.5, 70000, null]] })), "token 0 is 70000"),
    ];
    for ((kind, event), text) in cases {
        let server = saying(kind, event.clone());
        let mut desk = Desk::open(&server.section(kind));
        desk.ask(1);
        let done = desk.finish();
        assert!(done.items.is_empty(), "{event}");
        let [fault] = &done.faults[..] else { panic!("{event}: {:?}", done.faults) };
        assert!(fault.code == "F121" && fault.message.contains(text), "{event}: {fault}");
        assert_eq!(server.asked_for(answers_path(kind)), 1, "{event}");
    }
}

/// A server that refuses the first `times` requests for an answer.
fn refusing(form: Form, times: usize, status: &'static str, headers: &'static str) -> Server {
    Server::start(move |n, request, reply| {
        if path(request) != answers_path(form.server()) {
            return obey(request, reply);
        }
        if n < times {
            return reply.whole(status, headers, "{\"error\": {\"message\": \"sesame-open is busy\"}}");
        }
        reply.begin()?;
        reply.event(&form.event(&tokens(), 4, Some("stop")).to_string())?;
        reply.end()
    })
}

#[test]
fn what_may_pass_is_tried_again_and_what_may_not_is_told_at_once() {
    // Behind a 503 may be another process, with the weights it was started with.
    for (status, headers, loads) in [
        ("429 Too Many Requests", "retry-after: 0.01\r\n", 1),
        ("500 Internal Server Error", "", 1),
        ("503 Service Unavailable", "", 2),
        // Or somebody who holds back what has become too much.
        ("503 Service Unavailable", "retry-after: 0.01\r\n", 1),
    ] {
        let server = refusing(Form::Vllm, 2, status, headers);
        let mut desk = Desk::open(&server.section(ServerKind::Vllm));
        desk.ask(1);
        let done = desk.finish();
        assert_eq!((done.items.len(), server.asked_for("/v1/completions")), (1, 3), "{status}: {:?}", done.faults);
        assert!(server.asked_for("/collective_rpc") >= loads, "{status}");
        assert_eq!(server.asked_for("/collective_rpc") > 1, loads > 1, "{status}");
    }
    for (status, times) in [("500 Internal Server Error", 3), ("400 Bad Request", 1), ("401 Unauthorized", 1)] {
        let server = refusing(Form::Vllm, usize::MAX, status, "");
        let mut desk = Desk::open(&server.section(ServerKind::Vllm));
        desk.ask(1);
        let done = desk.finish();
        let [fault] = &done.faults[..] else { panic!("{status}: {:?}", done.faults) };
        assert!(fault.code == "F120" && fault.message.contains(status), "{fault}");
        assert!(fault.message.contains("*** is busy"), "the server's words, without the key: {fault}");
        assert_eq!(server.asked_for("/v1/completions"), times, "{status}");
    }
    let mut section = section(ServerKind::Sglang, &endpoint::nobody());
    section.reload = actors::config::ReloadKind::None;
    let mut desk = Desk::open(&section);
    desk.ask(1);
    assert!(desk.finish().faults[0].message.contains("(tries: 3)"));
}

/// Planted: no limit on silence. Seen: the fault comes with the answer's whole deadline, after 30 s.
#[test]
fn a_silent_server_is_given_up_within_its_deadline() {
    for after in [0, 2] {
        let server = Server::start(move |_, request, reply| match path(request) == answers_path(ServerKind::Vllm) {
            true => {
                reply.begin()?;
                if after > 0 {
                    reply.event(&Form::Vllm.event(&tokens()[..after], after, None).to_string())?;
                }
                std::thread::sleep(Duration::from_secs(30));
                Ok(())
            }
            false => obey(request, reply),
        });
        let mut desk =
            Desk::with(&server.section(ServerKind::Vllm), |tuning| tuning.timeout = Some(Duration::from_millis(150)));
        let started = Instant::now();
        desk.ask(1);
        let done = desk.finish();
        let [fault] = &done.faults[..] else { panic!("{:?}", done.faults) };
        assert!(fault.code == "F120" && fault.message.contains("silent for generator.timeout_s = 0.15"), "{fault}");
        let took = started.elapsed();
        assert!(took > Duration::from_millis(450) && took < Duration::from_secs(20), "{took:?}");
        // A server that is starved writes down what it was asked after the client has given up.
        wait_until("the last try", || server.asked_for("/v1/completions") >= 3);
        assert_eq!(server.asked_for("/v1/completions"), 3);
    }
}

#[test]
fn a_server_that_dies_in_the_middle_is_asked_again_from_the_start() {
    for form in Form::ALL {
        for broken in ["connection", "end", "abort", "error"] {
            let server = Server::start(move |n, request, reply| {
                if path(request) != answers_path(form.server()) {
                    return obey(request, reply);
                }
                let all = tokens();
                reply.begin()?;
                let aborted = (n == 0 && broken == "abort").then_some("abort");
                reply.event(&form.event(&all[..2], 2, aborted).to_string())?;
                match (n, broken) {
                    (0, "connection") => return reply.die(),
                    (0, "end" | "abort") => return reply.end(),
                    (0, _) => reply.event("{\"error\": {\"message\": \"engine core died\", \"code\": 500}}")?,
                    _ => reply.event(&form.event(&all, 2, Some("stop")).to_string())?,
                }
                reply.end()
            });
            let mut desk = Desk::open(&server.section(form.server()));
            desk.ask(1);
            let done = desk.finish();
            let [item] = &done.items[..] else { panic!("{form:?} {broken}: {:?}", done.faults) };
            assert_eq!(item.completion.tokens, [40, 41, 42, EOS], "{form:?} {broken}");
            assert_eq!(server.asked_for(answers_path(form.server())), 2);
        }
    }
}

/// Planted: `cancel` only forgets. Seen: the first connection has no end in 20 s.
#[test]
fn a_cancelled_answer_closes_its_connection_and_an_older_attempt_gives_way() {
    let server = Server::start(|_, request, reply| match path(request) == "/v1/completions" {
        true => {
            reply.begin()?;
            loop {
                reply.bytes(b": still here\n\n")?;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        false => obey(request, reply),
    });
    let mut desk = Desk::open(&server.section(ServerKind::Vllm));
    desk.ask(1);
    wait_until("the first request", || server.asked_for("/v1/completions") == 1);
    desk.ask(1);
    wait_until("the first connection's end", || server.hung_up() == 1);
    wait_until("the second request", || server.asked_for("/v1/completions") == 2);
    desk.sampler.cancel(RolloutId(1));
    assert!(!desk.sampler.busy());
    wait_until("the second connection's end", || server.hung_up() == 2);
    desk.ask(2);
    wait_until("the third request", || server.asked_for("/v1/completions") == 3);
    drop(desk);
    wait_until("the end of what a dropped sampler had asked for", || server.hung_up() == 3);
}

/// Planted: no seats. Seen: left 12, right 4.
#[test]
fn no_more_requests_than_seats_are_open_together() {
    let entered = AtomicUsize::new(0);
    let server = Server::start(move |n, request, reply| match path(request) == "/v1/completions" {
        true => {
            // The first four wait for each other.
            entered.fetch_add(1, Ordering::SeqCst);
            wait_until("four requests", || n >= 4 || entered.load(Ordering::SeqCst) >= 4);
            std::thread::sleep(Duration::from_millis(30));
            reply.begin()?;
            // A client does not wait long for what comes after it.
            reply.over();
            reply.event(&Form::Vllm.event(&tokens(), 4, Some("stop")).to_string())?;
            reply.end()
        }
        false => obey(request, reply),
    });
    let mut section = server.section(ServerKind::Vllm);
    section.max_batch = 4;
    let mut desk = Desk::open(&section);
    (0..12).for_each(|n| desk.ask(n));
    assert_eq!(desk.finish().items.len(), 12);
    assert_eq!(server.most_at_once(), 4);
}
