//! The GPU executor: the network on device memory of its own, in kernels of its own, beside burn as `host` is on a CPU.
//!
//! burn keeps the parameters, the optimizer's state and the definition that this module is tested against; here is what has
//! to be fast. `runtime`: a stream, memory, what cuBLASLt needs. `program`: CUDA C compiled at run time and kept on the disk.
//! `gemm`: products. On these, `executor` runs the network (`forward`, `head`, `backward`, by `kernels` and `attention`),
//! `update` the optimizer, and `generate` samples. Decisions 0073 and 0074 say why.
//!
//! Work is submitted in order to one stream of the device's primary context (the one burn uses too) and nothing here waits for
//! it but [`Runtime::synchronize`] and [`Runtime::download`].

pub mod adapters;
mod attention;
mod backward;
mod executor;
mod forward;
pub mod gemm;
pub mod generate;
mod head;
mod kernels;
pub mod program;
pub mod runtime;
mod source;
pub mod update;
pub mod weights;

pub use backward::Sink;
pub use executor::{Executor, F32, Options};
pub use gemm::{Factor, Product};
pub use head::{Score, Target};
pub use program::{Kernel, Program};
pub use runtime::{Buffer, Runtime, Span, missing};

pub use crate::kernels::plan::{Element, GemmError};

/// What went wrong on the device.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    #[error(transparent)]
    Product(#[from] GemmError),
    #[error(
        "libnvrtc, CUDA's run-time compiler, was not found\n  hint: add the folder of libnvrtc.so to LD_LIBRARY_PATH; it comes with CUDA and with PyTorch"
    )]
    NoCompiler,
    #[error("the kernels of {name} do not compile for {arch}: {log}")]
    Compile { name: &'static str, arch: String, log: String },
    #[error("CUDA driver, {action}: {code:?}")]
    Driver { action: &'static str, code: cudarc::driver::sys::CUresult },
    #[error(
        "the GPU has not enough memory: {what} needs {needed} bytes, {free} are free\n  hint: fewer tokens a pass, or a smaller model"
    )]
    Memory { what: &'static str, needed: usize, free: usize },
    #[error(transparent)]
    Budget(#[from] crate::budget::Short),
    #[error("the GPU executor cannot run this network: {what}")]
    Unsupported { what: String },
    #[error("{what} has {found} bytes, {expected} are needed")]
    Extent { what: &'static str, found: usize, expected: usize },
}

pub type Result<T> = std::result::Result<T, DeviceError>;

pub(crate) fn driver(action: &'static str) -> impl Fn(cudarc::driver::DriverError) -> DeviceError {
    move |source| DeviceError::Driver { action, code: source.0 }
}
