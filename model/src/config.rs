//! The shape of a network: what a Hugging Face `config.json` says, in one flat record.

use serde::{Deserialize, Serialize};

/// Decoder families. They differ in biases of the attention projections and in the norm of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// No biases (unless `attention_bias`), no norm of queries and keys.
    Llama,
    /// Biases on q, k and v, none on o.
    Qwen2,
    /// RMSNorm over each head of q and k, before the rotation.
    Qwen3,
}

/// How the rotary frequencies are stretched for contexts longer than the pre-training ones. Formulas: `network::rope`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeScaling {
    /// Positions divided by `factor`.
    Linear { factor: f32 },
    /// Plain within the window (`max_position_embeddings`), where `factor` has no effect; longer texts are refused: the
    /// published rule gives each text a base of its own there, which cached keys cannot follow.
    Dynamic { factor: f32, original_max_position: usize },
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a ramp between.
    Llama3 { factor: f32, low_freq_factor: f32, high_freq_factor: f32, original_max_position: usize },
    /// YaRN: interpolation by parts of the spectrum and a temperature on the attention.
    Yarn {
        factor: f32,
        beta_fast: f32,
        beta_slow: f32,
        /// Multiplies cos and sin. Computed from the factor when the file gives none.
        attention_factor: f32,
        original_max_position: usize,
        /// Round the ends of the ramp to whole dimensions (the files' default).
        truncate: bool,
    },
}

/// Everything the network needs to be built. Sizes count elements; tensors are f32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    pub family: Family,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    /// Divides `num_heads` (grouped-query attention).
    pub num_kv_heads: usize,
    /// Even. Not always `hidden_size / num_heads`.
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f32,
    pub rope_scaling: Option<RopeScaling>,
    /// The head is the transposed embedding.
    pub tie_word_embeddings: bool,
    /// Biases on q, k and v (Qwen2), and on o too where the family is Llama or Qwen3.
    pub attention_bias: bool,
    /// Biases on the three projections of the MLP (Llama only).
    pub mlp_bias: bool,
    /// Prompt and answer together; longer texts are refused.
    pub max_position_embeddings: usize,
    /// Any of them ends an answer.
    pub eos_token_ids: Vec<u32>,
    pub bos_token_id: Option<u32>,
    pub pad_token_id: Option<u32>,
}

/// Sizes of the embedded policy, as the run file names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TinyShape {
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub ff: usize,
    pub vocab: usize,
}

impl ModelConfig {
    /// A Qwen3-style network with a tied head for the embedded policy. `head_dim = hidden / heads`, rounded down to even.
    pub fn tiny_default(shape: TinyShape, max_position_embeddings: usize, eos_token_ids: Vec<u32>) -> Self {
        Self {
            family: Family::Qwen3,
            vocab_size: shape.vocab,
            hidden_size: shape.hidden,
            intermediate_size: shape.ff,
            num_layers: shape.layers,
            num_heads: shape.heads,
            num_kv_heads: shape.kv_heads,
            head_dim: (shape.hidden / shape.heads.max(1)) & !1,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            rope_scaling: None,
            tie_word_embeddings: true,
            attention_bias: false,
            mlp_bias: false,
            max_position_embeddings,
            eos_token_ids,
            bos_token_id: None,
            pad_token_id: None,
        }
    }

    /// Query heads that share one key head.
    pub fn group(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }

    /// Bias on the q, k and v projections.
    pub fn qkv_bias(&self) -> bool {
        self.attention_bias || self.family == Family::Qwen2
    }

    /// Bias on the output projection of attention.
    pub fn o_bias(&self) -> bool {
        self.attention_bias && self.family != Family::Qwen2
    }

    /// RMSNorm on each head of q and k.
    pub fn qk_norm(&self) -> bool {
        self.family == Family::Qwen3
    }

    /// Number of trainable scalars.
    pub fn num_parameters(&self) -> usize {
        let (d, f, hd) = (self.hidden_size, self.intermediate_size, self.head_dim);
        let (q, kv) = (self.num_heads * hd, self.num_kv_heads * hd);
        let mut layer = d * (q + 2 * kv) + q * d + 3 * d * f + 2 * d;
        layer += if self.qkv_bias() { q + 2 * kv } else { 0 };
        layer += if self.o_bias() { d } else { 0 };
        layer += if self.mlp_bias { 2 * f + d } else { 0 };
        layer += if self.qk_norm() { 2 * hd } else { 0 };
        let embed = self.vocab_size * d * if self.tie_word_embeddings { 1 } else { 2 };
        embed + self.num_layers * layer + d
    }
}
