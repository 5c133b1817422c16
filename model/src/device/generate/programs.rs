//! The kernels of generation, compiled for one network.

use super::layout::{BLOCK_TOKENS, Shape, Sizes};
use crate::device::program::{Kernel, Program};
use crate::device::{Element, Result, Runtime};

const COMMON: &str = include_str!("common.cu");
/// Positions that one thread block attends to; longer texts are split.
pub const SPLIT: usize = 256;
/// Query rows times heads of one tile of a prompt.
const LINES: usize = 32;
/// Rows of a tile on tensor cores (`STEP` in prompt_mma.cu).
const TENSOR_ROWS: usize = 64;

pub struct Kernels {
    pub take: Kernel,
    pub embed: Kernel,
    pub norm: Kernel,
    pub rotate: Kernel,
    pub swiglu: Kernel,
    pub copy: Kernel,
    pub decode: Kernel,
    pub combine: Kernel,
    pub prompt: Prompt,
    pub sample: Kernel,
}

/// Attention of prompts.
pub enum Prompt {
    /// A tile of rows and the heads of a key head, any shape.
    Plain(Kernel),
    /// 64 rows of a head on tensor cores.
    Tensor(Kernel),
}

impl Kernels {
    pub fn load(runtime: &Runtime, shape: &Shape, sizes: &Sizes, element: Element) -> Result<Self> {
        let numbers = [
            ("HIDDEN", shape.hidden),
            ("HEADS", shape.heads),
            ("KV_HEADS", shape.kv_heads),
            ("HEAD_DIM", shape.head_dim),
            ("FF", shape.ff),
            ("VOCAB", shape.vocab),
            ("MAX_BLOCKS", sizes.max_seq_len.div_ceil(BLOCK_TOKENS)),
            ("BLOCK_TOKENS", BLOCK_TOKENS),
            ("SPLIT", SPLIT),
            ("LINES", LINES),
            ("TOGETHER", shape.together()),
            ("BF16", usize::from(element == Element::Bf16)),
        ];
        let mut defines: Vec<(&str, String)> = numbers.iter().map(|(name, n)| (*name, n.to_string())).collect();
        defines.push(("EPS", format!("{:e}f", shape.eps)));
        let load =
            |name: &'static str, source: &str| Program::load(runtime, name, &format!("{COMMON}\n{source}"), &defines);
        let decode = load("decode", include_str!("decode.cu"))?;
        let tensor = element == Element::Bf16 && runtime.capability().0 >= 8;
        let prompt = if tensor && shape.head_dim.is_multiple_of(8) && shape.head_dim <= 128 {
            let kernel = load("prompt-mma", include_str!("prompt_mma.cu"))?.kernel("prompt_attention_mma")?;
            kernel.allow_shared(tensor_shared(shape))?;
            Prompt::Tensor(kernel)
        } else {
            let kernel = load("prompt", include_str!("prompt.cu"))?.kernel("prompt_attention")?;
            kernel.allow_shared(plain_shared(shape))?;
            Prompt::Plain(kernel)
        };
        Ok(Self {
            take: decode.kernel("take_parameter")?,
            embed: decode.kernel("embed_rows")?,
            norm: decode.kernel("add_norm")?,
            rotate: decode.kernel("queries_keys_values")?,
            swiglu: decode.kernel("swiglu")?,
            copy: decode.kernel("copy_blocks")?,
            decode: decode.kernel("decode_attention")?,
            combine: decode.kernel("combine_splits")?,
            prompt,
            sample: load("sample", include_str!("sample.cu"))?.kernel("sample_rows")?,
        })
    }
}

impl Prompt {
    /// Rows of a tile, at most.
    pub fn rows(&self, shape: &Shape) -> usize {
        match self {
            Self::Plain(_) => LINES / shape.together(),
            Self::Tensor(_) => TENSOR_ROWS,
        }
    }

    /// The kernel, its grid beside the tiles, and its bytes of shared memory.
    pub fn launch(&self, shape: &Shape) -> (&Kernel, usize, usize) {
        match self {
            Self::Plain(kernel) => (kernel, shape.parts(), plain_shared(shape)),
            Self::Tensor(kernel) => (kernel, shape.heads, tensor_shared(shape)),
        }
    }
}

/// Two tiles of `LINES` rows, padded as in prompt.cu.
fn plain_shared(shape: &Shape) -> usize {
    2 * LINES * (shape.head_dim.next_multiple_of(4) + 4) * size_of::<f32>()
}

/// Queries, keys and values, padded as in prompt_mma.cu.
fn tensor_shared(shape: &Shape) -> usize {
    3 * TENSOR_ROWS * (shape.head_dim.next_multiple_of(16) + 8) * Element::Bf16.bytes()
}
