//! GPUs as NVML sees them, when one is free, and the arithmetic of fair timing. Pure, but for `nvml`.

pub mod contamination;
pub mod fake;
pub mod floor;
pub mod free;
pub mod inventory;
pub mod nvml;
pub mod timing;
