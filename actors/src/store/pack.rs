//! Token and log-prob columns: little-endian 4-byte numbers behind zstd.

use std::io::Read;

use super::StoreError;

/// Level 1: log-probs are nearly incompressible noise, more effort buys nothing.
const LEVEL: i32 = 1;
/// Bytes a column may unpack to: a damaged header cannot ask for more.
const MAX_UNPACKED: u64 = 64 * 1024 * 1024;

/// Reuses one zstd context, which costs more to make than a short answer costs to pack.
pub struct Packer {
    zstd: zstd::bulk::Compressor<'static>,
    plain: Vec<u8>,
}

impl Packer {
    pub fn new() -> std::io::Result<Packer> {
        Ok(Packer { zstd: zstd::bulk::Compressor::new(LEVEL)?, plain: Vec::new() })
    }

    pub fn u32s(&mut self, values: &[u32]) -> std::io::Result<Vec<u8>> {
        self.plain.clear();
        self.plain.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self.zstd.compress(&self.plain)
    }

    pub fn f32s(&mut self, values: &[f32]) -> std::io::Result<Vec<u8>> {
        self.plain.clear();
        self.plain.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self.zstd.compress(&self.plain)
    }
}

pub fn unpack_u32s(packed: &[u8]) -> Result<Vec<u32>, StoreError> {
    Ok(words(packed)?.map(u32::from_le_bytes).collect())
}

pub fn unpack_f32s(packed: &[u8]) -> Result<Vec<f32>, StoreError> {
    Ok(words(packed)?.map(f32::from_le_bytes).collect())
}

fn words(packed: &[u8]) -> Result<impl Iterator<Item = [u8; 4]>, StoreError> {
    let mut plain = Vec::new();
    zstd::stream::read::Decoder::new(packed)
        .and_then(|decoder| decoder.take(MAX_UNPACKED).read_to_end(&mut plain))
        .map_err(|e| StoreError::Incomplete(format!("a readable token column: {e}")))?;
    if plain.len() % 4 != 0 {
        return Err(StoreError::Incomplete(format!("a whole number of 4-byte words: {} bytes", plain.len())));
    }
    let words: Vec<[u8; 4]> = plain.chunks_exact(4).map(|c| [c[0], c[1], c[2], c[3]]).collect();
    Ok(words.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_back_bit_for_bit() {
        let mut packer = Packer::new().unwrap();
        let tokens: Vec<u32> = (0..500).map(|i| i * 7919 % 1024).collect();
        let logprobs: Vec<f32> = (0..500).map(|i| -(i as f32) * 0.013).chain([f32::MIN_POSITIVE, -0.0]).collect();
        for _ in 0..2 {
            assert_eq!(unpack_u32s(&packer.u32s(&tokens).unwrap()).unwrap(), tokens);
            let back = unpack_f32s(&packer.f32s(&logprobs).unwrap()).unwrap();
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&back), bits(&logprobs));
        }
        assert!(unpack_u32s(b"not zstd").is_err());
    }
}
