//! The shape of the network out of a GGUF file's metadata, as `hf_config` has it from config.json.
//!
//! Keys begin with the architecture's name. What the network cannot do is an error, never ignored.

use super::file::{GgufFile, Value};
use super::{INCOMPLETE, ROPE_FACTORS};
use crate::config::{Family, ModelConfig, RopeScaling};
use crate::error::ModelError;
use crate::network::Rope;

/// A size that a key may claim: products of two stay far from overflow, and no model comes near.
const SIZE_LIMIT: i64 = 1 << 31;
/// Llama 3.1 and later: the factors of the frequencies are in the file, the numbers they were made of are not. These are
/// the published ones.
const LLAMA3: (f32, f32, usize) = (1.0, 4.0, 8192);

/// Reads the keys. `eos_token_ids` are those of the metadata.
pub fn config(file: &GgufFile) -> Result<ModelConfig, ModelError> {
    let architecture = file.text("general.architecture")?;
    let family = match architecture {
        Some("llama") => Family::Llama,
        Some("qwen2") => Family::Qwen2,
        Some("qwen3") => Family::Qwen3,
        _ => {
            let hint = "only these decoder families are built; choose another model";
            return Err(file.bad_key("general.architecture", "\"llama\", \"qwen2\" or \"qwen3\"", hint));
        }
    };
    let keys = Keys { file, prefix: architecture.unwrap_or_default() };
    refuse_unsupported(&keys)?;
    let hidden_size = keys.size("embedding_length")?;
    let num_heads = keys.size("attention.head_count")?;
    let num_kv_heads = keys.opt_size("attention.head_count_kv")?.unwrap_or(num_heads);
    let head_dim = match keys.opt_size("attention.key_length")? {
        Some(dim) => dim,
        None => hidden_size / num_heads,
    };
    let fit = "the sizes in this file do not fit together";
    if num_heads % num_kv_heads != 0 {
        return Err(keys.bad("attention.head_count_kv", &format!("a divisor of the {num_heads} heads"), fit));
    }
    if head_dim < 2 || head_dim % 2 != 0 {
        return Err(keys.bad("attention.key_length", "an even size of a head, at least 2", fit));
    }
    for key in ["attention.value_length", "rope.dimension_count"] {
        if keys.opt_size(key)?.is_some_and(|dim| dim != head_dim) {
            let hint = "heads of one size, rotated whole, are built; choose another model";
            return Err(keys.bad(key, &format!("{head_dim}, the size of a head"), hint));
        }
    }
    // The embedding knows it best; the key is optional.
    let embedding = file.tensors.get("token_embd.weight").map(|entry| entry.shape.as_slice());
    let Some(&[vocab_size, width]) = embedding.filter(|shape| shape.len() == 2) else {
        let hint = "the file is incomplete; copy or download it again".to_string();
        return Err(ModelError::MissingTensor { path: file.path.clone(), tensor: "token_embd.weight".into(), hint });
    };
    if width != hidden_size {
        return Err(keys.bad("embedding_length", &format!("{width}, the width of `token_embd.weight`"), fit));
    }
    let has = |name: &str| file.tensors.contains_key(name);
    let eos_token_ids = ids(file, ["eos", "eot", "eom"])?;
    let mut config = ModelConfig {
        family,
        vocab_size,
        hidden_size,
        intermediate_size: keys.size("feed_forward_length")?,
        num_layers: keys.size("block_count")?,
        num_heads,
        num_kv_heads,
        head_dim,
        rms_norm_eps: keys.float("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6),
        rope_theta: keys.float("rope.freq_base")?.unwrap_or(10_000.0) as f32,
        rope_scaling: None,
        tie_word_embeddings: !has("output.weight"),
        attention_bias: family != Family::Qwen2 && has("blk.0.attn_q.bias"),
        mlp_bias: family == Family::Llama && has("blk.0.ffn_gate.bias"),
        max_position_embeddings: keys.size("context_length")?,
        eos_token_ids,
        bos_token_id: file.id("tokenizer.ggml.bos_token_id")?,
        pad_token_id: file.id("tokenizer.ggml.padding_token_id")?,
    };
    config.rope_scaling = match has(ROPE_FACTORS) {
        true => Some(llama3(&keys, &config)?),
        false => scaling(&keys, config.max_position_embeddings)?,
    };
    Ok(config)
}

/// Ids of the named roles, each once.
fn ids(file: &GgufFile, roles: [&str; 3]) -> Result<Vec<u32>, ModelError> {
    let mut ids = Vec::new();
    for role in roles {
        let id = file.id(&format!("tokenizer.ggml.{role}_token_id"))?;
        ids.extend(id.filter(|id| !ids.contains(id)));
    }
    Ok(ids)
}

fn refuse_unsupported(keys: &Keys) -> Result<(), ModelError> {
    if keys.file.keys.get("split.count").is_some_and(|count| !matches!(count, Value::Int(0 | 1))) {
        let hint = "this file is one part of several; join them with llama.cpp's gguf-split";
        return Err(keys.file.bad_key("split.count", "one file", hint));
    }
    if keys.opt_int("expert_count")?.is_some_and(|count| count != 0) {
        return Err(keys.bad("expert_count", "0", "mixtures of experts are not built; choose another model"));
    }
    let context = keys.opt_int("context_length")?.unwrap_or(0);
    if keys.opt_int("attention.sliding_window")?.is_some_and(|window| window != 0 && window < context) {
        return Err(keys.bad(
            "attention.sliding_window",
            "none",
            "sliding windows are not built; choose another model",
        ));
    }
    Ok(())
}

/// `rope.scaling.*`: none, linear or YaRN with its usual ends.
fn scaling(keys: &Keys, max_position: usize) -> Result<Option<RopeScaling>, ModelError> {
    let own = format!("{}.rope.scaling.", keys.prefix);
    let known = ["type", "factor", "original_context_length", "finetuned"];
    let strange = keys.file.keys.keys().filter_map(|key| key.strip_prefix(&own)).find(|key| !known.contains(key));
    if let Some(key) = strange {
        let hint = "this refinement of the rotary embedding is not built; choose another model";
        return Err(keys.bad(&format!("rope.scaling.{key}"), "no such key", hint));
    }
    let factor = || -> Result<f64, ModelError> {
        keys.float("rope.scaling.factor")?.ok_or_else(|| keys.bad("rope.scaling.factor", "a number", INCOMPLETE))
    };
    match keys.file.text(&format!("{own}type"))? {
        // The oldest files have the linear factor alone.
        None => Ok(keys.float("rope.scale_linear")?.map(|factor| RopeScaling::Linear { factor: factor as f32 })),
        Some("none") => Ok(None),
        Some("linear") => Ok(Some(RopeScaling::Linear { factor: factor()? as f32 })),
        Some("yarn") => {
            let factor = factor()?;
            Ok(Some(RopeScaling::Yarn {
                factor: factor as f32,
                beta_fast: 32.0,
                beta_slow: 1.0,
                attention_factor: if factor <= 1.0 { 1.0 } else { (0.1 * factor.ln() + 1.0) as f32 },
                original_max_position: keys.opt_size("rope.scaling.original_context_length")?.unwrap_or(max_position),
                truncate: true,
            }))
        }
        _ => {
            let hint = "this rotary embedding is not built; choose another model";
            Err(keys.bad("rope.scaling.type", "\"none\", \"linear\" or \"yarn\"", hint))
        }
    }
}

/// The scaling that makes these factors. Fails where the published numbers do not.
fn llama3(keys: &Keys, config: &ModelConfig) -> Result<RopeScaling, ModelError> {
    let file = keys.file;
    let bad = |found: String, expected: &str| ModelError::BadTensor {
        path: file.path.clone(),
        tensor: ROPE_FACTORS.into(),
        what: "content",
        found: found.into(),
        expected: expected.into(),
        hint: "this rotary embedding is not built; choose another model, or the Hugging Face folder of this one".into(),
    };
    let entry = &file.tensors[ROPE_FACTORS];
    if entry.shape != [config.head_dim / 2] {
        return Err(bad(format!("of shape {:?}", entry.shape), &format!("[{}]", config.head_dim / 2)));
    }
    let factors = file.read(entry)?;
    let (low_freq_factor, high_freq_factor, original_max_position) = LLAMA3;
    let factor = factors.iter().copied().fold(1.0, f32::max);
    let scaling = RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position };
    let plain = Rope::new(config).frequencies;
    let scaled = Rope::new(&ModelConfig { rope_scaling: Some(scaling.clone()), ..config.clone() }).frequencies;
    let same = |((plain, scaled), factor): ((&f32, &f32), &f32)| (plain / scaled / factor - 1.0).abs() < 1e-3;
    match plain.iter().zip(&scaled).zip(&factors).all(same) {
        true => Ok(scaling),
        false => Err(bad("other factors".into(), &format!("those of Llama 3.1 with a factor of {factor}"))),
    }
}

/// The keys of one architecture.
struct Keys<'a> {
    file: &'a GgufFile,
    prefix: &'a str,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn bad(&self, key: &str, expected: &str, hint: &str) -> ModelError {
        self.file.bad_key(&self.name(key), expected, hint)
    }

    /// A number, or a list of one number for every layer.
    fn opt_int(&self, key: &str) -> Result<Option<i64>, ModelError> {
        match self.file.keys.get(&self.name(key)) {
            None => Ok(None),
            Some(Value::Int(n)) => Ok(Some(*n)),
            Some(Value::List(list)) => match list.as_slice() {
                [first @ Value::Int(n), rest @ ..] if rest.iter().all(|other| other == first) => Ok(Some(*n)),
                _ => Err(self.bad(key, "one number for all layers", "layers of different shapes are not built")),
            },
            Some(_) => Err(self.bad(key, "a whole number", INCOMPLETE)),
        }
    }

    fn opt_size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        match self.opt_int(key)? {
            None => Ok(None),
            Some(n) if n > 0 && n < SIZE_LIMIT => Ok(Some(n as usize)),
            Some(_) => Err(self.bad(key, "a positive whole number below 2^31", INCOMPLETE)),
        }
    }

    fn size(&self, key: &str) -> Result<usize, ModelError> {
        self.opt_size(key)?.ok_or_else(|| self.bad(key, "a positive whole number", INCOMPLETE))
    }

    /// The decimal number that was meant: files hold f32, and 1e-5 must not become 9.99999974e-6.
    fn float(&self, key: &str) -> Result<Option<f64>, ModelError> {
        match self.file.keys.get(&self.name(key)) {
            None => Ok(None),
            Some(Value::Float(x)) if x.is_finite() && *x > 0.0 => {
                Ok(Some((*x as f32).to_string().parse().unwrap_or(*x)))
            }
            Some(_) => Err(self.bad(key, "a positive number", INCOMPLETE)),
        }
    }
}
