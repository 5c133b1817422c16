//! What can go wrong between a folder of weights and a network: each case says where, what was found, what was expected.

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    #[error(
        "model folder {path} does not exist\n  hint: `model.dir` must name a folder with config.json, *.safetensors and tokenizer.json, or a .gguf file"
    )]
    MissingFolder { path: PathBuf },
    #[error("{path} is missing\n  hint: {hint}")]
    MissingFile { path: PathBuf, hint: String },
    #[error("cannot {action} {path}: {source}\n  hint: {}", io_hint(.source))]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error(
        "{path} is not valid JSON: {source}\n  hint: the file is incomplete or was edited; copy or download it again"
    )]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{path}: key `{key}` is {found}, expected {expected}\n  hint: {hint}")]
    BadKey { path: PathBuf, key: Box<str>, found: Box<str>, expected: Box<str>, hint: Box<str> },
    #[error(
        "{path} is not a readable safetensors file: {reason}\n  hint: the file is truncated or damaged; copy or download it again"
    )]
    BadSafetensors { path: PathBuf, reason: String },
    /// `place`: a key, a tensor or a part of the header.
    #[error("{path} is no GGUF file that can be read: {place} is {found}, expected {expected}\n  hint: {hint}")]
    BadGguf { path: PathBuf, place: Box<str>, found: Box<str>, expected: Box<str>, hint: Box<str> },
    #[error("{path}: tensor `{tensor}` is missing\n  hint: {hint}")]
    MissingTensor { path: PathBuf, tensor: String, hint: String },
    #[error("{path}: tensor `{tensor}` has {what} {found}, expected {expected}\n  hint: {hint}")]
    BadTensor {
        path: PathBuf,
        tensor: Box<str>,
        what: &'static str,
        found: Box<str>,
        expected: Box<str>,
        hint: Box<str>,
    },
    #[error(
        "{path} is not a tokenizer that can be read: {reason}\n  hint: copy or download it again, or write it anew with transformers' `save_pretrained`"
    )]
    Tokenizer { path: PathBuf, reason: String },
    /// `origin`: the tokenizer's file, or words for the embedded one.
    #[error(
        "{origin} cannot encode this text or decode these tokens: {reason}\n  hint: are the tokenizer and the weights of the same model?"
    )]
    Encoding { origin: Box<str>, reason: String },
    #[error("tokenizer training: {reason}\n  hint: `model.vocab` sets the size, the tasks and examples are the corpus")]
    Training { reason: String },
    #[error(
        "model folder {path} has no chat template: no `chat_template` in tokenizer_config.json, no chat_template.jinja\n  hint: a base model has none: add `chat_template` to its tokenizer_config.json, or take the instruction-tuned model"
    )]
    NoTemplate { path: Box<str> },
    /// `origin`: the template's file, or words for the embedded one.
    #[error("{origin}: chat template: {reason}\n  hint: {hint}")]
    Template { origin: Box<str>, reason: String, hint: &'static str },
}

/// What to do about a file that cannot be read or written.
fn io_hint(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound => "a file of the folder is gone; was it moved or deleted meanwhile?",
        ErrorKind::PermissionDenied => "check who may read and write the folder",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => "free some space on that disk",
        ErrorKind::InvalidData => "the file is damaged; copy or download it again",
        ErrorKind::UnexpectedEof => "the file became shorter while it was read; copy or download it again",
        _ => "check the disk and the folder",
    }
}

impl ModelError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}

/// Reads and parses one JSON file; `hint` is for the case that it is not there.
pub(crate) fn read_json(path: &Path, hint: &str) -> Result<serde_json::Value, ModelError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(ModelError::MissingFile { path: path.to_path_buf(), hint: hint.to_string() });
        }
        Err(source) => return Err(ModelError::io("read", path)(source)),
    };
    serde_json::from_str(&text).map_err(|source| ModelError::Json { path: path.to_path_buf(), source })
}
