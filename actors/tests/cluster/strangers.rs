//! Whoever has no business on the ports is refused and noted, and the run goes on.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use actors::cluster::Cookie;
use actors::cluster::operator::Operator;
use actors::cluster::peer::{Heard, Peer};
use actors::cluster::wire::{self, PROTOCOL, ToHead, ToNode};

use crate::lab::{BEAT, COOKIE, Lab, Node, PATIENCE, lab, wait_for};

/// The run meanwhile: a node works and every answer is right.
fn unaffected(lab: &Lab, from: u64) {
    lab.give(from..from + 20, 1);
    assert_eq!(lab.all_of(from..from + 20, 0).len(), 0);
}

#[test]
fn a_wrong_cookie_is_refused_noted_and_told() {
    let lab = lab(BEAT, 5);
    let _node = lab.join("one", 1);
    lab.ready(1);
    let mut command = lab.command("stranger", 1);
    command.env("TROUPE_COOKIE", "another cookie of good length");
    let (code, said) = Node::start(command).end();
    assert_eq!(code, Some(2), "{said}");
    for part in ["does not let this node in", "found:", "cookie", "hint:"] {
        assert!(said.contains(part), "{said}");
    }
    lab.note("did not prove the cookie");
    wait_for("its three tries are counted", || (lab.head().refusals().strangers >= 3).then_some(()));
    let operator = lab.runtime.block_on(Operator::dial(&lab.address, &Cookie::new("0123456789abcdefg").unwrap()));
    assert!(operator.is_err());
    unaffected(&lab, 0);
    assert_eq!(lab.head().rows().len(), 1);
}

/// A peer with the cookie and another language: it is told which one the head speaks.
#[test]
fn another_protocol_version_is_refused_with_the_reason() {
    let lab = lab(BEAT, 5);
    let _node = lab.join("one", 1);
    lab.ready(1);
    // The peer is kept: what it said may still be on its way when the first answer is here.
    let (reply, _peer) = lab.runtime.block_on(async {
        let mut peer = Peer::new(&Cookie::new(COOKIE).unwrap()).await.unwrap();
        peer.connect(&lab.address).await.unwrap();
        let mut frame = wire::seal(peer.key, 0, &ToHead::List { from: 0 }, 1000).unwrap();
        frame.0[4..6].copy_from_slice(&(PROTOCOL + 1).to_le_bytes());
        peer.say_frame(frame);
        // Noise and an oversized message from an insider count as little.
        peer.say_frame(wire::Frame(b"noise".to_vec()));
        peer.say_frame(wire::Frame(vec![0; 60_000]));
        let hear = async {
            loop {
                if let Some(Heard::Frame(bytes)) = peer.hear().await {
                    return wire::open::<ToNode>(&bytes, 65_536).unwrap().1;
                }
            }
        };
        let reply = tokio::time::timeout(PATIENCE, hear).await.unwrap();
        (reply, peer)
    });
    assert!(
        matches!(&reply, ToNode::Refused { reason } if *reason == format!("this head speaks protocol version {PROTOCOL}")),
        "{reply:?}"
    );
    wait_for("all three are counted", || (lab.head().refusals().foreign == 3).then_some(()));
    unaffected(&lab, 0);
}

/// An answer under another epoch, and one from a process that is no node.
#[test]
fn messages_of_another_life_change_nothing() {
    let lab = lab(BEAT, 300);
    let _node = lab.join("one", 1);
    lab.ready(1);
    lab.give(0..1, 1);
    let _peer = lab.runtime.block_on(async {
        let mut peer = Peer::new(&Cookie::new(COOKIE).unwrap()).await.unwrap();
        peer.connect(&lab.address).await.unwrap();
        let fault = || actors::supervise::fault("F999", "forged");
        let forged = |lease| ToHead::Done(vec![wire::Answer { lease, report: Err(fault()) }]);
        for lease in 0..5 {
            peer.say(1, &forged(lease), 65_536).unwrap();
            peer.say(7, &forged(lease), 65_536).unwrap();
        }
        peer
    });
    // While the node is still at work: the forged answers are refused before the right one is there.
    wait_for("all ten are refused", || (lab.head().refusals().stale == 10).then_some(()));
    assert_eq!(lab.all_of(0..1, 0).len(), 0);
}

#[test]
fn scanners_noise_and_oversized_frames_are_closed_and_the_run_goes_on() {
    let lab = lab(BEAT, 5);
    let _node = lab.join("one", 1);
    lab.ready(1);
    let connect = || TcpStream::connect(&lab.address).unwrap();
    for _ in 0..30 {
        drop(connect());
    }
    let mut told = Vec::new();
    for text in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], &u64::MAX.to_be_bytes(), &(200_000u64).to_be_bytes()] {
        let mut stream = connect();
        stream.write_all(text).unwrap();
        told.push(stream);
    }
    // A frame that announces 200,000 bytes, in a cluster of 64 KiB: closed before a byte of it is taken.
    for mut stream in told {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        // Closed in order or reset; not left open.
        let _ = stream.read_to_end(&mut rest);
    }
    // Whoever says nothing at all is closed too.
    let mut silent = connect();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut rest = Vec::new();
    let began = std::time::Instant::now();
    let _ = silent.read_to_end(&mut rest);
    println!("a silent connection is closed after {} ms", began.elapsed().as_millis());
    assert!(began.elapsed() < PATIENCE);
    wait_for("all are counted", || (lab.head().refusals().strangers >= 35).then_some(()));
    unaffected(&lab, 0);
}
