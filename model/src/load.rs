//! A Hugging Face folder in: config, weights, tokenizer, chat template.

use std::path::Path;

use burn::module::Param;
use burn::tensor::{Tensor, TensorData, backend::Backend};

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::hf_config;
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

/// Reads a whole model folder. `config.eos_token_ids` joins those of config, generation config and tokenizer.
pub fn load_hf<B: Backend>(dir: &Path, device: &B::Device) -> Result<Loaded<B>, ModelError> {
    check_folder(dir)?;
    let mut config = hf_config::read(dir)?;
    let mut tokenizer = Tokenizer::from_dir(dir)?;
    for &id in tokenizer.eos_token_ids() {
        if !config.eos_token_ids.contains(&id) {
            config.eos_token_ids.push(id);
        }
    }
    tokenizer.set_eos_token_ids(config.eos_token_ids.clone());
    if tokenizer.vocab_size() > config.vocab_size {
        return Err(ModelError::BadKey {
            path: dir.join("config.json"),
            key: "vocab_size".into(),
            found: config.vocab_size.to_string().into(),
            expected: format!("at least {}, the tokens of tokenizer.json", tokenizer.vocab_size()).into(),
            hint: "weights and tokenizer are of different models".into(),
        });
    }
    let network = load_network(dir, &config, device)?;
    Ok(Loaded { config, network, tokenizer })
}

/// Reads config and weights only.
pub fn load_weights<B: Backend>(dir: &Path, device: &B::Device) -> Result<(ModelConfig, Transformer<B>), ModelError> {
    check_folder(dir)?;
    let config = hf_config::read(dir)?;
    let network = load_network(dir, &config, device)?;
    Ok((config, network))
}

fn check_folder(dir: &Path) -> Result<(), ModelError> {
    if dir.is_dir() { Ok(()) } else { Err(ModelError::MissingFolder { path: dir.to_path_buf() }) }
}

fn load_network<B: Backend>(
    dir: &Path,
    config: &ModelConfig,
    device: &B::Device,
) -> Result<Transformer<B>, ModelError> {
    let source = Source::<B> { weights: Weights::open(dir)?, device };
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

struct Source<'a, B: Backend> {
    weights: Weights,
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
        let weight = self.weights.tensor(name, &[width])?;
        let weight = Tensor::from_data(TensorData::new(weight, [width]), self.device);
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
                    values.extend(self.weights.tensor(&format!("{part}.bias"), &[*width])?);
                }
                let width = values.len();
                Some(Param::from_tensor(Tensor::from_data(TensorData::new(values, [width]), self.device)))
            }
        };
        Ok(Linear { weight: Param::from_tensor(weight), bias })
    }

    fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<Tensor<B, 2>, ModelError> {
        Ok(Tensor::from_data(TensorData::new(self.weights.tensor(name, &shape)?, shape), self.device))
    }

    /// Files hold `[out, in]` each; the result is `[in, sum of outs]`.
    fn transposed(&self, names: &[&str], input: usize, outputs: &[usize]) -> Result<Tensor<B, 2>, ModelError> {
        let total: usize = outputs.iter().sum();
        let mut values = vec![0f32; input * total];
        let mut column = 0;
        for (name, &width) in names.iter().zip(outputs) {
            let part = self.weights.tensor(name, &[width, input])?;
            for (r, row) in part.chunks_exact(input).enumerate() {
                for (c, value) in row.iter().enumerate() {
                    values[c * total + column + r] = *value;
                }
            }
            column += width;
        }
        Ok(Tensor::from_data(TensorData::new(values, [input, total]), self.device))
    }
}
