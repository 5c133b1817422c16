//! A GGUF file as a model: shape, tokenizer, chat template and weights out of the one file that llama.cpp's tools write.
//!
//! The rest of the room asks for tensors by their Hugging Face names and layouts; the translation ends here.

mod file;
mod quant;
mod shape;
mod text;

use std::path::{Path, PathBuf};

use self::file::{GgufFile, Value, shown};
use crate::config::{Family, ModelConfig};
use crate::error::ModelError;
use crate::tokenizer::Tokenizer;

/// Hugging Face's names of what a layer has, and GGUF's.
const PARTS: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];
/// The same for what is there once.
const ONCE: [(&str, &str); 3] = [
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];
/// Llama 3's stretched frequencies as factors; `shape` reads them.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The `.gguf` file that `path` means: itself, or the only one in a folder without config.json. None for a Hugging Face folder.
/// Fails where a folder has several.
pub fn find(path: &Path) -> Result<Option<PathBuf>, ModelError> {
    let is_gguf = |path: &Path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) && path.is_file();
    if is_gguf(path) {
        return Ok(Some(path.to_path_buf()));
    }
    if !path.is_dir() || path.join("config.json").exists() {
        return Ok(None);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(ModelError::io("read", path))? {
        files.push(entry.map_err(ModelError::io("read", path))?.path());
    }
    files.retain(|file| is_gguf(file));
    files.sort();
    match files.len() {
        0 => Ok(None),
        1 => Ok(files.pop()),
        _ => {
            let names: Vec<_> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
            let hint = format!("the folder has several .gguf files ({}); name one of them", names.join(", "));
            Err(ModelError::MissingFile { path: path.join("config.json"), hint })
        }
    }
}

/// One open file.
#[derive(Debug)]
pub struct Gguf {
    file: GgufFile,
    config: ModelConfig,
}

impl Gguf {
    /// Reads and checks everything but weights and tokenizer.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let file = GgufFile::open(path)?;
        let config = shape::config(&file)?;
        let gguf = Self { file, config };
        gguf.refuse_strange_tensors()?;
        Ok(gguf)
    }

    pub fn path(&self) -> &Path {
        &self.file.path
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Tokenizer and chat template of the metadata.
    pub fn tokenizer(&self) -> Result<Tokenizer, ModelError> {
        text::tokenizer(&self.file)
    }

    /// One tensor under its Hugging Face name, row-major, as f32. Its shape must be `shape`.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let own = own_name(name);
        let Some(entry) = self.file.tensors.get(&own) else {
            let hint = "the file is incomplete; copy or download it again".to_string();
            return Err(ModelError::MissingTensor { path: self.file.path.clone(), tensor: own, hint });
        };
        if entry.shape != shape {
            return Err(ModelError::BadTensor {
                path: self.file.path.clone(),
                tensor: own.into(),
                what: "shape",
                found: format!("{:?}", entry.shape).into(),
                expected: format!("{shape:?}").into(),
                hint: "the sizes in the metadata do not match the weights".into(),
            });
        }
        let values = self.file.read(entry)?;
        // The tools that write Llama files reorder the rows of q and k for their own rotation.
        let rotated = [".attn_q.", ".attn_k."].iter().any(|part| own.contains(part));
        Ok(match self.config.family {
            Family::Llama if rotated => halves(&values, self.config.head_dim, shape.get(1).copied().unwrap_or(1)),
            _ => values,
        })
    }

    /// What a file has and this network does not is an error: it would compute something else.
    fn refuse_strange_tensors(&self) -> Result<(), ModelError> {
        let known = |name: &str| {
            if name == ROPE_FACTORS || ONCE.iter().any(|(_, own)| *own == name) {
                return true;
            }
            let mut parts = name.splitn(4, '.');
            let (block, layer, part, kind) = (parts.next(), parts.next(), parts.next(), parts.next());
            let layer = layer.and_then(|n| n.parse::<usize>().ok());
            let norm = part.is_some_and(|part| part.ends_with("norm"));
            block == Some("blk")
                && layer.is_some_and(|n| n < self.config.num_layers)
                && PARTS.iter().any(|(_, own)| Some(*own) == part)
                && (kind == Some("weight")
                    || (kind == Some("bias") && !norm && self.has_bias(part.unwrap_or_default())))
                && (self.config.qk_norm() || !matches!(part, Some("attn_q_norm" | "attn_k_norm")))
        };
        match self.file.tensors.keys().filter(|name| !known(name)).min() {
            None => Ok(()),
            Some(name) => Err(ModelError::BadTensor {
                path: self.file.path.clone(),
                tensor: name.as_str().into(),
                what: "a part that this network lacks:",
                found: format!("a tensor of a {:?} model", self.config.family).into(),
                expected: "embedding, attention and MLP of a dense decoder".into(),
                hint: "experts, adapters and other additions are not built; choose another model".into(),
            }),
        }
    }

    fn has_bias(&self, part: &str) -> bool {
        match part {
            "attn_q" | "attn_k" | "attn_v" => self.config.qkv_bias(),
            "attn_output" => self.config.o_bias(),
            _ => self.config.mlp_bias,
        }
    }
}

/// GGUF's name of a tensor.
fn own_name(name: &str) -> String {
    if let Some((_, own)) = ONCE.iter().find(|(theirs, _)| *theirs == name) {
        return own.to_string();
    }
    let translated = name.strip_prefix("model.layers.").and_then(|rest| {
        let (layer, rest) = rest.split_once('.')?;
        let (part, kind) = rest.rsplit_once('.')?;
        let (_, own) = PARTS.iter().find(|(theirs, _)| *theirs == part)?;
        Some(format!("blk.{layer}.{own}.{kind}"))
    });
    translated.unwrap_or_else(|| name.to_string())
}

/// Rows of each head from pairs (0, half, 1, half + 1, ...) back to halves (0, 1, ..., half, half + 1, ...), the order of the
/// rotation here. `row`: values in a row.
fn halves(values: &[f32], head_dim: usize, row: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for head in values.chunks_exact(head_dim * row) {
        for offset in 0..2 {
            for pair in head.chunks_exact(2 * row) {
                out.extend_from_slice(&pair[offset * row..(offset + 1) * row]);
            }
        }
    }
    out
}

impl GgufFile {
    fn bad_key(&self, key: &str, expected: &str, hint: &str) -> ModelError {
        ModelError::BadKey {
            path: self.path.clone(),
            key: key.into(),
            found: self.keys.get(key).map_or_else(|| "missing".to_string(), shown).into(),
            expected: expected.into(),
            hint: hint.into(),
        }
    }

    /// None where the key is missing.
    fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        match self.keys.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.bad_key(key, "a text", INCOMPLETE)),
        }
    }

    fn list(&self, key: &str) -> Result<&[Value], ModelError> {
        match self.keys.get(key) {
            Some(Value::List(list)) => Ok(list),
            _ => Err(self.bad_key(key, "a list", INCOMPLETE)),
        }
    }

    /// A token id; none where the key is missing.
    fn id(&self, key: &str) -> Result<Option<u32>, ModelError> {
        match self.keys.get(key) {
            None => Ok(None),
            Some(Value::Int(id)) if u32::try_from(*id).is_ok() => Ok(Some(*id as u32)),
            Some(_) => Err(self.bad_key(key, "a token id", INCOMPLETE)),
        }
    }
}

const INCOMPLETE: &str =
    "the file is incomplete, or no language model's; take one that was converted from a published model";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated_and_others_stay() {
        for (theirs, own) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.layers.12.self_attn.q_proj.bias", "blk.12.attn_q.bias"),
            ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"),
            ("else", "else"),
        ] {
            assert_eq!(own_name(theirs), own);
        }
    }

    #[test]
    fn pairs_become_halves_within_each_head() {
        // Two heads of four rows of one value.
        assert_eq!(halves(&[0., 2., 1., 3., 10., 12., 11., 13.], 4, 1), [0., 1., 2., 3., 10., 11., 12., 13.]);
        // One head of two rows stays.
        assert_eq!(halves(&[1., 2., 3., 4.], 2, 2), [1., 2., 3., 4.]);
    }
}
