//! What gateways say to each other, and how it becomes bytes: a header that never changes, then one record of the codec.
//!
//! The header is read before anything else, by every version of Troupe, so that a peer of another version can be told so.
//! Whatever is longer than the limit goes over the side channel, and the message carries its digest.

use ractor::BytesConvertable;
use ractor::message::SerializedMessage;
use rollout::id::{Attempt, PolicyVersion, RolloutId, TaskId};
use rollout::outcome::{Candidate, Fault};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::codec::{self, CodecError};

/// The language of this program. Another number is refused.
pub const PROTOCOL: u16 = 3;
const MAGIC: [u8; 4] = *b"TRPE";
/// Magic, protocol, sender, epoch.
pub const HEADER_BYTES: usize = 4 + 2 + 16 + 8;

/// One process's life: drawn at its start, so that a restarted node is another one.
pub type NodeKey = u128;

/// What ractor_cluster carries: a header and a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(pub Vec<u8>);

impl BytesConvertable for Frame {
    fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn from_bytes(bytes: Vec<u8>) -> Self {
        Frame(bytes)
    }
}

/// The bytes of whatever a peer sent to a gateway. It never fails: a gateway must not die of a message that makes no sense.
pub fn bytes_of(message: SerializedMessage) -> Vec<u8> {
    match message {
        SerializedMessage::Cast { args, .. } | SerializedMessage::Call { args, .. } => args,
        SerializedMessage::CallReply(_, bytes) => bytes,
    }
}

/// What stands before every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub protocol: u16,
    /// Who sent it.
    pub from: NodeKey,
    /// The head's life: counts up each time a run is started or resumed. 0 from a node that has not been welcomed.
    pub epoch: u64,
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum WireError {
    #[error("{0} bytes that are no message of Troupe")]
    Foreign(usize),
    #[error("protocol version {found}, this program speaks {expected}", expected = PROTOCOL)]
    Protocol { found: u16 },
    #[error("a message of {found} bytes, the limit is {limit}")]
    TooLarge { found: usize, limit: usize },
    #[error("a message that cannot be read: {0}")]
    Damaged(String),
}

impl From<CodecError> for WireError {
    fn from(error: CodecError) -> WireError {
        WireError::Damaged(error.to_string())
    }
}

/// One message as bytes.
///
/// # Errors
/// It is longer than `limit` bytes.
pub fn seal<T: Serialize>(from: NodeKey, epoch: u64, body: &T, limit: usize) -> Result<Frame, WireError> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&PROTOCOL.to_le_bytes());
    out.extend_from_slice(&from.to_le_bytes());
    out.extend_from_slice(&epoch.to_le_bytes());
    codec::encode_into(body, &mut out)?;
    if out.len() > limit {
        return Err(WireError::TooLarge { found: out.len(), limit });
    }
    Ok(Frame(out))
}

/// The header alone, of any version.
///
/// # Errors
/// Too short, or no magic.
pub fn header(bytes: &[u8]) -> Result<Header, WireError> {
    let foreign = || WireError::Foreign(bytes.len());
    let rest = bytes.strip_prefix(&MAGIC).ok_or_else(foreign)?;
    let (protocol, rest) = rest.split_first_chunk::<2>().ok_or_else(foreign)?;
    let (from, rest) = rest.split_first_chunk::<16>().ok_or_else(foreign)?;
    let (epoch, _) = rest.split_first_chunk::<8>().ok_or_else(foreign)?;
    Ok(Header {
        protocol: u16::from_le_bytes(*protocol),
        from: u128::from_le_bytes(*from),
        epoch: u64::from_le_bytes(*epoch),
    })
}

/// The message behind a header.
///
/// # Errors
/// Foreign bytes, another protocol, too long, or damaged.
pub fn open<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<(Header, T), WireError> {
    let header = header(bytes)?;
    if header.protocol != PROTOCOL {
        return Err(WireError::Protocol { found: header.protocol });
    }
    if bytes.len() > limit {
        return Err(WireError::TooLarge { found: bytes.len(), limit });
    }
    Ok((header, codec::decode(&bytes[HEADER_BYTES..])?))
}

/// Why a process is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Executor,
    Generator,
}

/// "Here I am."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub role: Role,
    /// As it wants to be called; the head adds a number where the name is taken.
    pub name: String,
    pub version: String,
    /// `sandbox::protocol_digest`: verdicts of another harness do not belong in the run.
    pub harness: String,
    pub pid: u32,
    /// GPUs it may use, in words.
    pub gpus: String,
}

/// How often life is looked for, and when it is given up; the same for head and node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    pub period_ms: u64,
    pub suspect_ms: u64,
    pub dead_ms: u64,
    /// A node that does not name a candidate it was given for so long has lost it.
    pub lease_ms: u64,
}

/// Something on the side channel, by its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    /// BLAKE3, hexadecimal.
    pub digest: String,
    pub bytes: u64,
}

/// Bytes, or where they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    Here(#[serde(with = "whole")] Vec<u8>),
    Blob(BlobRef),
}

/// Bytes as one piece: serde takes a `Vec<u8>` for a list and would go over it byte by byte. On the wire it is the same.
mod whole {
    use std::fmt;

    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }

        from.deserialize_bytes(Bytes)
    }
}

/// "You are in."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// What the head calls the node.
    pub name: String,
    pub epoch: u64,
    pub beat: Beat,
    /// Bytes of one message.
    pub limit: u32,
    /// The side channel's port, at the address the node dialled.
    pub bulk_port: u16,
    /// `kit::Kit` as JSON: what to evaluate with. For a generator `recipe::Recipe`: what to sample with.
    pub kit: BlobRef,
}

/// One candidate to evaluate. `lease` is the head's number for this very errand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Errand {
    pub lease: u64,
    pub rollout: RolloutId,
    pub attempt: Attempt,
    pub task: TaskId,
    /// `Candidate` as a record of the codec.
    pub candidate: Body,
}

/// What became of one errand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub lease: u64,
    /// `ExecReport` as JSON, or a generator's `Completion` as a record of the codec, its prompt left out.
    pub report: Result<Body, Fault>,
}

/// One answer to sample. `lease` is the head's number for this very errand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draw {
    pub lease: u64,
    pub rollout: RolloutId,
    pub attempt: Attempt,
    /// Its prompt is in the recipe.
    pub task: TaskId,
    pub seed: u64,
}

/// The newest weights. Whoever is behind takes these and none between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    pub policy: PolicyVersion,
    /// `weights::Manifest` as JSON.
    pub manifest: BlobRef,
    /// Side channels of nodes that hold this version, `HOST:PORT`.
    pub peers: Vec<String>,
}

/// One node, for `troupe nodes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeRow {
    pub name: String,
    pub role: Role,
    /// `joining`, `ready`, `suspect` or `draining`.
    pub state: String,
    /// Executors, or answers that a generator samples at once.
    pub executors: u32,
    pub busy: u32,
    /// Candidates evaluated, and leases lost with it or to its silence.
    pub done: u64,
    pub lost: u64,
    pub silent_ms: u64,
    pub since_ms: u64,
    pub version: String,
    pub pid: u32,
    pub gpus: String,
}

/// To the head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToHead {
    Hello(Hello),
    /// The executors are there, or a generator with its first weights: how much it takes at once.
    Ready {
        executors: u32,
    },
    /// A generator: whatever it begins from now on is sampled under this version. `serves`: its own side channel, where it has one.
    Adopted {
        policy: PolicyVersion,
        serves: Option<String>,
    },
    /// Answered by the node's pool: which errands it holds.
    Pong {
        leases: Vec<u64>,
    },
    /// Each counts by itself.
    Done(Vec<Answer>),
    /// The node wants to go: no more errands, please.
    Leaving,
    /// From an operator: the nodes, from this one on.
    List {
        from: u32,
    },
    /// From an operator.
    Drain {
        name: String,
    },
}

/// To a node, or to an operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToNode {
    Welcome(Welcome),
    Refused {
        reason: String,
    },
    Ping,
    /// Each counts by itself.
    Errands(Vec<Errand>),
    /// To a generator.
    Sample(Vec<Draw>),
    /// To a generator: nobody waits for these answers any more.
    Forget {
        rollouts: Vec<RolloutId>,
    },
    /// To a generator.
    Weights(Offer),
    /// Not wanted any more: go. `over`: the run has ended.
    Dismiss {
        over: bool,
    },
    /// `epoch` in the header; `last` where nothing follows.
    Nodes {
        rows: Vec<NodeRow>,
        last: bool,
    },
    /// Whether there is such a node; the names that there are.
    Draining {
        found: bool,
        names: Vec<String>,
    },
}

/// A candidate as the body of an errand.
pub fn candidate_bytes(candidate: &Candidate) -> Result<Vec<u8>, WireError> {
    Ok(codec::encode(candidate)?)
}

/// The other way round.
pub fn candidate_of(bytes: &[u8]) -> Result<Candidate, WireError> {
    Ok(codec::decode(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 64 * 1024;

    #[test]
    fn a_message_comes_back_with_its_header() {
        let said = ToHead::Done(vec![Answer { lease: 7, report: Ok(Body::Here(b"{}".to_vec())) }]);
        let frame = seal(1 << 90, 3, &said, LIMIT).unwrap();
        let (header, heard) = open::<ToHead>(&frame.0, LIMIT).unwrap();
        assert_eq!(header, Header { protocol: PROTOCOL, from: 1 << 90, epoch: 3 });
        assert_eq!(heard, said);
    }

    /// Planted: no look at the protocol in `open`. Seen: the first assertion fails.
    #[test]
    fn another_protocol_foreign_bytes_and_oversize_are_told_apart() {
        let frame = seal(5, 1, &ToHead::Leaving, LIMIT).unwrap();
        let mut other = frame.0.clone();
        other[4] = 9;
        assert_eq!(open::<ToHead>(&other, LIMIT), Err(WireError::Protocol { found: 9 }));
        assert_eq!(header(&other).unwrap().from, 5, "who it was is read all the same");
        assert_eq!(open::<ToHead>(b"GET / HTTP/1.1\r\n\r\n", LIMIT), Err(WireError::Foreign(18)));
        for cut in 0..frame.0.len() {
            assert!(open::<ToHead>(&frame.0[..cut], LIMIT).is_err(), "{cut} bytes");
        }
        let long = ToHead::Done(vec![Answer { lease: 1, report: Ok(Body::Here(vec![0; LIMIT])) }]);
        assert!(matches!(seal(5, 1, &long, LIMIT), Err(WireError::TooLarge { .. })));
        let long = seal(5, 1, &long, 2 * LIMIT).unwrap();
        assert!(matches!(open::<ToHead>(&long.0, LIMIT), Err(WireError::TooLarge { .. })));
    }

    /// Noise, and true messages with bytes changed: an error or another message, never a panic, and nothing huge is allocated.
    #[test]
    fn no_bytes_hurt() {
        let mut x = 0x2545_f491_4f6c_dd1du64;
        let mut next = move || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x
        };
        let errand = Errand {
            lease: 1,
            rollout: RolloutId(2),
            attempt: Attempt(3),
            task: TaskId("t".into()),
            candidate: Body::Here(vec![1; 50]),
        };
        let frames = [
            seal(5, 1, &ToNode::Errands(vec![errand.clone(), errand]), LIMIT).unwrap().0,
            seal(5, 1, &ToHead::Pong { leases: (0..40).collect() }, LIMIT).unwrap().0,
        ];
        let mut read = 0;
        for n in 0..200_000 {
            let mut bytes = frames[n % 2].clone();
            if n % 5 == 0 {
                bytes = (0..next() % 200).map(|_| next() as u8).collect();
            }
            for _ in 0..1 + next() % 4 {
                if let Some(byte) = bytes.get_mut((next() % 256) as usize) {
                    *byte = next() as u8;
                }
            }
            read +=
                usize::from(open::<ToNode>(&bytes, LIMIT).is_ok()) + usize::from(open::<ToHead>(&bytes, LIMIT).is_ok());
        }
        assert!(read > 1000, "some are still read: {read}");
    }

    #[test]
    fn a_candidate_comes_back() {
        let candidate = Candidate { source: "x = 1\n".into(), digest: rollout::id::Digest("d".into()) };
        assert_eq!(candidate_of(&candidate_bytes(&candidate).unwrap()).unwrap(), candidate);
    }
}
