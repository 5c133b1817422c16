//! Any bytes as a connection to the side channel: it ends, and shows or takes nothing without a proof of the cookie. `{GET}`, `{PUT}`,
//! `{BLOB}` and `{NEW}` stand for the proofs and the digests that a node would send.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use troupe_fuzz::cluster::bulk::{converse, router};
use troupe_fuzz::cluster::cookie::Cookie;
use troupe_fuzz::cluster::guests::Proved;
use troupe_fuzz::cluster::shelf::{Shelf, digest};

const SECRET: &[u8] = b"<the tasks and the verifier's secret>";
const NEW: &[u8] = b"a report";

fn put_in(data: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let mut rest = data;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    out.extend_from_slice(rest);
    out
}

fn holds(data: &[u8], part: &[u8]) -> bool {
    data.windows(part.len()).any(|window| window == part)
}

fuzz_target!(|data: &[u8]| {
    let cookie = Cookie::new("a cookie of the fuzz target").expect("long enough");
    let shelf = Arc::new(Shelf::default());
    let blob = shelf.put(SECRET.to_vec());
    let new = digest(NEW);
    let get = cookie.proof("GET", &format!("/blob/{}", blob.digest)).to_hex();
    let put = cookie.proof("PUT", &format!("/blob/{new}")).to_hex();
    let (may_read, may_write) = (holds(data, b"{GET}"), holds(data, b"{PUT}"));
    let mut sent = data.to_vec();
    for (name, value) in
        [("{GET}", get.as_str()), ("{PUT}", put.as_str()), ("{BLOB}", &blob.digest), ("{NEW}", new.as_str())]
    {
        sent = put_in(&sent, name.as_bytes(), value.as_bytes());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let proved = Proved::default();
    let answer = runtime.block_on(async {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (mut from, mut to) = tokio::io::split(near);
        let server = converse(TokioIo::new(far), router(shelf.clone(), cookie.clone()), proved.clone());
        let client = async {
            let _ = to.write_all(&sent).await;
            let _ = to.shutdown().await;
            let mut answer = Vec::new();
            let _ = from.read_to_end(&mut answer).await;
            answer
        };
        let both = async { tokio::join!(server, client).1 };
        tokio::time::timeout(Duration::from_secs(20), both).await.expect("a connection that has ended is let go")
    });
    assert!(!holds(&answer, SECRET) || may_read, "shown without a proof");
    assert!(shelf.take(&new).is_none() || may_write, "taken without a proof");
    assert!(!proved.is() || may_read || may_write, "believed without a proof");
    // Nothing of a shelf's other side is in an answer: files, digests of others.
    assert!(answer.len() < 64 * sent.len() + 4096, "{} bytes for {}", answer.len(), sent.len());
});
