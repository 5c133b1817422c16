//! A model in: config, weights, tokenizer, chat template, from a Hugging Face folder or a GGUF file.

use std::path::Path;

use burn::module::Param;
use burn::tensor::{Tensor, TensorData, backend::Backend};

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::gguf::{self, Gguf};
use crate::hf_config;
use crate::kernels::lasting;
use crate::network::{Attention, Layer, Linear, Mlp, RmsNorm, Rope, Transformer};
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;

/// A model folder, read.
#[derive(Debug)]
pub struct Loaded<B: Backend> {
    pub config: ModelConfig,
    pub network: Transformer<B>,
    pub tokenizer: Tokenizer,
}

/// Reads a whole model: a Hugging Face folder, a `.gguf` file, or a folder that holds one. `config.eos_token_ids` joins those of
/// config, generation config and tokenizer.
pub fn load_hf<B: Backend>(path: &Path, device: &B::Device) -> Result<Loaded<B>, ModelError> {
    let (mut config, tensors) = open(path)?;
    let mut tokenizer = match &tensors {
        Tensors::Folder(_) => Tokenizer::from_dir(path)?,
        Tensors::Gguf(file) => file.tokenizer()?,
    };
    for &id in tokenizer.eos_token_ids() {
        if !config.eos_token_ids.contains(&id) {
            config.eos_token_ids.push(id);
        }
    }
    tokenizer.set_eos_token_ids(config.eos_token_ids.clone());
    if tokenizer.vocab_size() > config.vocab_size {
        let (path, key, tokens) = match &tensors {
            Tensors::Folder(_) => (path.join("config.json"), "vocab_size", "tokenizer.json"),
            Tensors::Gguf(file) => (file.path().to_path_buf(), "rows of token_embd.weight", "tokenizer.ggml.tokens"),
        };
        return Err(ModelError::BadKey {
            path,
            key: key.into(),
            found: config.vocab_size.to_string().into(),
            expected: format!("at least {}, the tokens of {tokens}", tokenizer.vocab_size()).into(),
            hint: "weights and tokenizer are of different models".into(),
        });
    }
    let network = load_network(tensors, &config, device)?;
    Ok(Loaded { config, network, tokenizer })
}

/// Reads config and weights only.
pub fn load_weights<B: Backend>(path: &Path, device: &B::Device) -> Result<(ModelConfig, Transformer<B>), ModelError> {
    let (config, tensors) = open(path)?;
    let network = load_network(tensors, &config, device)?;
    Ok((config, network))
}

/// Reads the shape only.
pub fn load_config(path: &Path) -> Result<ModelConfig, ModelError> {
    Ok(open(path)?.0)
}

/// Headers only.
fn open(path: &Path) -> Result<(ModelConfig, Tensors), ModelError> {
    if let Some(file) = gguf::find(path)? {
        let file = Gguf::open(&file)?;
        return Ok((file.config().clone(), Tensors::Gguf(file)));
    }
    if !path.is_dir() {
        return Err(ModelError::MissingFolder { path: path.to_path_buf() });
    }
    Ok((hf_config::read(path)?, Tensors::Folder(Weights::open(path)?)))
}

fn load_network<B: Backend>(
    tensors: Tensors,
    config: &ModelConfig,
    device: &B::Device,
) -> Result<Transformer<B>, ModelError> {
    let source = Source::<B> { tensors, device };
    let d = config.hidden_size;
    let embed = source.matrix("model.embed_tokens.weight", [config.vocab_size, d])?;
    let layers = (0..config.num_layers).map(|i| source.layer(i, config)).collect::<Result<_, _>>()?;
    let head = match config.tie_word_embeddings {
        true => None,
        false => Some(Param::from_tensor(source.transposed(&["lm_head.weight"], d, &[config.vocab_size])?)),
    };
    Ok(Transformer {
        embed: Param::from_tensor(embed),
        layers,
        norm: source.norm("model.norm.weight", d, config)?,
        head,
        rope: Rope::new(config),
    })
}

/// Where weights come from; both go by Hugging Face's names.
enum Tensors {
    Folder(Weights),
    Gguf(Gguf),
}

impl Tensors {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        match self {
            Tensors::Folder(weights) => weights.tensor(name, shape),
            Tensors::Gguf(file) => file.tensor(name, shape),
        }
    }
}

struct Source<'a, B: Backend> {
    tensors: Tensors,
    device: &'a B::Device,
}

impl<B: Backend> Source<'_, B> {
    fn layer(&self, i: usize, config: &ModelConfig) -> Result<Layer<B>, ModelError> {
        let name = |part: &str| format!("model.layers.{i}.{part}");
        let (d, ff, hd) = (config.hidden_size, config.intermediate_size, config.head_dim);
        let (q, kv) = (config.num_heads * hd, config.num_kv_heads * hd);
        let attn = |part: &str| name(&format!("self_attn.{part}"));
        let mlp = |part: &str| name(&format!("mlp.{part}"));
        let head_norm = |part: &str| match config.qk_norm() {
            true => self.norm(&attn(&format!("{part}.weight")), hd, config).map(Some),
            false => Ok(None),
        };
        let qkv = [attn("q_proj"), attn("k_proj"), attn("v_proj")];
        let gate_up = [mlp("gate_proj"), mlp("up_proj")];
        Ok(Layer {
            attention_norm: self.norm(&name("input_layernorm.weight"), d, config)?,
            attention: Attention {
                qkv: self.linear(&qkv, d, &[q, kv, kv], config.qkv_bias())?,
                output: self.linear(&[attn("o_proj")], q, &[d], config.o_bias())?,
                q_norm: head_norm("q_norm")?,
                k_norm: head_norm("k_norm")?,
                heads: config.num_heads,
                kv_heads: config.num_kv_heads,
                head_dim: hd,
            },
            mlp_norm: self.norm(&name("post_attention_layernorm.weight"), d, config)?,
            mlp: Mlp {
                gate_up: self.linear(&gate_up, d, &[ff, ff], config.mlp_bias)?,
                down: self.linear(&[mlp("down_proj")], ff, &[d], config.mlp_bias)?,
            },
        })
    }

    fn norm(&self, name: &str, width: usize, config: &ModelConfig) -> Result<RmsNorm<B>, ModelError> {
        let weight = self.tensors.tensor(name, &[width])?;
        let weight = lasting(TensorData::new(weight, [width]), self.device);
        Ok(RmsNorm { weight: Param::from_tensor(weight), eps: config.rms_norm_eps })
    }

    /// Several projections of one input, side by side.
    fn linear(&self, parts: &[String], input: usize, outputs: &[usize], bias: bool) -> Result<Linear<B>, ModelError> {
        let names: Vec<String> = parts.iter().map(|part| format!("{part}.weight")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let weight = self.transposed(&names, input, outputs)?;
        let bias = match bias {
            false => None,
            true => {
                let mut values = Vec::new();
                for (part, width) in parts.iter().zip(outputs) {
                    values.extend(self.tensors.tensor(&format!("{part}.bias"), &[*width])?);
                }
                let width = values.len();
                Some(Param::from_tensor(lasting(TensorData::new(values, [width]), self.device)))
            }
        };
        Ok(Linear { weight: Param::from_tensor(weight), bias })
    }

    fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<Tensor<B, 2>, ModelError> {
        Ok(lasting(TensorData::new(self.tensors.tensor(name, &shape)?, shape), self.device))
    }

    /// Files hold `[out, in]` each; the result is `[in, sum of outs]`.
    fn transposed(&self, names: &[&str], input: usize, outputs: &[usize]) -> Result<Tensor<B, 2>, ModelError> {
        // All parts first: a size is only believed once the file has given what it says.
        let sized = names.iter().zip(outputs);
        let parts: Vec<_> =
            sized.map(|(name, &width)| self.tensors.tensor(name, &[width, input])).collect::<Result<_, _>>()?;
        let total: usize = outputs.iter().sum();
        let mut values = vec![0f32; input * total];
        let mut column = 0;
        for (part, &width) in parts.iter().zip(outputs) {
            for (r, row) in part.chunks_exact(input).enumerate() {
                for (c, value) in row.iter().enumerate() {
                    values[c * total + column + r] = *value;
                }
            }
            column += width;
        }
        Ok(lasting(TensorData::new(values, [input, total]), self.device))
    }
}
