//! `config.json` of a Hugging Face folder, read into a `ModelConfig` and written back.
//!
//! What a file may ask for and this network cannot do (another activation, sliding windows, quantised weights) is an error:
//! it is never ignored.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::config::{Family, ModelConfig, RopeScaling};
use crate::error::{ModelError, read_json};

/// Reads `<dir>/config.json` and the end-of-sequence ids of `<dir>/generation_config.json`.
pub fn read(dir: &Path) -> Result<ModelConfig, ModelError> {
    let path = dir.join("config.json");
    let root = read_json(&path, "a Hugging Face model folder has a config.json; is this the right folder?")?;
    let Value::Object(root) = root else {
        return Err(ModelError::BadKey {
            path,
            key: "(root)".into(),
            found: kind(&root).into(),
            expected: "an object".into(),
            hint: "config.json must be a JSON object".into(),
        });
    };
    let keys = Keys { path: &path, prefix: "", map: &root };
    let family = family(&keys)?;
    refuse_unsupported(&keys, family)?;
    let hidden_size = keys.size("hidden_size")?;
    let num_heads = keys.size("num_attention_heads")?;
    let num_kv_heads = keys.opt_size("num_key_value_heads")?.unwrap_or(num_heads);
    let head_dim = match keys.opt_size("head_dim")? {
        Some(dim) => dim,
        None if family == Family::Qwen3 => 128,
        None => hidden_size / num_heads,
    };
    keys.check("num_key_value_heads", num_kv_heads, num_heads % num_kv_heads == 0, "a divisor of num_attention_heads")?;
    keys.check("head_dim", head_dim, head_dim >= 2 && head_dim % 2 == 0, "an even number, at least 2")?;
    let max_position_embeddings = keys.opt_size("max_position_embeddings")?.unwrap_or(default_positions(family));
    let (rope_theta, rope_scaling) = rope(&keys, max_position_embeddings)?;
    let mut eos_token_ids = keys.ids("eos_token_id")?;
    for id in generation_eos(dir)? {
        if !eos_token_ids.contains(&id) {
            eos_token_ids.push(id);
        }
    }
    Ok(ModelConfig {
        family,
        vocab_size: keys.size("vocab_size")?,
        hidden_size,
        intermediate_size: keys.size("intermediate_size")?,
        num_layers: keys.size("num_hidden_layers")?,
        num_heads,
        num_kv_heads,
        head_dim,
        rms_norm_eps: keys.number("rms_norm_eps")?.unwrap_or(1e-6),
        rope_theta,
        rope_scaling,
        tie_word_embeddings: keys.flag("tie_word_embeddings")?,
        attention_bias: keys.flag("attention_bias")?,
        mlp_bias: keys.flag("mlp_bias")?,
        max_position_embeddings,
        eos_token_ids,
        bos_token_id: keys.ids("bos_token_id")?.first().copied(),
        pad_token_id: keys.ids("pad_token_id")?.first().copied(),
    })
}

/// The `config.json` that `read` and transformers understand.
pub fn write(config: &ModelConfig) -> Value {
    let (model_type, architecture) = match config.family {
        Family::Llama => ("llama", "LlamaForCausalLM"),
        Family::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
        Family::Qwen3 => ("qwen3", "Qwen3ForCausalLM"),
    };
    let mut root = json!({
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": config.rope_scaling.as_ref().map(rope_value),
        "tie_word_embeddings": config.tie_word_embeddings,
        "max_position_embeddings": config.max_position_embeddings,
        "use_cache": true,
        "torch_dtype": "float32",
        "eos_token_id": config.eos_token_ids,
        "bos_token_id": config.bos_token_id,
        "pad_token_id": config.pad_token_id,
    });
    if config.family != Family::Qwen2 {
        root["attention_bias"] = json!(config.attention_bias);
    }
    if config.family == Family::Llama {
        root["mlp_bias"] = json!(config.mlp_bias);
    }
    root
}

fn rope_value(scaling: &RopeScaling) -> Value {
    match scaling {
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Dynamic { factor, original_max_position } => {
            json!({"rope_type": "dynamic", "factor": factor, "original_max_position_embeddings": original_max_position})
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor, "original_max_position_embeddings": original_max_position,
        }),
        RopeScaling::Yarn { factor, beta_fast, beta_slow, attention_factor, original_max_position, truncate } => {
            json!({
                "rope_type": "yarn", "factor": factor, "beta_fast": beta_fast, "beta_slow": beta_slow,
                "attention_factor": attention_factor, "original_max_position_embeddings": original_max_position,
                "truncate": truncate,
            })
        }
    }
}

fn family(keys: &Keys) -> Result<Family, ModelError> {
    match keys.map.get("model_type").and_then(Value::as_str) {
        Some("llama") => Ok(Family::Llama),
        Some("qwen2") => Ok(Family::Qwen2),
        Some("qwen3") => Ok(Family::Qwen3),
        _ => Err(keys.bad(
            "model_type",
            "\"llama\", \"qwen2\" or \"qwen3\"",
            "only these decoder families are built; convert the model or choose another",
        )),
    }
}

/// What transformers takes where a file says nothing.
fn default_positions(family: Family) -> usize {
    match family {
        Family::Llama => 2048,
        Family::Qwen2 | Family::Qwen3 => 32_768,
    }
}

fn refuse_unsupported(keys: &Keys, family: Family) -> Result<(), ModelError> {
    if !matches!(keys.map.get("hidden_act").and_then(Value::as_str), None | Some("silu")) {
        return Err(keys.bad("hidden_act", "\"silu\"", "the MLP of these families is SwiGLU"));
    }
    if keys.map.get("quantization_config").is_some_and(|value| !value.is_null()) {
        return Err(keys.bad("quantization_config", "none", "save the model in f32, f16 or bf16 first"));
    }
    let slides = keys
        .map
        .get("layer_types")
        .and_then(Value::as_array)
        .is_some_and(|layers| layers.iter().any(|layer| layer.as_str() != Some("full_attention")));
    if slides {
        return Err(keys.bad("layer_types", "only \"full_attention\"", "sliding windows are not built"));
    }
    if keys.flag("use_sliding_window")? {
        return Err(keys.bad("use_sliding_window", "false", "sliding windows are not built"));
    }
    if family != Family::Llama && keys.flag("mlp_bias")? {
        return Err(keys.bad("mlp_bias", "false", "only the Llama family has biases in its MLP"));
    }
    refuse_partial_rotation(keys)
}

fn refuse_partial_rotation(keys: &Keys) -> Result<(), ModelError> {
    match keys.number("partial_rotary_factor")? {
        None | Some(1.0) => Ok(()),
        Some(_) => Err(keys.bad("partial_rotary_factor", "1.0", "heads are rotated whole; another model is needed")),
    }
}

/// Base and scaling, from the flat keys (`rope_theta`, `rope_scaling`) or from `rope_parameters` of newer files.
fn rope(keys: &Keys, max_position: usize) -> Result<(f32, Option<RopeScaling>), ModelError> {
    let nested = ["rope_parameters", "rope_scaling"].into_iter().find_map(|name| match keys.map.get(name) {
        Some(Value::Object(map)) => Some((name, map)),
        _ => None,
    });
    let flat_theta = keys.number("rope_theta")?;
    let Some((name, map)) = nested else { return Ok((flat_theta.unwrap_or(10_000.0) as f32, None)) };
    let prefix = format!("{name}.");
    let rope = Keys { path: keys.path, prefix: &prefix, map };
    refuse_partial_rotation(&rope)?;
    let theta = rope.number("rope_theta")?.or(flat_theta).unwrap_or(10_000.0) as f32;
    let kind_key = if map.contains_key("rope_type") { "rope_type" } else { "type" };
    let need = |key: &str| {
        rope.number(key)?.map(|value| value as f32).ok_or_else(|| rope.bad(key, "a number", "this rope type needs it"))
    };
    let original = || -> Result<usize, ModelError> {
        let own = rope.opt_size("original_max_position_embeddings")?;
        Ok(own.or(keys.opt_size("original_max_position_embeddings")?).unwrap_or(max_position))
    };
    let scaling = match map.get(kind_key).map(|kind| kind.as_str().unwrap_or_default()) {
        None | Some("default") => None,
        Some("linear") => Some(RopeScaling::Linear { factor: need("factor")? }),
        Some("dynamic") => {
            let window = original()?;
            if window != max_position {
                let expected = format!("max_position_embeddings ({max_position})");
                let hint = "only the plain window of dynamic scaling is built: set both keys to it";
                return Err(rope.bad("original_max_position_embeddings", &expected, hint));
            }
            Some(RopeScaling::Dynamic { factor: need("factor")?, original_max_position: window })
        }
        Some("llama3") => Some(RopeScaling::Llama3 {
            factor: need("factor")?,
            low_freq_factor: need("low_freq_factor")?,
            high_freq_factor: need("high_freq_factor")?,
            original_max_position: original()?,
        }),
        Some("yarn") => Some(yarn(&rope, original()?, max_position)?),
        _ => {
            return Err(rope.bad(
                kind_key,
                "\"default\", \"linear\", \"dynamic\", \"llama3\" or \"yarn\"",
                "this rotary embedding is not built",
            ));
        }
    };
    Ok((theta, scaling))
}

/// `attention_factor = 0.1 ln(factor) + 1` unless given, or the quotient of the two `mscale` forms.
fn yarn(rope: &Keys, original_max_position: usize, max_position: usize) -> Result<RopeScaling, ModelError> {
    let factor = match rope.number("factor")? {
        Some(factor) => factor,
        None => max_position as f64 / original_max_position as f64,
    };
    let form = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
    let attention_factor =
        match (rope.number("attention_factor")?, rope.number("mscale")?, rope.number("mscale_all_dim")?) {
            (Some(given), _, _) => given,
            (None, Some(scale), Some(all)) if scale != 0.0 && all != 0.0 => form(scale) / form(all),
            _ => form(1.0),
        };
    Ok(RopeScaling::Yarn {
        factor: factor as f32,
        beta_fast: rope.number("beta_fast")?.unwrap_or(32.0) as f32,
        beta_slow: rope.number("beta_slow")?.unwrap_or(1.0) as f32,
        attention_factor: attention_factor as f32,
        original_max_position,
        truncate: !matches!(rope.map.get("truncate"), Some(Value::Bool(false))),
    })
}

fn generation_eos(dir: &Path) -> Result<Vec<u32>, ModelError> {
    let path = dir.join("generation_config.json");
    match read_json(&path, "") {
        Ok(Value::Object(map)) => Keys { path: &path, prefix: "", map: &map }.ids("eos_token_id"),
        Ok(_) | Err(ModelError::MissingFile { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// One object of a file, with errors that name file and key.
struct Keys<'a> {
    path: &'a Path,
    prefix: &'a str,
    map: &'a Map<String, Value>,
}

impl Keys<'_> {
    fn bad(&self, key: &str, expected: &str, hint: &str) -> ModelError {
        ModelError::BadKey {
            path: PathBuf::from(self.path),
            key: format!("{}{key}", self.prefix).into(),
            found: self.map.get(key).map_or_else(|| "missing".to_string(), kind).into(),
            expected: expected.into(),
            hint: hint.into(),
        }
    }

    fn check(&self, key: &str, value: usize, good: bool, expected: &str) -> Result<(), ModelError> {
        if good {
            return Ok(());
        }
        Err(ModelError::BadKey {
            path: PathBuf::from(self.path),
            key: format!("{}{key}", self.prefix).into(),
            found: value.to_string().into(),
            expected: expected.into(),
            hint: "the sizes in this file do not fit together".into(),
        })
    }

    fn opt_size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(size) if size > 0 => Ok(Some(size as usize)),
                _ => Err(self.bad(key, "a positive whole number", "is the file complete?")),
            },
        }
    }

    fn size(&self, key: &str) -> Result<usize, ModelError> {
        self.opt_size(key)?.ok_or_else(|| self.bad(key, "a positive whole number", "is the file complete?"))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => Err(self.bad(key, "a number", "is the file complete?")),
            },
        }
    }

    /// Missing and null are false.
    fn flag(&self, key: &str) -> Result<bool, ModelError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.bad(key, "true or false", "is the file complete?")),
        }
    }

    /// One id or a list of ids.
    fn ids(&self, key: &str) -> Result<Vec<u32>, ModelError> {
        let id = |value: &Value| {
            value
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| self.bad(key, "a token id or a list of token ids", "is the file complete?"))
        };
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(value) => Ok(vec![id(value)?]),
        }
    }
}

/// A short picture of a JSON value for an error.
fn kind(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text,
    }
}
