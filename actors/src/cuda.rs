//! Whether this binary can compute on a GPU here: asked before anything is made there, since burn's own answer is a panic.

use crate::errors::UserError;

/// `at`: the key or flag that asks for a GPU.
///
/// # Errors
/// A build without the feature `cuda`, or a machine without driver, GPU or libraries.
#[cfg(feature = "cuda")]
pub fn require(at: &str) -> Result<(), UserError> {
    let Some(missing) = model::device::missing() else { return Ok(()) };
    let text = missing.to_string();
    let (found, hint) = text.split_once("\n  hint: ").unwrap_or((&text, "`troupe doctor` says what there is"));
    Err(UserError::new("CUDA cannot be used here").at(at).found(found).expected("a GPU, or \"cpu\"").hint(hint))
}

/// As above.
#[cfg(not(feature = "cuda"))]
pub fn require(at: &str) -> Result<(), UserError> {
    Err(UserError::new("this binary cannot use CUDA")
        .at(at)
        .found("cuda")
        .expected("cpu, or a binary built with `--features cuda`")
        .hint("build with `cargo build --release --features cuda`"))
}
