//! Token and log-prob columns: one byte that says how (0 plain, 1 zstd), then little-endian 4-byte numbers, or bytes.

use std::io::Read;

use super::StoreError;

/// Level 1: log-probs are nearly incompressible noise, more effort buys nothing.
const LEVEL: i32 = 1;
/// Shorter columns stay plain: zstd costs more there than it saves. Bytes.
const PLAIN_MAX: usize = 256;
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;
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
        self.pack()
    }

    pub fn f32s(&mut self, values: &[f32]) -> std::io::Result<Vec<u8>> {
        self.plain.clear();
        self.plain.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self.pack()
    }

    pub fn bytes(&mut self, values: &[u8]) -> std::io::Result<Vec<u8>> {
        self.plain.clear();
        self.plain.extend_from_slice(values);
        self.pack()
    }

    fn pack(&mut self) -> std::io::Result<Vec<u8>> {
        let mut column;
        if self.plain.len() <= PLAIN_MAX {
            column = Vec::with_capacity(1 + self.plain.len());
            column.push(PLAIN);
            column.extend_from_slice(&self.plain);
        } else {
            let packed = self.zstd.compress(&self.plain)?;
            column = Vec::with_capacity(1 + packed.len());
            column.push(ZSTD);
            column.extend_from_slice(&packed);
        }
        Ok(column)
    }
}

pub fn unpack_u32s(packed: &[u8]) -> Result<Vec<u32>, StoreError> {
    Ok(words(packed)?.map(u32::from_le_bytes).collect())
}

pub fn unpack_f32s(packed: &[u8]) -> Result<Vec<f32>, StoreError> {
    Ok(words(packed)?.map(f32::from_le_bytes).collect())
}

pub fn unpack_bytes(packed: &[u8]) -> Result<Vec<u8>, StoreError> {
    let mut plain = Vec::new();
    match packed.split_first() {
        Some((&PLAIN, rest)) => plain.extend_from_slice(rest),
        Some((&ZSTD, rest)) => {
            zstd::stream::read::Decoder::new(rest)
                .and_then(|decoder| decoder.take(MAX_UNPACKED).read_to_end(&mut plain))
                .map_err(|e| StoreError::Incomplete(format!("a readable token column: {e}")))?;
        }
        _ => return Err(StoreError::Incomplete("a token column of a known kind".into())),
    }
    Ok(plain)
}

fn words(packed: &[u8]) -> Result<impl Iterator<Item = [u8; 4]>, StoreError> {
    let plain = unpack_bytes(packed)?;
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
        for count in [0, 1, 64, 65, 500] {
            let tokens: Vec<u32> = (0..count).map(|i| i * 7919 % 1024).collect();
            let logprobs: Vec<f32> =
                (0..count).map(|i| if i == 3 { -0.0 } else { -(i as f32) * 0.013 + f32::MIN_POSITIVE }).collect();
            assert_eq!(unpack_u32s(&packer.u32s(&tokens).unwrap()).unwrap(), tokens);
            let column = packer.f32s(&logprobs).unwrap();
            assert_eq!(column[0], if count <= 64 { PLAIN } else { ZSTD });
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&unpack_f32s(&column).unwrap()), bits(&logprobs));
        }
        for count in [0, 7, 9_000] {
            let fates: Vec<u8> = (0..count).map(|n| u8::from(n % 7 == 0) * 2).collect();
            assert_eq!(unpack_bytes(&packer.bytes(&fates).unwrap()).unwrap(), fates);
        }
        assert!(unpack_u32s(b"not a column").is_err());
        assert!(unpack_u32s(&[PLAIN, 1, 2, 3]).is_err());
        assert!(unpack_u32s(&[ZSTD, 1, 2, 3]).is_err());
        assert!(unpack_u32s(&[]).is_err());
    }
}
