//! What can go wrong between a folder of weights and a network: each case says where, what was found, what was expected.

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    #[error(
        "model folder {path} does not exist\n  hint: `model.dir` must name a folder with config.json, *.safetensors and tokenizer.json"
    )]
    MissingFolder { path: PathBuf },
    #[error("{path} is missing\n  hint: {hint}")]
    MissingFile { path: PathBuf, hint: String },
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{path} is not valid JSON: {source}")]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{path}: key `{key}` is {found}, expected {expected}\n  hint: {hint}")]
    BadKey { path: PathBuf, key: Box<str>, found: Box<str>, expected: Box<str>, hint: Box<str> },
    #[error(
        "{path} is not a readable safetensors file: {reason}\n  hint: the file is truncated or damaged; copy or download it again"
    )]
    BadSafetensors { path: PathBuf, reason: String },
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
    #[error("{path}: tokenizer: {reason}")]
    Tokenizer { path: PathBuf, reason: String },
    #[error("text cannot be encoded or tokens cannot be decoded: {reason}")]
    Encoding { reason: String },
    #[error("tokenizer training: {reason}")]
    Training { reason: String },
    #[error("chat template: {reason}")]
    Template { reason: String },
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
