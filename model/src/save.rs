//! A Hugging Face folder out: transformers loads it. The folder appears whole or not at all.

use std::path::{Path, PathBuf};

use burn::module::Param;
use burn::tensor::{Tensor, backend::Backend};
use serde_json::json;

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::hf_config;
use crate::network::{Linear, Transformer};
use crate::tokenizer::Tokenizer;
use crate::weights::{self, Lazy};

/// Writes config, weights (f32) and tokenizer into a temporary folder beside `dir`, then renames it. A folder that is
/// already there is replaced.
pub fn save_hf<B: Backend>(
    dir: &Path,
    config: &ModelConfig,
    network: &Transformer<B>,
    tokenizer: &Tokenizer,
) -> Result<(), ModelError> {
    let staging = Staging::new(dir)?;
    save_weights(&staging.path.join("model.safetensors"), config, network)?;
    write_json(&staging.path.join("config.json"), &hf_config::write(config))?;
    let generation = json!({"eos_token_id": config.eos_token_ids, "bos_token_id": config.bos_token_id,
        "pad_token_id": config.pad_token_id, "do_sample": true});
    write_json(&staging.path.join("generation_config.json"), &generation)?;
    tokenizer.save(&staging.path)?;
    staging.finish(dir)
}

/// Writes the weights alone, as the file `path` (f32): all that changes from one version of a policy to the next. One tensor at a time
/// is in memory, besides the network.
///
/// # Errors
/// The file cannot be written.
pub fn save_weights<B: Backend>(path: &Path, config: &ModelConfig, network: &Transformer<B>) -> Result<(), ModelError> {
    weights::write_each(path, tensors(config, network))
}

/// Every tensor under its Hugging Face name, in that library's layout.
fn tensors<'a, B: Backend>(config: &ModelConfig, network: &'a Transformer<B>) -> Vec<Lazy<'a>> {
    let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let ff = config.intermediate_size;
    let mut out =
        vec![plain("model.embed_tokens.weight", &network.embed), plain("model.norm.weight", &network.norm.weight)];
    for (i, layer) in network.layers.iter().enumerate() {
        let name = |part: &str| format!("model.layers.{i}.{part}");
        out.push(plain(&name("input_layernorm.weight"), &layer.attention_norm.weight));
        out.push(plain(&name("post_attention_layernorm.weight"), &layer.mlp_norm.weight));
        let projections = [("q_proj", q), ("k_proj", kv), ("v_proj", kv)];
        split(&mut out, &name("self_attn"), &projections, &layer.attention.qkv);
        split(&mut out, &name("self_attn"), &[("o_proj", config.hidden_size)], &layer.attention.output);
        split(&mut out, &name("mlp"), &[("gate_proj", ff), ("up_proj", ff)], &layer.mlp.gate_up);
        split(&mut out, &name("mlp"), &[("down_proj", config.hidden_size)], &layer.mlp.down);
        if let Some(norm) = &layer.attention.q_norm {
            out.push(plain(&name("self_attn.q_norm.weight"), &norm.weight));
        }
        if let Some(norm) = &layer.attention.k_norm {
            out.push(plain(&name("self_attn.k_norm.weight"), &norm.weight));
        }
    }
    if let Some(head) = &network.head {
        let [input, output] = head.val().dims();
        let read = move || values(&head.val().transpose());
        out.push(Lazy { name: "lm_head.weight".into(), shape: vec![output, input], read: Box::new(read) });
    }
    out
}

fn values<B: Backend, const D: usize>(tensor: &Tensor<B, D>) -> Vec<f32> {
    tensor.to_data().iter::<f32>().collect()
}

fn plain<'a, B: Backend, const D: usize>(name: &str, param: &'a Param<Tensor<B, D>>) -> Lazy<'a> {
    let shape = param.val().dims().to_vec();
    Lazy { name: name.to_string(), shape, read: Box::new(move || values(&param.val())) }
}

/// The projections that lie side by side in one linear layer, one by one, `[out, in]` each.
fn split<'a, B: Backend>(out: &mut Vec<Lazy<'a>>, prefix: &str, parts: &[(&str, usize)], linear: &'a Linear<B>) {
    let [input, _] = linear.weight.val().dims();
    let mut start = 0;
    for &(part, width) in parts {
        let columns = start..start + width;
        let range = columns.clone();
        let read = move || values(&linear.weight.val().slice([0..input, range.clone()]).transpose());
        let name = format!("{prefix}.{part}.weight");
        out.push(Lazy { name, shape: vec![width, input], read: Box::new(read) });
        if let Some(bias) = &linear.bias {
            let read = move || values(&bias.val().slice([columns.clone()]));
            out.push(Lazy { name: format!("{prefix}.{part}.bias"), shape: vec![width], read: Box::new(read) });
        }
        start += width;
    }
}

/// A folder that vanishes unless it is published.
pub(crate) struct Staging {
    path: PathBuf,
}

impl Staging {
    /// For a folder that will be `dir`.
    pub(crate) fn new(dir: &Path) -> Result<Self, ModelError> {
        let parent = parent(dir);
        std::fs::create_dir_all(parent).map_err(ModelError::io("create", parent))?;
        let path = beside(dir, "new");
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(ModelError::io("remove", &path))?;
        }
        std::fs::create_dir(&path).map_err(ModelError::io("create", &path))?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Durably: contents, then the name `dir`, in the place of what had it.
    pub(crate) fn finish(&self, dir: &Path) -> Result<(), ModelError> {
        self.sync()?;
        self.publish(dir)?;
        sync_file(parent(dir))
    }

    /// Contents on disk before the folder gets its name.
    fn sync(&self) -> Result<(), ModelError> {
        let entries = std::fs::read_dir(&self.path).map_err(ModelError::io("read", &self.path))?;
        for entry in entries {
            sync_file(&entry.map_err(ModelError::io("read", &self.path))?.path())?;
        }
        sync_file(&self.path)
    }

    fn publish(&self, dir: &Path) -> Result<(), ModelError> {
        if !dir.exists() {
            return std::fs::rename(&self.path, dir).map_err(ModelError::io("rename to", dir));
        }
        let old = beside(dir, "old");
        if old.exists() {
            std::fs::remove_dir_all(&old).map_err(ModelError::io("remove", &old))?;
        }
        std::fs::rename(dir, &old).map_err(ModelError::io("move away", dir))?;
        std::fs::rename(&self.path, dir).map_err(ModelError::io("rename to", dir))?;
        std::fs::remove_dir_all(&old).map_err(ModelError::io("remove", &old))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn parent(dir: &Path) -> &Path {
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `<parent>/.<name>.<process>.<tag>`: on the same file system, out of the way, not another process's.
fn beside(dir: &Path, tag: &str) -> PathBuf {
    let name = dir.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
    dir.with_file_name(format!(".{name}.{}.{tag}", std::process::id()))
}

fn sync_file(path: &Path) -> Result<(), ModelError> {
    std::fs::File::open(path).and_then(|file| file.sync_all()).map_err(ModelError::io("sync", path))
}

pub(crate) fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), ModelError> {
    let mut text = format!("{value:#}");
    text.push('\n');
    std::fs::write(path, text).map_err(ModelError::io("write", path))
}
