//! Tokenizer and chat template out of a GGUF file's metadata: byte-level BPE, as every Llama 3, Qwen and SmolLM file has it.
//!
//! The metadata name how text is cut before merging (`tokenizer.ggml.pre`), and give vocabulary, merges and kinds of tokens. A
//! tokenizer.json is put together from them, so that the tokenizers library does the rest and `save_hf` writes the same.

use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use super::file::{GgufFile, Value};
use super::{INCOMPLETE, shown};
use crate::error::ModelError;
use crate::tokenizer::Tokenizer;

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const TEMPLATE: &str = "tokenizer.chat_template";
/// Kinds of tokens: special ones, and others that are matched in the text before anything is cut.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// The regular expressions of the published tokenizer.json files.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How text is cut: `(normalizer, pre-tokenizer, whole words before merges)`.
fn cutting(file: &GgufFile) -> Result<(Json, Json, bool), ModelError> {
    let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let both = |first: Json, use_regex| json!({"type": "Sequence", "pretokenizers": [first, bytes(use_regex)]});
    let split = |regex: &str| {
        both(json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}), false)
    };
    Ok(match file.text("tokenizer.ggml.pre")? {
        Some("smollm") => (Json::Null, both(json!({"type": "Digits", "individual_digits": true}), true), false),
        Some("qwen2") => (json!({"type": "NFC"}), split(QWEN2), false),
        Some("llama-bpe" | "llama3" | "llama-v3") => (Json::Null, split(LLAMA3), true),
        Some("gpt-2") => (Json::Null, bytes(true), false),
        _ => {
            let hint =
                "another way to cut text would give other tokens than the model knows; take its Hugging Face folder";
            return Err(file.bad_key("tokenizer.ggml.pre", "\"smollm\", \"qwen2\", \"llama-bpe\" or \"gpt-2\"", hint));
        }
    })
}

/// The file's tokenizer.
pub fn tokenizer(file: &GgufFile) -> Result<Tokenizer, ModelError> {
    if file.text("tokenizer.ggml.model")? != Some("gpt2") {
        let hint = "only byte-level BPE is read from GGUF files; take the Hugging Face folder of this model";
        return Err(file.bad_key("tokenizer.ggml.model", "\"gpt2\"", hint));
    }
    let (normalizer, pre_tokenizer, ignore_merges) = cutting(file)?;
    let tokens = texts(file, TOKENS)?;
    let mut vocab = HashMap::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        if let Some(first) = vocab.insert(*token, id) {
            return Err(entry(file, TOKENS, id, &format!("{token:?}, like entry {first}"), "each token once"));
        }
    }
    let mut merges = Vec::new();
    for (index, merge) in texts(file, MERGES)?.into_iter().enumerate() {
        let pair = merge.split_once(' ').filter(|(left, right)| {
            [*left, *right, &format!("{left}{right}")].iter().all(|part| vocab.contains_key(part))
        });
        let Some((left, right)) = pair else {
            let expected = "two tokens with a space between whose join is a token";
            return Err(entry(file, MERGES, index, &format!("{merge:?}"), expected));
        };
        merges.push(json!([left, right]));
    }
    let kinds = match file.keys.contains_key(TYPES) {
        true => file.list(TYPES)?,
        false => &[],
    };
    if !kinds.is_empty() && kinds.len() != tokens.len() {
        return Err(file.bad_key(TYPES, &format!("a kind for each of the {} tokens", tokens.len()), INCOMPLETE));
    }
    let added: Vec<Json> = tokens
        .iter()
        .zip(kinds)
        .enumerate()
        .filter(|(_, (_, kind))| matches!(kind, Value::Int(CONTROL | USER_DEFINED)))
        .map(|(id, (token, kind))| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": *kind == Value::Int(CONTROL)})
        })
        .collect();
    let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let whole = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges,
            "vocab": vocab, "merges": merges}});
    let inner = serde_json::from_value(whole)
        .map_err(|error| ModelError::Tokenizer { path: file.path.clone(), reason: error.to_string() })?;
    let template = file.text(TEMPLATE)?.map(|source| (source.to_string(), file.path.display().to_string()));
    Tokenizer::new(inner, settings(file, &tokens)?, template, Some(file.path.clone()))
}

/// What tokenizer_config.json says: special tokens by name, and the longest text.
fn settings(file: &GgufFile, tokens: &[&str]) -> Result<Map<String, Json>, ModelError> {
    let mut settings = Map::new();
    settings.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
    settings.insert("clean_up_tokenization_spaces".into(), json!(false));
    for (name, role) in [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")]
    {
        let key = format!("tokenizer.ggml.{role}_token_id");
        let Some(id) = file.id(&key)? else { continue };
        let Some(token) = tokens.get(id as usize) else {
            return Err(file.bad_key(&key, &format!("one of the {} tokens", tokens.len()), INCOMPLETE));
        };
        settings.insert(name.into(), json!(token));
    }
    let length = file.text("general.architecture")?.map(|prefix| format!("{prefix}.context_length"));
    if let Some(Value::Int(length)) = length.and_then(|key| file.keys.get(&key)) {
        settings.insert("model_max_length".into(), json!(length));
    }
    Ok(settings)
}

fn texts<'a>(file: &'a GgufFile, key: &str) -> Result<Vec<&'a str>, ModelError> {
    let list = file.list(key)?.iter().enumerate();
    list.map(|(index, value)| match value {
        Value::Text(text) => Ok(text.as_str()),
        other => Err(entry(file, key, index, &shown(other), "a text")),
    })
    .collect()
}

fn entry(file: &GgufFile, key: &str, index: usize, found: &str, expected: &str) -> ModelError {
    ModelError::BadKey {
        path: file.path.clone(),
        key: format!("{key}[{index}]").into(),
        found: found.into(),
        expected: expected.into(),
        hint: INCOMPLETE.into(),
    }
}
