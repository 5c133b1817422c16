//! Networks of known sizes with random weights, for measurements that need no trained one.

use model::ModelConfig;
use model::config::{Family, TinyShape};

/// Names that `of` knows.
pub const NAMES: [&str; 3] = ["qwen3-0.6b", "smollm2-135m", "tiny"];

/// The shape by that name: Qwen3-0.6B, SmolLM2-135M, or the embedded policy of the default run file.
pub fn of(name: &str) -> Option<ModelConfig> {
    let (family, shape, head_dim, rope_theta, positions) = match name {
        "qwen3-0.6b" => {
            let shape = TinyShape { hidden: 1024, layers: 28, heads: 16, kv_heads: 8, ff: 3072, vocab: 151_936 };
            (Family::Qwen3, shape, 128, 1e6, 40_960)
        }
        "smollm2-135m" => {
            let shape = TinyShape { hidden: 576, layers: 30, heads: 9, kv_heads: 3, ff: 1536, vocab: 49_152 };
            (Family::Llama, shape, 64, 1e5, 8_192)
        }
        "tiny" => {
            let shape = TinyShape { hidden: 192, layers: 4, heads: 6, kv_heads: 2, ff: 512, vocab: 1024 };
            (Family::Qwen3, shape, 32, 1e4, 2_048)
        }
        _ => return None,
    };
    let config = ModelConfig::tiny_default(shape, positions, Vec::new());
    Some(ModelConfig { family, head_dim, rope_theta, ..config })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published sizes, embedding counted once.
    #[test]
    fn shapes_have_the_parameters_of_their_namesakes() {
        let count = |name| of(name).map(|config| config.num_parameters());
        assert_eq!(count("qwen3-0.6b"), Some(596_049_920));
        assert_eq!(count("smollm2-135m"), Some(134_515_008));
        assert!(NAMES.iter().all(|name| of(name).is_some()) && of("qwen3").is_none());
    }
}
