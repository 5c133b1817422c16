//! Text to tokens and back, the chat template, the ids that end an answer, and where the plan of an answer ends.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::chat::{ChatTemplate, Message};
use crate::error::{ModelError, read_json};
use crate::save::write_json;

/// Ends the plan part of an answer.
pub const THINK_END: &str = "</think>";

/// A tokenizer with everything around it that a model folder says about text.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// What each token stands for, by id.
    bytes: Vec<Box<[u8]>>,
    eos_token_ids: Vec<u32>,
    chat: Option<ChatTemplate>,
    /// The file it was read from (tokenizer.json or a GGUF file); none for the embedded one.
    origin: Option<PathBuf>,
    /// `tokenizer_config.json` as it was found, written back by `save`.
    config: Map<String, Value>,
}

impl Tokenizer {
    /// Reads tokenizer.json, tokenizer_config.json and chat_template.jinja of a model folder; the last two may be missing.
    pub fn from_dir(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("tokenizer.json");
        if !path.exists() {
            let hint = "only fast tokenizers (tokenizer.json) are read".to_string();
            return Err(ModelError::MissingFile { path, hint });
        }
        let inner = tokenizers::Tokenizer::from_file(&path)
            .map_err(|error| ModelError::Tokenizer { path: path.clone(), reason: error.to_string() })?;
        let config_path = dir.join("tokenizer_config.json");
        let config = match read_json(&config_path, "") {
            Ok(Value::Object(map)) => map,
            Ok(_) => return Err(ModelError::Tokenizer { path: config_path, reason: "not a JSON object".into() }),
            Err(ModelError::MissingFile { .. }) => Map::new(),
            Err(error) => return Err(error),
        };
        let template_path = dir.join("chat_template.jinja");
        let template = match std::fs::read_to_string(&template_path) {
            Ok(text) => Some((text, template_path.display().to_string())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                default_template(&config).map(|text| (text, config_path.display().to_string()))
            }
            Err(error) => return Err(ModelError::io("read", &template_path)(error)),
        };
        Self::new(inner, config, template, Some(path))
    }

    /// `config` holds the keys of a tokenizer_config.json; the template is Jinja source and where it came from; `origin` is the
    /// tokenizer's file.
    pub(crate) fn new(
        mut inner: tokenizers::Tokenizer,
        config: Map<String, Value>,
        template: Option<(String, String)>,
        origin: Option<PathBuf>,
    ) -> Result<Self, ModelError> {
        // A file may ask for padding and truncation of batches; an encoded text here is always the text.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| coding(origin.as_deref(), &error))?;
        let special = special_tokens(&config);
        let eos = special.iter().find(|(name, _)| name == "eos_token").and_then(|(_, text)| inner.token_to_id(text));
        let chat = template.map(|(source, origin)| ChatTemplate::new(&source, &special, &origin)).transpose()?;
        let bytes = token_bytes(&inner);
        Ok(Self { inner, bytes, eos_token_ids: eos.into_iter().collect(), chat, origin, config })
    }

    /// Tokens of a text. Special tokens written out in the text become those tokens; none are added.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| coding(self.origin.as_deref(), &error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of some tokens, special tokens written out. Bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, ModelError> {
        self.inner.decode(tokens, false).map_err(|error| coding(self.origin.as_deref(), &error))
    }

    /// The text of an answer: `decode` without an end-of-sequence token at the end.
    pub fn decode_answer(&self, tokens: &[u32]) -> Result<String, ModelError> {
        match tokens {
            [rest @ .., last] if self.eos_token_ids.contains(last) => self.decode(rest),
            all => self.decode(all),
        }
    }

    /// The prompt text of a conversation, by the model's chat template.
    pub fn render_chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, ModelError> {
        match &self.chat {
            Some(chat) => chat.render(messages, add_generation_prompt),
            None => Err(no_template(self.origin.as_deref())),
        }
    }

    /// `render_chat`, encoded.
    pub fn encode_chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<u32>, ModelError> {
        self.encode(&self.render_chat(messages, add_generation_prompt)?)
    }

    pub fn has_chat_template(&self) -> bool {
        self.chat.is_some()
    }

    /// One more than the highest token id.
    pub fn vocab_size(&self) -> usize {
        self.bytes.len()
    }

    /// Any of them ends an answer.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// The tokens that end an answer, in place of those that its files name.
    pub fn set_eos_token_ids(&mut self, ids: Vec<u32>) {
        self.eos_token_ids = ids;
    }

    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The bytes a token stands for; empty for an unknown id.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], |bytes| bytes)
    }

    /// How many leading tokens belong to the plan: all through the first `</think>`. The delimiter is looked for in bytes, so
    /// it may begin and end inside tokens; the token that completes it belongs to the plan. None without a delimiter.
    pub fn plan_tokens(&self, tokens: &[u32]) -> Option<u32> {
        let delimiter = THINK_END.as_bytes();
        // Bytes of the delimiter matched so far. `<` occurs in it only at the start, so a mismatch restarts there.
        let mut matched = 0;
        for (index, &id) in tokens.iter().enumerate() {
            for &byte in self.token_bytes(id) {
                matched = match byte {
                    _ if byte == delimiter[matched] => matched + 1,
                    _ if byte == delimiter[0] => 1,
                    _ => 0,
                };
                if matched == delimiter.len() {
                    return u32::try_from(index + 1).ok();
                }
            }
        }
        None
    }

    /// Writes tokenizer.json, tokenizer_config.json and chat_template.jinja.
    pub fn save(&self, dir: &Path) -> Result<(), ModelError> {
        let path = dir.join("tokenizer.json");
        let text = self
            .inner
            .to_string(true)
            .map_err(|error| ModelError::Tokenizer { path: path.clone(), reason: error.to_string() })?;
        std::fs::write(&path, text).map_err(ModelError::io("write", &path))?;
        let mut config = self.config.clone();
        config.remove("chat_template");
        config.entry("tokenizer_class").or_insert_with(|| json!("PreTrainedTokenizerFast"));
        write_json(&dir.join("tokenizer_config.json"), &Value::Object(config))?;
        if let Some(chat) = &self.chat {
            let path = dir.join("chat_template.jinja");
            std::fs::write(&path, chat.source()).map_err(ModelError::io("write", &path))?;
        }
        Ok(())
    }
}

/// A folder lacks a file, a GGUF file lacks a key.
fn no_template(origin: Option<&Path>) -> ModelError {
    let gguf = origin.filter(|path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")));
    if let Some(path) = gguf {
        return ModelError::BadKey {
            path: path.to_path_buf(),
            key: "tokenizer.chat_template".into(),
            found: "missing".into(),
            expected: "a chat template".into(),
            hint: "a base model has none: take the instruction-tuned model".into(),
        };
    }
    let folder = origin.and_then(Path::parent).map_or_else(|| "(none)".into(), |f| f.display().to_string());
    ModelError::NoTemplate { path: folder.into() }
}

fn coding(origin: Option<&Path>, error: &tokenizers::Error) -> ModelError {
    let origin = origin.map_or_else(|| "the embedded tokenizer".to_string(), |path| path.display().to_string());
    ModelError::Encoding { origin: origin.into(), reason: error.to_string() }
}

/// `chat_template` is a text, or a list of named ones of which `default` counts.
fn default_template(config: &Map<String, Value>) -> Option<String> {
    match config.get("chat_template")? {
        Value::String(text) => Some(text.clone()),
        Value::Array(list) => list
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|entry| entry.get("template").and_then(Value::as_str))
            .map(str::to_string),
        _ => None,
    }
}

/// The special tokens that templates know by name: `bos_token`, `eos_token`, ... as texts.
fn special_tokens(config: &Map<String, Value>) -> Vec<(String, String)> {
    config
        .iter()
        .filter(|(name, _)| name.ends_with("_token"))
        .filter_map(|(name, value)| {
            let text = value.as_str().or_else(|| value.get("content").and_then(Value::as_str))?;
            Some((name.clone(), text.to_string()))
        })
        .collect()
}

/// What every token stands for: GPT-2's byte alphabet, or SentencePiece with byte fallback.
fn token_bytes(inner: &tokenizers::Tokenizer) -> Vec<Box<[u8]>> {
    let alphabet = byte_alphabet();
    let byte_level = serde_json::to_string(&inner.get_decoder()).is_ok_and(|json| json.contains("ByteLevel"));
    let added = inner.get_added_tokens_decoder();
    let mut table: Vec<Box<[u8]>> = Vec::new();
    for (token, id) in inner.get_vocab(true) {
        let id = id as usize;
        if id >= table.len() {
            table.resize(id + 1, Box::default());
        }
        table[id] = match added.get(&(id as u32)) {
            Some(added) => added.content.as_bytes().into(),
            None if byte_level => token
                .chars()
                .map(|c| alphabet.get(&c).copied())
                .collect::<Option<_>>()
                .unwrap_or_else(|| token.as_bytes().into()),
            None => match token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')) {
                Some(hex) if hex.len() == 2 => match u8::from_str_radix(hex, 16) {
                    Ok(byte) => Box::new([byte]),
                    Err(_) => token.as_bytes().into(),
                },
                _ => token.replace('\u{2581}', " ").into_bytes().into(),
            },
        };
    }
    table
}

/// GPT-2's printable stand-ins for bytes: printable Latin-1 stands for itself, the others for U+0100 and on.
fn byte_alphabet() -> std::collections::HashMap<char, u8> {
    let own = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..=255u8).filter(|byte| !own(*byte)).zip('\u{100}'..);
    (0..=255u8)
        .filter(|byte| own(*byte))
        .map(|byte| (char::from(byte), byte))
        .chain(others.map(|(b, c)| (c, b)))
        .collect()
}
