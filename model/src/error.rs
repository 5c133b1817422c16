//! What can go wrong between a folder of weights and a network: each case says where, what was found, what was expected.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    #[error("model folder {path} does not exist\n  hint: `model.dir` must name a folder with config.json, *.safetensors and tokenizer.json")]
    MissingFolder { path: PathBuf },
    #[error("{path} is missing\n  hint: {hint}")]
    MissingFile { path: PathBuf, hint: String },
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{path} is not valid JSON: {source}")]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{path}: `{key}` is {found}, expected {expected}\n  hint: {hint}")]
    BadKey { path: PathBuf, key: String, found: String, expected: String, hint: String },
    #[error("{path} is not a readable safetensors file: {reason}\n  hint: the file is truncated or damaged; copy or download it again")]
    BadSafetensors { path: PathBuf, reason: String },
    #[error("{path}: tensor `{tensor}` is missing\n  hint: {hint}")]
    MissingTensor { path: PathBuf, tensor: String, hint: String },
    #[error("{path}: tensor `{tensor}` has {what} {found}, expected {expected}\n  hint: {hint}")]
    BadTensor { path: PathBuf, tensor: String, what: &'static str, found: String, expected: String, hint: String },
    #[error("{path}: tokenizer: {reason}")]
    Tokenizer { path: PathBuf, reason: String },
    #[error("chat template: {reason}")]
    Template { reason: String },
}
