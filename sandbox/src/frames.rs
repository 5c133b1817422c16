//! Frames between Rust and the harness: `u32 header length | JSON header | u64 blob length | blob`, little-endian.
//!
//! A reader states the largest header and blob it accepts, so that a forged length costs nothing.

use std::io;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// One frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub header: Value,
    pub blob: Vec<u8>,
}

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("the stream ended")]
    End,
    #[error("the stream ended inside a frame")]
    Cut,
    #[error("a frame of {found} bytes where at most {limit} are allowed")]
    TooLarge { found: u64, limit: u64 },
    #[error("the frame's header is not JSON: {0}")]
    Header(#[from] serde_json::Error),
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for FrameError {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::UnexpectedEof => FrameError::Cut,
            _ => FrameError::Io(e),
        }
    }
}

/// Largest accepted sizes, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameLimits {
    pub header: u64,
    pub blob: u64,
}

pub(crate) async fn read_frame(from: &mut (impl AsyncRead + Unpin), limits: FrameLimits) -> Result<Frame, FrameError> {
    let mut size = [0u8; 4];
    if from.read(&mut size[..1]).await? == 0 {
        return Err(FrameError::End);
    }
    from.read_exact(&mut size[1..]).await?;
    let header = read_block(from, u32::from_le_bytes(size).into(), limits.header).await?;
    let header = serde_json::from_slice(&header)?;
    let mut size = [0u8; 8];
    from.read_exact(&mut size).await?;
    let blob = read_block(from, u64::from_le_bytes(size), limits.blob).await?;
    Ok(Frame { header, blob })
}

/// Reads `size` bytes; memory grows with what arrives, not with what was promised.
async fn read_block(from: &mut (impl AsyncRead + Unpin), size: u64, limit: u64) -> Result<Vec<u8>, FrameError> {
    if size > limit {
        return Err(FrameError::TooLarge { found: size, limit });
    }
    let mut block = Vec::new();
    if (from.take(size).read_to_end(&mut block).await? as u64) < size {
        return Err(FrameError::Cut);
    }
    Ok(block)
}

pub(crate) async fn write_frame(to: &mut (impl AsyncWrite + Unpin), header: &Value, blob: &[u8]) -> io::Result<()> {
    to.write_all(&encode_head(header, blob.len())).await?;
    to.write_all(blob).await?;
    to.flush().await
}

/// Everything of a frame that precedes its blob.
pub(crate) fn encode_head(header: &Value, blob_len: usize) -> Vec<u8> {
    let head = header.to_string();
    let mut bytes = Vec::with_capacity(head.len() + 12);
    bytes.extend((head.len() as u32).to_le_bytes());
    bytes.extend(head.as_bytes());
    bytes.extend((blob_len as u64).to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SMALL: FrameLimits = FrameLimits { header: 64, blob: 16 };

    async fn read(bytes: &[u8]) -> Result<Frame, FrameError> {
        read_frame(&mut &bytes[..], SMALL).await
    }

    #[tokio::test]
    async fn a_written_frame_is_read_back() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &json!({"a": [1, 2.5]}), b"blob").await.unwrap();
        let frame = read(&bytes).await.unwrap();
        assert_eq!(frame.header, json!({"a": [1, 2.5]}));
        assert_eq!(frame.blob, b"blob");
    }

    #[tokio::test]
    async fn forged_lengths_and_cut_streams_are_errors_not_waits() {
        assert!(matches!(read(&[]).await, Err(FrameError::End)));
        assert!(matches!(read(&[1]).await, Err(FrameError::Cut)));
        assert!(matches!(read(&u32::MAX.to_le_bytes()).await, Err(FrameError::TooLarge { .. })));
        let mut long = encode_head(&json!({}), usize::MAX);
        assert!(matches!(read(&long).await, Err(FrameError::TooLarge { .. })));
        long = encode_head(&json!({}), 8);
        long.extend(b"1234567");
        assert!(matches!(read(&long).await, Err(FrameError::Cut)));
        assert!(matches!(read(b"\x02\0\0\0no\0\0\0\0\0\0\0\0").await, Err(FrameError::Header(_))));
    }
}
