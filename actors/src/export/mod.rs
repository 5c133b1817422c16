//! A run's data in the formats of other programs: Parquet tables, TensorBoard event files, a Perfetto trace. Reads only; what
//! each file holds is documented in `docs/guide/inspect.md`.

pub mod parquet;
pub mod perfetto;
pub mod tensorboard;

use crate::store::StoreError;

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("Parquet: {0}")]
    Parquet(#[from] ::parquet::errors::ParquetError),
}
