//! Any bytes as a message to a head or to a node: an error or a message, and a message means the same when it is said again.
#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use rollout::outcome::ExecReport;
use serde::Serialize;
use serde::de::DeserializeOwned;
use troupe_fuzz::bounded;
use troupe_fuzz::cluster::wire::{self, HEADER_BYTES, PROTOCOL, ToHead, ToNode};

const LIMIT: usize = 64 * 1024;

fn again<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) {
    let Ok((header, said)) = bounded(data.len(), || wire::open::<T>(data, LIMIT)) else { return };
    assert!(data.len() >= HEADER_BYTES && data.len() <= LIMIT && header.protocol == PROTOCOL);
    assert_eq!(wire::header(data), Ok(header));
    // What fits once fits again: nothing grows on its way through us but by the codec's own choice of a shorter form.
    let frame = wire::seal(header.from, header.epoch, &said, LIMIT).expect("it is not longer than it was");
    assert_eq!(wire::open::<T>(&frame.0, LIMIT).expect("our own words"), (header, said));
}

fuzz_target!(|data: &[u8]| {
    again::<ToHead>(data);
    again::<ToNode>(data);
    // What the messages carry.
    if let Ok(candidate) = bounded(data.len(), || wire::candidate_of(data)) {
        let bytes = wire::candidate_bytes(&candidate).expect("a candidate");
        assert_eq!(wire::candidate_of(&bytes).expect("our own words"), candidate);
    }
    if let Ok(report) = bounded(data.len(), || serde_json::from_slice::<ExecReport>(data)) {
        let bytes = serde_json::to_vec(&report).expect("a report");
        let same: ExecReport = serde_json::from_slice(&bytes).expect("our own words");
        assert_eq!(serde_json::to_vec(&same).expect("a report"), bytes);
    }
});
