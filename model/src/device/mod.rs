//! The GPU executor: the network on device memory of its own, in kernels of its own, beside burn as `host` is on a CPU.
//!
//! burn keeps the parameters, the optimizer's state and the definition that this module is tested against; here is what has
//! to be fast. `runtime`: a stream, memory, what cuBLASLt needs. `program`: CUDA C compiled at run time and kept on the disk.
//! `gemm`: products. On these, `executor` runs the network (`forward`, `head`, `backward`, by `kernels` and `attention`),
//! `update` the optimizer, and `generate` samples. Decisions 0073 and 0074 say why.
//!
//! Work is submitted in order to one stream of the device's primary context (the one burn uses too) and nothing here waits for
//! it but [`Runtime::wait`], [`Runtime::synchronize`], [`Runtime::download`] and large uploads, all with a deadline (`deadline`).

pub mod adapters;
mod attention;
mod backward;
mod deadline;
mod executor;
mod forward;
pub mod gemm;
pub mod generate;
pub mod group;
mod head;
mod identity;
mod kernels;
pub mod meeting;
pub mod program;
pub mod runtime;
mod source;
pub mod update;
pub mod weights;

pub use backward::Sink;
pub use deadline::DEFAULT as WAIT;
pub use executor::{Executor, F32, Options};
pub use gemm::{Factor, Product};
pub use head::{Score, Target};
pub use identity::uuid;
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
        "CUDA driver, {action}: {code:?}. The GPU's context of this process is lost: whatever ran last failed on the device, and every \
         later call fails\n  hint: end the process and start it again; `nvidia-smi -q` and the system's log (Xid) say whether the GPU itself is broken"
    )]
    Lost { action: &'static str, code: cudarc::driver::sys::CUresult },
    #[error(
        "the GPU did not finish: {what} was waited for {:.1} s, the limit (`model.gpu_wait_s`)\n  hint: look at the GPU with nvidia-smi \
         (another process, a clock that is held low, an error); where passes do take so long, raise the limit", .waited.as_secs_f64()
    )]
    Late { what: &'static str, waited: std::time::Duration },
    #[error(
        "the GPU has not enough memory: {what} needs {needed} bytes, {free} are free\n  hint: fewer tokens a pass, or a smaller model"
    )]
    Memory { what: &'static str, needed: usize, free: usize },
    #[error(
        "libnccl, which sums gradients of several GPUs, was not found\n  hint: a folder of LD_LIBRARY_PATH has to hold `libnccl.so`; PyTorch brings \
         libnccl.so.2, to which a link of that name can be made"
    )]
    NoGroupLibrary,
    #[error(
        "`learner.gpus` is {wanted}, and the driver shows this process {visible} GPU(s)\n  hint: lower `learner.gpus`, or let \
         CUDA_VISIBLE_DEVICES name more"
    )]
    TooFew { wanted: usize, visible: usize },
    #[error("NCCL, {action}: {code:?}\n  hint: NCCL_DEBUG=WARN in the environment makes NCCL say why")]
    Group { action: &'static str, code: cudarc::nccl::sys::ncclResult_t },
    #[error(
        "a text of {found} tokens does not fit the passes of up to {most} rows that were planned\n  hint: lower `sampling.max_new_tokens`, \
         or leave out longer examples"
    )]
    Rows { found: usize, most: usize },
    #[error("another GPU of the learner failed; the process has to start again")]
    GroupFailed,
    #[error(transparent)]
    Budget(#[from] crate::budget::Short),
    #[error("the GPU executor cannot run this network: {what}")]
    Unsupported { what: String },
    #[error("{what} has {found} bytes, {expected} are needed")]
    Extent { what: &'static str, found: usize, expected: usize },
}

impl DeviceError {
    /// Of what was asked for, not of whether there is a GPU at all: no other way to compute would do it.
    pub fn is_wish(&self) -> bool {
        matches!(
            self,
            Self::Budget(_) | Self::TooFew { .. } | Self::NoGroupLibrary | Self::Group { .. } | Self::Rows { .. }
        )
    }

    /// The GPU answers no more, or may still be at work on memory that this process would give away: nothing is to be tried again in it.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Late { .. } | Self::Lost { .. } | Self::GroupFailed)
    }
}

pub type Result<T> = std::result::Result<T, DeviceError>;

pub(crate) fn driver(action: &'static str) -> impl Fn(cudarc::driver::DriverError) -> DeviceError {
    move |source| failed(action, source.0)
}

/// The driver's error; of the kinds after which a context answers nothing else any more, as such.
fn failed(action: &'static str, code: cudarc::driver::sys::CUresult) -> DeviceError {
    use cudarc::driver::sys::CUresult as R;
    let lost = matches!(
        code,
        R::CUDA_ERROR_ILLEGAL_ADDRESS
            | R::CUDA_ERROR_LAUNCH_FAILED
            | R::CUDA_ERROR_LAUNCH_TIMEOUT
            | R::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | R::CUDA_ERROR_MISALIGNED_ADDRESS
            | R::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | R::CUDA_ERROR_INVALID_PC
            | R::CUDA_ERROR_HARDWARE_STACK_ERROR
            | R::CUDA_ERROR_ASSERT
            | R::CUDA_ERROR_ECC_UNCORRECTABLE
            | R::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | R::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | R::CUDA_ERROR_DEINITIALIZED
    );
    if lost { DeviceError::Lost { action, code } } else { DeviceError::Driver { action, code } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cudarc::driver::sys::CUresult;

    #[test]
    fn a_lost_context_is_told_from_a_call_that_failed() {
        let lost = failed("wait for the GPU", CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert!(matches!(lost, DeviceError::Lost { .. }));
        let text = lost.to_string();
        assert!(text.contains("is lost") && text.contains("ILLEGAL_ADDRESS") && text.contains("hint"), "{text}");
        let plain = failed("find a kernel", CUresult::CUDA_ERROR_NOT_FOUND);
        assert!(matches!(plain, DeviceError::Driver { .. }), "{plain}");
    }
}
