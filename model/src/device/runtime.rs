//! One stream of one GPU with its memory and what cuBLASLt needs on it.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cudarc::cublaslt::{result as lt, sys as blas};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DeviceRepr, result as raw, sys};

use super::{DeviceError, Result, deadline, driver};
use crate::kernels::plan::{Place, WORKSPACE, blas_error};

/// A range of device memory, not owned: a piece of a [`Buffer`], or of a tensor of burn's.
///
/// It is an address; whoever makes one sees to it that the memory outlives the work that is submitted with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub address: u64,
    pub bytes: usize,
}

impl Span {
    /// Nothing: a null pointer for a kernel.
    pub const NONE: Self = Self { address: 0, bytes: 0 };

    /// `bytes` from `offset` on.
    ///
    /// # Panics
    /// Where that is not inside.
    pub fn part(self, offset: usize, bytes: usize) -> Self {
        assert!(offset + bytes <= self.bytes, "{bytes} bytes at {offset} of {}", self.bytes);
        Self { address: self.address + offset as u64, bytes }
    }
}

/// Bytes of a copy from pageable memory that the driver takes into its own before it returns.
const STAGED: usize = 64 << 10;

/// Device memory that grows and is kept for the next use. Its content is what the last use left.
#[derive(Debug, Default)]
pub struct Buffer {
    slice: Option<CudaSlice<u8>>,
}

impl Buffer {
    /// The first `bytes`; the memory is taken anew where it is too small (what was in it is lost).
    pub fn span(&mut self, runtime: &Runtime, what: &'static str, bytes: usize) -> Result<Span> {
        if self.slice.as_ref().is_none_or(|s| s.len() < bytes) {
            self.slice = None;
            self.slice = Some(runtime.alloc(what, bytes)?);
        }
        let slice = self.slice.as_ref().map_or(Span::NONE, |s| runtime.whole(s));
        Ok(slice.part(0, bytes))
    }

    /// Bytes held.
    pub fn held(&self) -> usize {
        self.slice.as_ref().map_or(0, CudaSlice::len)
    }
}

/// A stream of one GPU. Several may be made for one device; each has its own order and its own workspace.
pub struct Runtime {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    handle: blas::cublasLtHandle_t,
    workspace: CudaSlice<u8>,
    capability: (i32, i32),
    limit: Duration,
    /// A wait was given up: the next ones do not wait again.
    late: AtomicBool,
    pub(super) plans: super::gemm::Plans,
}

// SAFETY: a cuBLASLt handle may be used from any thread (by NVIDIA's documentation even at once); the context is made current by
// every call of cudarc and by `place`.
unsafe impl Send for Runtime {}
// SAFETY: as above; plans lie behind a lock.
unsafe impl Sync for Runtime {}

impl Runtime {
    /// On GPU `ordinal`, in its primary context. Opens the driver and cuBLASLt at run time; an error says what is missing.
    pub fn new(ordinal: usize) -> Result<Self> {
        crate::kernels::cuda::available()?;
        let context = CudaContext::new(ordinal).map_err(driver("open the GPU"))?;
        let stream = context.new_stream().map_err(driver("create a stream"))?;
        // SAFETY: events of cudarc's slices order several streams; a runtime uses its slices on its own stream alone.
        unsafe { context.disable_event_tracking() };
        let handle = lt::create_handle().map_err(blas_error("create a handle"))?;
        let capability = context.compute_capability().map_err(driver("ask what the GPU can do"))?;
        // SAFETY: the workspace is written by cuBLASLt before it is read.
        let workspace = unsafe { stream.alloc::<u8>(WORKSPACE) }.map_err(driver("allocate the workspace"))?;
        let (limit, late) = (deadline::DEFAULT, AtomicBool::new(false));
        Ok(Self { context, stream, handle, workspace, capability, limit, late, plans: Default::default() })
    }

    /// How long any wait may take.
    pub fn with_limit(self, limit: Duration) -> Self {
        let mut changed = self;
        changed.limit = limit;
        changed
    }

    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// `(9, 0)` for Hopper.
    pub fn capability(&self) -> (i32, i32) {
        self.capability
    }

    /// Streaming multiprocessors.
    pub fn processors(&self) -> Result<usize> {
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        self.context.attribute(attribute).map(|n| n.max(1) as usize).map_err(driver("count the processors"))
    }

    /// Bytes free and in all, as the driver counts them (memory that burn's pool holds is not free).
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.context.mem_get_info().map_err(driver("ask for the memory"))
    }

    /// `bytes` of memory (at least one), not set to anything.
    pub fn alloc(&self, what: &'static str, bytes: usize) -> Result<CudaSlice<u8>> {
        // SAFETY: any bit pattern is a byte; kernels write before they read.
        unsafe { self.stream.alloc::<u8>(bytes.max(1)) }.map_err(|source| match source.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                DeviceError::Memory { what, needed: bytes, free: self.memory().map_or(0, |m| m.0) }
            }
            code => super::failed("allocate memory", code),
        })
    }

    /// All of a slice that this runtime allocated.
    pub fn whole<T>(&self, slice: &CudaSlice<T>) -> Span {
        use cudarc::driver::DevicePtr;
        let (address, _no_event) = slice.device_ptr(&self.stream);
        Span { address, bytes: slice.num_bytes() }
    }

    /// Sets every byte to 0.
    pub fn zero(&self, span: Span) -> Result<()> {
        if span.bytes == 0 {
            return Ok(());
        }
        self.context.bind_to_thread().map_err(driver("bind the context"))?;
        // SAFETY: whoever made the span vouches for the memory.
        unsafe { raw::memset_d8_async(span.address, 0, span.bytes, self.stream.cu_stream()) }
            .map_err(driver("set memory to zero"))
    }

    /// Copies all of `from` to the start of `to`, on the device.
    pub fn copy(&self, from: Span, to: Span) -> Result<()> {
        if to.bytes < from.bytes {
            return Err(DeviceError::Extent {
                what: "the destination of a copy",
                found: to.bytes,
                expected: from.bytes,
            });
        }
        self.context.bind_to_thread().map_err(driver("bind the context"))?;
        // SAFETY: `to` is large enough (checked); whoever made the spans vouches for the memory.
        unsafe { raw::memcpy_dtod_async(to.address, from.address, from.bytes, self.stream.cu_stream()) }
            .map_err(driver("copy on the GPU"))
    }

    /// Copies host memory to the start of `to`. The host's side has been read when this returns.
    pub fn upload<T: DeviceRepr>(&self, from: &[T], to: Span) -> Result<()> {
        let expected = size_of_val(from);
        if to.bytes < expected {
            return Err(DeviceError::Extent { what: "the destination of a copy", found: to.bytes, expected });
        }
        if from.is_empty() {
            return Ok(());
        }
        // The driver stages small copies at once; for larger ones it may wait for the stream, without a limit.
        if expected > STAGED {
            self.wait("the work before a copy to the GPU")?;
        }
        self.context.bind_to_thread().map_err(driver("bind the context"))?;
        // SAFETY: `to` is large enough (checked); pageable host memory is staged before the call returns.
        unsafe { raw::memcpy_htod_async(to.address, from, self.stream.cu_stream()) }.map_err(driver("copy to the GPU"))
    }

    /// Waits for all that was submitted, then copies the first `len` elements of `from` to the host.
    pub fn download<T: DeviceRepr + Default + Clone>(&self, from: Span, len: usize) -> Result<Vec<T>> {
        let mut out = vec![T::default(); len];
        let expected = size_of_val(&out[..]);
        if from.bytes < expected {
            return Err(DeviceError::Extent { what: "the source of a copy", found: from.bytes, expected });
        }
        // A copy to pageable memory blocks until its turn has come, without a limit.
        self.wait("the work before a copy from the GPU")?;
        if len > 0 {
            self.context.bind_to_thread().map_err(driver("bind the context"))?;
            // SAFETY: `from` is large enough (checked); the copy has ended before `out` is looked at.
            unsafe { raw::memcpy_dtoh_async(&mut out, from.address, self.stream.cu_stream()) }
                .map_err(driver("copy from the GPU"))?;
        }
        self.synchronize()?;
        Ok(out)
    }

    /// Waits until all that was submitted is done. An error of any of it shows here.
    pub fn synchronize(&self) -> Result<()> {
        self.wait("the work submitted so far")
    }

    /// As `synchronize`; `what` is named where the deadline passes.
    pub fn wait(&self, what: &'static str) -> Result<()> {
        let limit = if self.late.load(Ordering::Relaxed) { Duration::ZERO } else { self.limit };
        let waited = deadline::wait(&deadline::Wall::default(), what, limit, || self.done());
        self.late.store(matches!(waited, Err(DeviceError::Late { .. })), Ordering::Relaxed);
        waited
    }

    /// As `wait`; `trouble` is asked between the looks and ends the wait with its error.
    pub fn wait_unless(&self, what: &'static str, trouble: &dyn Fn() -> Result<()>) -> Result<()> {
        deadline::wait(&deadline::Wall::default(), what, self.limit, || {
            let done = self.done()?;
            if !done {
                trouble()?;
            }
            Ok(done)
        })
    }

    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Whether all that was submitted is done.
    pub fn done(&self) -> Result<bool> {
        self.context.bind_to_thread().map_err(driver("bind the context"))?;
        // SAFETY: the stream is this runtime's own and alive.
        match unsafe { sys::cuStreamQuery(self.stream.cu_stream()) } {
            sys::CUresult::CUDA_SUCCESS => Ok(true),
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            code => Err(super::failed("wait for the GPU", code)),
        }
    }

    /// Where products go, with the context made current.
    pub(super) fn place(&self) -> Result<Place> {
        self.context.bind_to_thread().map_err(driver("bind the context"))?;
        let workspace = self.whole(&self.workspace).address;
        Ok(Place { handle: self.handle, stream: self.stream.cu_stream(), workspace })
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // What is running still uses the workspace and the handle. A failure has nobody to tell.
        let _ = self.wait("the work before the end");
        // SAFETY: made by this runtime, destroyed once, nothing uses it any more.
        let _ = unsafe { lt::destroy_handle(self.handle) };
    }
}

impl From<cudarc::driver::DriverError> for DeviceError {
    fn from(source: cudarc::driver::DriverError) -> Self {
        super::failed("a call", source.0)
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("gpu", &self.context.ordinal()).field("capability", &self.capability).finish()
    }
}

/// What the executor would miss on this machine: the driver, a GPU, cuBLASLt or the compiler. Makes no context.
pub fn missing() -> Option<DeviceError> {
    match crate::kernels::cuda::available() {
        Err(error) => Some(error.into()),
        Ok(_) => (!super::program::compiler_found()).then_some(DeviceError::NoCompiler),
    }
}
