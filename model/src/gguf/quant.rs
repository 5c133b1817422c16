//! Blocks of quantised weights to f32: the types that published files of small models are made of.
//!
//! Layouts are those of ggml (the reference is its `dequantize_row_*`): a scale and integers per block of 32 values, or two levels
//! of scales per 256. The tests hold every type against another implementation, bit for bit.

use crate::weights::f16_to_f32;

/// How the values of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum Quant {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q8_0,
    Q4_K,
    Q6_K,
}

const ALL: [(u32, Quant); 9] = [
    (0, Quant::F32),
    (1, Quant::F16),
    (2, Quant::Q4_0),
    (3, Quant::Q4_1),
    (6, Quant::Q5_0),
    (8, Quant::Q8_0),
    (12, Quant::Q4_K),
    (14, Quant::Q6_K),
    (30, Quant::BF16),
];

/// Types that occur in published files and are not read here.
const OTHERS: [(u32, &str); 8] =
    [(7, "Q5_1"), (10, "Q2_K"), (11, "Q3_K"), (13, "Q5_K"), (20, "IQ4_NL"), (23, "IQ4_XS"), (28, "F64"), (39, "MXFP4")];

impl Quant {
    pub fn from_code(code: u32) -> Option<Self> {
        ALL.iter().find(|(known, _)| *known == code).map(|(_, quant)| *quant)
    }

    /// Values in a block, and its bytes.
    pub fn block(self) -> (usize, usize) {
        match self {
            Quant::F32 => (1, 4),
            Quant::F16 | Quant::BF16 => (1, 2),
            Quant::Q4_0 => (32, 18),
            Quant::Q4_1 => (32, 20),
            Quant::Q5_0 => (32, 22),
            Quant::Q8_0 => (32, 34),
            Quant::Q4_K => (256, 144),
            Quant::Q6_K => (256, 210),
        }
    }
}

/// A type's name for an error.
pub fn name_of(code: u32) -> String {
    match OTHERS.iter().find(|(known, _)| *known == code) {
        Some((_, name)) => format!("{name} ({code})"),
        None => format!("{code}, which is unknown"),
    }
}

/// All types that are read, for an error.
pub fn supported() -> String {
    let names: Vec<String> = ALL.iter().map(|(_, quant)| format!("{quant:?}")).collect();
    format!("one of {}", names.join(", "))
}

/// `raw` is whole blocks.
pub fn to_f32(quant: Quant, raw: &[u8]) -> Vec<f32> {
    let (values, bytes) = quant.block();
    let mut out = Vec::with_capacity(raw.len() / bytes * values);
    for block in raw.chunks_exact(bytes) {
        match quant {
            Quant::F32 => out.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]])),
            Quant::F16 => out.push(half(block)),
            Quant::BF16 => out.push(f32::from_bits(u32::from(u16::from_le_bytes([block[0], block[1]])) << 16)),
            Quant::Q4_0 => {
                let scale = half(block);
                out.extend(nibbles(&block[2..]).map(|q| scale * (f32::from(q) - 8.0)));
            }
            Quant::Q4_1 => {
                let (scale, least) = (half(block), half(&block[2..]));
                out.extend(nibbles(&block[4..]).map(|q| scale * f32::from(q) + least));
            }
            Quant::Q5_0 => {
                let scale = half(block);
                // The fifth bits, one a value.
                let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
                let fifth = |i: usize| (high >> i & 1) as u8 * 16;
                out.extend(nibbles(&block[6..]).enumerate().map(|(i, q)| scale * (f32::from(q | fifth(i)) - 16.0)));
            }
            Quant::Q8_0 => {
                let scale = half(block);
                out.extend(block[2..].iter().map(|q| scale * f32::from(*q as i8)));
            }
            Quant::Q4_K => q4_k(block, &mut out),
            Quant::Q6_K => q6_k(block, &mut out),
        }
    }
    out
}

fn half(bytes: &[u8]) -> f32 {
    f16_to_f32(u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// All low halves, then all high halves.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    bytes.iter().map(|byte| byte & 15).chain(bytes.iter().map(|byte| byte >> 4))
}

/// Eight groups of 32 values, each with a scale and an offset of six bits, which the block's own two scale.
fn q4_k(block: &[u8], out: &mut Vec<f32>) {
    let (scale, offset, packed) = (half(block), half(&block[2..]), &block[4..16]);
    let six_bits = |group: usize| match group {
        0..4 => (packed[group] & 63, packed[group + 4] & 63),
        _ => {
            let (low, top) = (packed[group + 4], (packed[group - 4] >> 6, packed[group] >> 6));
            (low & 15 | top.0 << 4, low >> 4 | top.1 << 4)
        }
    };
    for (pair, bytes) in block[16..].chunks_exact(32).enumerate() {
        for (i, q) in nibbles(bytes).enumerate() {
            let (s, o) = six_bits(2 * pair + i / 32);
            out.push(scale * f32::from(s) * f32::from(q) - offset * f32::from(o));
        }
    }
}

/// Sixteen groups of 16 values with a scale of eight bits each; values in six bits, four low and two high.
fn q6_k(block: &[u8], out: &mut Vec<f32>) {
    let (low, high, scales, scale) = (&block[..128], &block[128..192], &block[192..208], half(&block[208..]));
    for i in 0..256 {
        // Halves of 128; quarters of those share the bytes of `high`.
        let (part, quarter, at) = (i / 128, i / 32 % 4, i % 32);
        let four = low[part * 64 + quarter % 2 * 32 + at] >> (quarter / 2 * 4) & 15;
        let two = high[part * 32 + at] >> (quarter * 2) & 3;
        out.push(scale * f32::from(scales[i / 16] as i8) * (f32::from(four | two << 4) - 32.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `gguf-py`'s values of random blocks; `scripts/make_gguf_fixtures.py` wrote them down.
    #[test]
    fn every_type_equals_the_other_implementation_bit_for_bit() {
        let blocks: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/gguf/blocks.json")).expect("JSON");
        for (_, quant) in ALL {
            let case = &blocks[format!("{quant:?}")];
            let hex = case["bytes"].as_str().expect("bytes");
            let raw: Vec<u8> =
                (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex")).collect();
            let expected: Vec<f32> =
                case["values"].as_array().expect("values").iter().map(|v| v.as_f64().expect("f32") as f32).collect();
            assert!(expected.len() >= 64 && expected.iter().any(|v| v.abs() > 1e-3), "{quant:?}: a test of nothing");
            assert_eq!(to_f32(quant, &raw), expected, "{quant:?}");
        }
    }
}
