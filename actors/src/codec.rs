//! The one place where bincode is spoken: everything journalled, snapshotted or sent as bytes passes through here.
//!
//! A record is one version byte followed by bincode 2 (serde, standard configuration: little-endian, variable-length
//! integers). bincode is unmaintained (`docs/decisions/0052-bincode.md`), so nothing outside this file names it: a
//! successor is a new version byte here.

use serde::{Serialize, de::DeserializeOwned};

/// Written before every record; a reader refuses any other.
pub const VERSION: u8 = 5;

/// No single record is larger: bytes. A longer one is a bug or a damaged file, never data.
pub const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Why bytes could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("record is empty, expected a version byte")]
    Empty,
    #[error("record has format version {found}, this program reads {expected}; use the version of Troupe that wrote it", expected = VERSION)]
    Version { found: u8 },
    #[error("record has {found} bytes, the limit is {limit}")]
    TooLarge { found: usize, limit: usize },
    #[error("record has {0} bytes after its end")]
    TrailingBytes(usize),
    #[error("record cannot be encoded: {0}")]
    Encode(String),
    #[error("record is damaged: {0}")]
    Decode(String),
}

/// Appends `value` as one record to `out`.
pub fn encode_into<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let start = out.len();
    out.push(VERSION);
    bincode::serde::encode_into_std_write(value, out, bincode::config::standard())
        .map_err(|e| CodecError::Encode(e.to_string()))?;
    let found = out.len() - start;
    if found > MAX_BYTES {
        out.truncate(start);
        return Err(CodecError::TooLarge { found, limit: MAX_BYTES });
    }
    Ok(())
}

/// One record.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    encode_into(value, &mut out)?;
    Ok(out)
}

/// Reads exactly one record; a wrong version, damage or left-over bytes are errors.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > MAX_BYTES {
        return Err(CodecError::TooLarge { found: bytes.len(), limit: MAX_BYTES });
    }
    let (&version, body) = bytes.split_first().ok_or(CodecError::Empty)?;
    if version != VERSION {
        return Err(CodecError::Version { found: version });
    }
    // The limit also bounds what a damaged length prefix can make the decoder allocate.
    let config = bincode::config::standard().with_limit::<MAX_BYTES>();
    let (value, used) =
        bincode::serde::borrow_decode_from_slice(body, config).map_err(|e| CodecError::Decode(e.to_string()))?;
    if used != body.len() {
        return Err(CodecError::TrailingBytes(body.len() - used));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rollout::event::{Event, Judgement};
    use rollout::id::{Attempt, Epoch, PolicyVersion, RolloutId, StepId};
    use rollout::reward::Reward;

    fn events() -> Vec<(u64, Event)> {
        vec![
            (0, Event::Started { epoch: Epoch(3), policy: PolicyVersion(9), step: StepId(9) }),
            (
                5,
                Event::Sampled {
                    rollout: RolloutId(1 << 40),
                    attempt: Attempt(2),
                    oldest: PolicyVersion(8),
                    tokens: 151,
                },
            ),
            (
                7,
                Event::Judged {
                    rollout: RolloutId(4),
                    attempt: Attempt(1),
                    ruling: Judgement::Scored(Reward { plan: 0.25, code: 1.0 }),
                },
            ),
            (9, Event::Faulted { rollout: RolloutId(4), attempt: Attempt(1), code: "F001".into() }),
            (u64::MAX, Event::StopRequested),
        ]
    }

    #[test]
    fn round_trip_keeps_every_field() {
        let events = events();
        let bytes = encode(&events).unwrap();
        assert_eq!(bytes[0], VERSION);
        assert_eq!(decode::<Vec<(u64, Event)>>(&bytes).unwrap(), events);
    }

    #[test]
    fn other_version_truncation_and_left_overs_are_refused() {
        let bytes = encode(&events()).unwrap();
        let mut other = bytes.clone();
        other[0] = VERSION + 1;
        assert!(
            matches!(decode::<Vec<(u64, Event)>>(&other), Err(CodecError::Version { found }) if found == VERSION + 1)
        );
        for cut in 1..bytes.len() {
            assert!(decode::<Vec<(u64, Event)>>(&bytes[..cut]).is_err(), "{cut} of {} bytes decoded", bytes.len());
        }
        assert!(matches!(decode::<Vec<(u64, Event)>>(&[]), Err(CodecError::Empty)));
        let mut longer = bytes;
        longer.push(0);
        assert!(matches!(decode::<Vec<(u64, Event)>>(&longer), Err(CodecError::TrailingBytes(1))));
    }

    #[test]
    fn a_damaged_length_cannot_ask_for_more_than_the_limit() {
        // 253 announces a u64 length: 2^60 elements.
        let mut bytes = vec![VERSION, 253];
        bytes.extend_from_slice(&(1u64 << 60).to_le_bytes());
        assert!(decode::<Vec<u8>>(&bytes).is_err());
        assert!(decode::<String>(&bytes).is_err());
    }

    #[test]
    fn records_over_the_limit_are_not_written() {
        let big = vec![0u8; MAX_BYTES + 1];
        let mut out = vec![7u8];
        assert!(matches!(encode_into(&big, &mut out), Err(CodecError::TooLarge { .. })));
        assert_eq!(out, [7u8], "a refused record leaves no bytes behind");
    }
}
