//! Writes GGUF files for the tests: small, of any content, broken where a test wants it.

use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

use crate::json;

/// A file in parts; every part can be replaced.
#[derive(Clone)]
pub struct GgufWriter {
    pub magic: [u8; 4],
    pub version: u32,
    /// Counts that the header claims instead of the true ones: tensors, keys.
    pub counts: Option<(u64, u64)>,
    /// Name, type and value as bytes.
    pub keys: Vec<(String, Vec<u8>)>,
    pub tensors: Vec<TensorPart>,
}

#[derive(Clone)]
pub struct TensorPart {
    pub name: String,
    /// Slowest axis first.
    pub shape: Vec<u64>,
    pub kind: u32,
    pub bytes: Vec<u8>,
    /// Instead of the place where the bytes lie.
    pub offset: Option<u64>,
}

pub fn text(value: &str) -> Vec<u8> {
    [&8u32.to_le_bytes()[..], &(value.len() as u64).to_le_bytes(), value.as_bytes()].concat()
}

pub fn int(value: u32) -> Vec<u8> {
    [4u32.to_le_bytes(), value.to_le_bytes()].concat()
}

pub fn float(value: f32) -> Vec<u8> {
    [6u32.to_le_bytes(), value.to_le_bytes()].concat()
}

/// A list of values of one type; each brings its type, which is written once.
pub fn list(values: &[Vec<u8>]) -> Vec<u8> {
    let kind = values.first().map_or(8u32.to_le_bytes(), |v| [v[0], v[1], v[2], v[3]]);
    let mut out = [&9u32.to_le_bytes()[..], &kind, &(values.len() as u64).to_le_bytes()].concat();
    values.iter().for_each(|value| out.extend(&value[4..]));
    out
}

impl GgufWriter {
    fn empty() -> Self {
        Self { magic: *b"GGUF", version: 3, counts: None, keys: Vec::new(), tensors: Vec::new() }
    }

    /// A llama of one layer with a tokenizer of three tokens: valid, without a chat template.
    pub fn whole() -> Self {
        let mut file = Self::empty();
        file.set("general.architecture", text("llama"));
        let sizes = [
            ("block_count", 1),
            ("context_length", 64),
            ("embedding_length", 8),
            ("feed_forward_length", 12),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
        ];
        for (name, value) in sizes {
            file.set(&format!("llama.{name}"), int(value));
        }
        file.set("llama.attention.layer_norm_rms_epsilon", float(1e-5));
        file.set("tokenizer.ggml.model", text("gpt2"));
        file.set("tokenizer.ggml.pre", text("smollm"));
        file.set("tokenizer.ggml.tokens", list(&["a", "b", "ab"].map(text)));
        file.set("tokenizer.ggml.token_type", list(&[1, 1, 1].map(int)));
        file.set("tokenizer.ggml.merges", list(&[text("a b")]));
        file.set("tokenizer.ggml.eos_token_id", int(1));
        let tensors: [(&str, &[u64]); 11] = [
            ("token_embd.weight", &[3, 8]),
            ("output_norm.weight", &[8]),
            ("blk.0.attn_norm.weight", &[8]),
            ("blk.0.ffn_norm.weight", &[8]),
            ("blk.0.attn_q.weight", &[8, 8]),
            ("blk.0.attn_k.weight", &[4, 8]),
            ("blk.0.attn_v.weight", &[4, 8]),
            ("blk.0.attn_output.weight", &[8, 8]),
            ("blk.0.ffn_gate.weight", &[12, 8]),
            ("blk.0.ffn_up.weight", &[12, 8]),
            ("blk.0.ffn_down.weight", &[8, 12]),
        ];
        for (name, shape) in tensors {
            let count: u64 = shape.iter().product();
            let bytes = (0..count).flat_map(|i| (i as f32 * 0.01).to_le_bytes()).collect();
            file.tensors.push(TensorPart { name: name.into(), shape: shape.to_vec(), kind: 0, bytes, offset: None });
        }
        file
    }

    /// Adds or replaces.
    pub fn set(&mut self, key: &str, value: Vec<u8>) {
        match self.keys.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.into(), value)),
        }
    }

    pub fn remove(&mut self, key: &str) {
        self.keys.retain(|(name, _)| name != key);
    }

    pub fn tensor(&mut self, name: &str) -> &mut TensorPart {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let name = |name: &str| text(name)[4..].to_vec();
        let (tensors, keys) = self.counts.unwrap_or((self.tensors.len() as u64, self.keys.len() as u64));
        let mut out =
            [&self.magic[..], &self.version.to_le_bytes(), &tensors.to_le_bytes(), &keys.to_le_bytes()].concat();
        for (key, value) in &self.keys {
            out.extend([name(key), value.clone()].concat());
        }
        let mut place = 0u64;
        for part in &self.tensors {
            out.extend(name(&part.name));
            out.extend((part.shape.len() as u32).to_le_bytes());
            part.shape.iter().rev().for_each(|axis| out.extend(axis.to_le_bytes()));
            out.extend(part.kind.to_le_bytes());
            out.extend(part.offset.unwrap_or(place).to_le_bytes());
            place += (part.bytes.len() as u64).next_multiple_of(32);
        }
        for part in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(&part.bytes);
        }
        out
    }
}

/// A fixture's folder as llama.cpp's converter writes it.
pub fn from_folder(dir: &Path) -> GgufWriter {
    let config = json(dir.join("config.json"));
    let arch = config["model_type"].as_str().unwrap().to_string();
    let mut file = GgufWriter::empty();
    file.set("general.architecture", text(&arch));
    let size = |key: &str| config[key].as_u64().unwrap() as u32;
    let sizes = [
        ("block_count", "num_hidden_layers"),
        ("context_length", "max_position_embeddings"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
        ("attention.key_length", "head_dim"),
    ];
    for (own, theirs) in sizes {
        file.set(&format!("{arch}.{own}"), int(size(theirs)));
    }
    let epsilon = config["rms_norm_eps"].as_f64().unwrap() as f32;
    file.set(&format!("{arch}.attention.layer_norm_rms_epsilon"), float(epsilon));
    let rope = &config["rope_parameters"];
    file.set(&format!("{arch}.rope.freq_base"), float(rope["rope_theta"].as_f64().unwrap() as f32));
    if let kind @ ("linear" | "yarn") = rope["rope_type"].as_str().unwrap() {
        file.set(&format!("{arch}.rope.scaling.type"), text(kind));
        file.set(&format!("{arch}.rope.scaling.factor"), float(rope["factor"].as_f64().unwrap() as f32));
        if let Some(original) = rope["original_max_position_embeddings"].as_u64() {
            file.set(&format!("{arch}.rope.scaling.original_context_length"), int(original as u32));
        }
    }
    file.set("tokenizer.ggml.bos_token_id", int(size("bos_token_id")));
    file.set("tokenizer.ggml.eos_token_id", int(size("eos_token_id")));

    let raw = std::fs::read(dir.join("model.safetensors")).unwrap();
    let heads = [("attn_q", size("num_attention_heads")), ("attn_k", size("num_key_value_heads"))];
    for (theirs, view) in SafeTensors::deserialize(&raw).unwrap().tensors() {
        let name = own_name(&theirs);
        let kind = match view.dtype() {
            Dtype::F32 => 0,
            Dtype::F16 => 1,
            Dtype::BF16 => 30,
            other => panic!("{other:?}"),
        };
        let rotated = heads.iter().find(|(part, _)| name.contains(&format!(".{part}.")));
        let bytes = match rotated {
            Some((_, heads)) if arch == "llama" => to_pairs(view.data(), view.shape()[0], *heads as usize),
            _ => view.data().to_vec(),
        };
        let shape = view.shape().iter().map(|axis| *axis as u64).collect();
        file.tensors.push(TensorPart { name, shape, kind, bytes, offset: None });
    }
    file
}

/// Row `i` and row `half + i` of a head become neighbours.
fn to_pairs(data: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let (width, half) = (data.len() / rows, rows / heads / 2);
    let mut out = Vec::new();
    for row in 0..rows {
        let (head, place) = (row / (2 * half), row % (2 * half));
        let from = head * 2 * half + place % 2 * half + place / 2;
        out.extend(&data[from * width..(from + 1) * width]);
    }
    out
}

fn own_name(theirs: &str) -> String {
    let mut name = theirs.replace("model.layers.", "blk.");
    for (from, to) in [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ] {
        name = name.replace(from, to);
    }
    name
}
