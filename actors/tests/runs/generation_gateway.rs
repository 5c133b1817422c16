//! A generation server that starts anew behind a gateway: nobody refuses a connection, and what is said comes from the gateway.

use crate::desk;
use crate::server;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actors::config::ServerKind;
use desk::Desk;
use server::{Form, Server, obey, path};

use crate::generation_reload::VLLM;

const EOS: u32 = desk::EOS;

/// A server behind a gateway that says `status` while it is away, which it is after `until(n, path)` for `times` requests.
fn gateway(status: &'static str, times: usize, until: impl Fn(usize, &str) -> bool + Send + Sync + 'static) -> Server {
    let left = AtomicUsize::new(usize::MAX);
    Server::start(move |n, request, reply| {
        let path = path(request);
        if left.load(Ordering::SeqCst) == usize::MAX && until(n, &path) {
            left.store(times, Ordering::SeqCst);
        }
        if (1..usize::MAX).contains(&left.load(Ordering::SeqCst)) {
            left.fetch_sub(1, Ordering::SeqCst);
            return reply.whole(status, "", "no upstream");
        }
        if path != "/v1/completions" {
            return obey(request, reply);
        }
        reply.begin()?;
        reply.event(&Form::Vllm.event(&[(EOS, -0.5)], 1, Some("stop")).to_string())?;
        reply.end()
    })
}

/// Planted: a gateway's word counts for answers only. Seen: F122 after the tries that `generator.retries` allows.
#[test]
fn a_server_that_starts_anew_behind_a_gateway_has_as_long_as_one_that_is_asked_directly() {
    for status in ["502 Bad Gateway", "503 Service Unavailable"] {
        let server = gateway(status, 6, |_, path| path == "/v1/completions");
        let mut section = server.section(ServerKind::Vllm);
        section.retries = 2;
        let mut desk = Desk::open(&section);
        desk.ask(1);
        let done = desk.finish();
        assert_eq!(done.items.len(), 1, "{status}: {:?}", done.faults);
        let told = server.paths();
        let pauses = vec![VLLM[0]; 5];
        let expected = [&VLLM[..], &["/v1/completions"], &pauses[..], &VLLM[..], &["/v1/completions"]].concat();
        assert_eq!(told, expected, "{status}");
    }
}

/// Planted: as before, and whoever answers `resume` counts. Seen: version 1 is adopted by a server that was told nothing else.
#[test]
fn a_server_that_starts_anew_behind_a_gateway_before_it_goes_on_is_told_everything_again() {
    for status in ["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"] {
        let server = gateway(status, 1, |n, path| n > 0 && path == VLLM[3]);
        let mut desk = Desk::open(&server.section(ServerKind::Vllm));
        desk.adopt(1);
        assert_eq!(desk.finish().adopted, [1], "{status}");
        assert_eq!(server.paths(), [&VLLM[..], &VLLM[..], &VLLM[3..], &VLLM[..]].concat(), "{status}");
    }
}

#[test]
fn a_gateway_that_finds_no_server_until_the_end_is_named() {
    let server = gateway("503 Service Unavailable", usize::MAX - 1, |n, path| n > 0 && path == VLLM[0]);
    let mut desk = Desk::with(&server.section(ServerKind::Vllm), |t| t.reload_timeout = Some(Duration::from_secs(3)));
    desk.adopt(1);
    let fault = desk.failure();
    assert!(fault.message.contains("reload_timeout_s = 3; last, POST /pause"), "{fault}");
    assert!(fault.message.contains("no upstream"), "{fault}");
}
