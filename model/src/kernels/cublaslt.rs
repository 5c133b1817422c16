//! cuBLASLt on the buffers of burn's CUDA server: the one file with foreign calls.
//!
//! Everything here runs on the server's own thread, where cubecl submits its kernels: what was submitted before is before,
//! what comes after is after. cubecl keeps its streams to itself (`CudaServer::streams` is private), so products have a stream of
//! their own and are ordered on the device: our stream waits for an event of the whole context, and the context's later
//! work waits for an event of our stream. No thread waits. Drivers older than CUDA 12.5 know no events of a context; there the
//! thread waits for the device, before and after.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;

use burn::cubecl::Runtime;
use burn::cubecl::cuda::CudaRuntime;
use burn::cubecl::server::{Binding, ComputeServer};
use burn::cubecl::stream_id::StreamId;
use cudarc::cublaslt::{result as lt, sys as blas};
use cudarc::driver::{result as driver, sys};

use super::layout::Layout;

pub type Server = <CudaRuntime as Runtime>::Server;

/// What went wrong between a product and the device.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GemmError {
    #[error("no CUDA driver (libcuda) on this machine")]
    NoDriver,
    #[error("the CUDA driver sees no GPU")]
    NoDevice,
    #[error(
        "libcublasLt was not found\n  hint: add the folder of libcublasLt.so to LD_LIBRARY_PATH; it comes with CUDA"
    )]
    NoLibrary,
    #[error("CUDA driver, {action}: {code:?}")]
    Driver { action: &'static str, code: sys::CUresult },
    #[error("cuBLASLt, {action}: {code:?}")]
    Blas { action: &'static str, code: blas::cublasStatus_t },
    #[error("a buffer of the product cannot be had: {reason}")]
    Buffer { reason: String },
    #[error("a buffer of the product has {found} bytes, its shape needs {expected}")]
    Extent { found: u64, expected: u64 },
    #[error("a buffer of the product is at {address:#x}, which is not a multiple of {expected}")]
    Alignment { address: u64, expected: u32 },
    #[error("the device's thread has no CUDA context")]
    NoContext,
}

/// The type of all three matrices; sums are in single precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    F32 { tf32: bool },
    F16,
    Bf16,
}

impl Element {
    fn bytes(self) -> usize {
        if matches!(self, Self::F32 { .. }) { 4 } else { 2 }
    }

    fn cuda(self) -> blas::cudaDataType {
        match self {
            Self::F32 { .. } => blas::cudaDataType::CUDA_R_32F,
            Self::F16 => blas::cudaDataType::CUDA_R_16F,
            Self::Bf16 => blas::cudaDataType::CUDA_R_16BF,
        }
    }

    fn compute(self) -> blas::cublasComputeType_t {
        match self {
            Self::F32 { tf32: true } => blas::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            _ => blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matrix {
    pub shape: [usize; 2],
    pub layout: Layout,
    /// Bytes that its address is a multiple of.
    pub alignment: u32,
}

/// `out = lhs rhs`; `out` is not transposed. One plan per value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    pub element: Element,
    pub lhs: Matrix,
    pub rhs: Matrix,
    pub out: Matrix,
}

pub struct Job {
    pub device: u16,
    pub stream: StreamId,
    pub shape: Shape,
    pub lhs: Binding,
    pub rhs: Binding,
    pub out: Binding,
}

type Result<T> = std::result::Result<T, GemmError>;

/// Hopper needs 32 MiB for its best algorithms, NVIDIA says.
const WORKSPACE: usize = 32 << 20;
/// Row counts of a training run differ from batch to batch; plans are small but not to grow without end.
const MAX_PLANS: usize = 4096;

thread_local! {
    /// By device. Handles are never destroyed: they live as long as the server's thread, which is as long as the process.
    static DEVICES: RefCell<HashMap<u16, Result<Device>>> = RefCell::new(HashMap::new());
}

/// How many GPUs the driver sees, where cuBLASLt is there too. Makes no context.
pub fn available() -> Result<i32> {
    // SAFETY: opening a library runs its initialisers; these are NVIDIA's.
    let (driver_found, blas_found) = unsafe { (sys::is_culib_present(), blas::is_culib_present()) };
    if !driver_found {
        return Err(GemmError::NoDriver);
    }
    let count = cudarc::driver::CudaContext::device_count().map_err(driver_error("count devices"))?;
    if !blas_found {
        return Err(GemmError::NoLibrary);
    }
    if count == 0 { Err(GemmError::NoDevice) } else { Ok(count) }
}

/// Submits one product. On the server's thread.
pub fn run(server: &mut Server, job: &Job) -> Result<()> {
    let take = |server: &mut Server, binding: &Binding| {
        // The server makes its own stream wait for the stream that wrote the buffer, and sets the context.
        server
            .get_resource(binding.clone(), job.stream)
            .map_err(|source| GemmError::Buffer { reason: format!("{source:?}") })
    };
    // Held to the end of the submission; later reuse of the memory is later work of the context, which waits for the product.
    let (lhs, rhs, out) = (take(server, &job.lhs)?, take(server, &job.rhs)?, take(server, &job.out)?);
    let checked = |address: u64, found: u64, matrix: &Matrix| {
        let expected = (matrix.layout.extent(matrix.shape) * job.shape.element.bytes()) as u64;
        if found < expected {
            return Err(GemmError::Extent { found, expected });
        }
        if !address.is_multiple_of(u64::from(matrix.alignment)) {
            return Err(GemmError::Alignment { address, expected: matrix.alignment });
        }
        Ok(address)
    };
    let addresses = [
        checked(lhs.resource().ptr, lhs.resource().size, &job.shape.lhs)?,
        checked(rhs.resource().ptr, rhs.resource().size, &job.shape.rhs)?,
        checked(out.resource().ptr, out.resource().size, &job.shape.out)?,
    ];
    DEVICES.with_borrow_mut(|devices| {
        let device = devices.entry(job.device).or_insert_with(Device::new).as_mut().map_err(|e| e.clone())?;
        // SAFETY: the three buffers are alive on this device, of the element type, as large as their layouts say and
        // aligned as the plan assumes (checked above), and the context is current (`get_resource` set it).
        unsafe { device.submit(&job.shape, addresses) }
    })
}

type OnContext = unsafe extern "C" fn(sys::CUcontext, sys::CUevent) -> sys::CUresult;

enum Order {
    Events { context: sys::CUcontext, record: OnContext, wait: OnContext },
    Block,
}

struct Device {
    handle: blas::cublasLtHandle_t,
    workspace: sys::CUdeviceptr,
    stream: sys::CUstream,
    ready: sys::CUevent,
    done: sys::CUevent,
    order: Order,
    plans: HashMap<Shape, Plan>,
}

impl Device {
    /// In the current context.
    fn new() -> Result<Self> {
        // SAFETY: opening a library runs its initialisers; this is NVIDIA's.
        if !unsafe { blas::is_culib_present() } {
            return Err(GemmError::NoLibrary);
        }
        let context = driver::ctx::get_current().map_err(driver_error("current context"))?;
        let context = context.ok_or(GemmError::NoContext)?;
        let event =
            || driver::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(driver_error("create event"));
        Ok(Self {
            handle: lt::create_handle().map_err(blas_error("create handle"))?,
            // SAFETY: an allocation of the current context, never freed.
            workspace: unsafe { driver::malloc_sync(WORKSPACE) }.map_err(driver_error("allocate the workspace"))?,
            stream: driver::stream::create(driver::stream::StreamKind::NonBlocking)
                .map_err(driver_error("create stream"))?,
            ready: event()?,
            done: event()?,
            order: match (context_function("cuCtxRecordEvent"), context_function("cuCtxWaitEvent")) {
                (Some(record), Some(wait)) => Order::Events { context, record, wait },
                _ => Order::Block,
            },
            plans: HashMap::new(),
        })
    }

    /// # Safety
    /// The device's context is current; the addresses are those of `shape`'s buffers in it, alive until work that the
    /// context gets later, and aligned as `shape` says.
    unsafe fn submit(&mut self, shape: &Shape, [lhs, rhs, out]: [u64; 3]) -> Result<()> {
        if self.plans.len() >= MAX_PLANS {
            self.plans.clear();
        }
        if !self.plans.contains_key(shape) {
            self.plans.insert(*shape, Plan::new(self.handle, shape)?);
        }
        let plan = &self.plans[shape];
        self.before()?;
        let (one, zero) = (1.0f32, 0.0f32);
        // SAFETY: handle and plan are alive; the caller vouches for the addresses; the workspace is as large as the plan was told
        // and used by this stream alone; the scalars are read before the call returns (they are host scalars).
        unsafe {
            lt::matmul(
                self.handle,
                plan.product.0,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                // Row-major `out = lhs rhs` is column-major `out^T = rhs^T lhs^T`: the factors change places.
                rhs as *const c_void,
                plan.rhs.0,
                lhs as *const c_void,
                plan.lhs.0,
                out as *const c_void,
                plan.out.0,
                out as *mut c_void,
                plan.out.0,
                &raw const plan.algorithm,
                self.workspace as *mut c_void,
                WORKSPACE,
                self.stream.cast(),
            )
        }
        .map_err(blas_error("product"))?;
        self.after()
    }

    /// Our stream sees what the context was given before.
    fn before(&self) -> Result<()> {
        let Order::Events { context, record, .. } = &self.order else {
            return driver::ctx::synchronize().map_err(driver_error("wait for the device"));
        };
        // SAFETY: context, event and stream are alive and of one another.
        unsafe {
            record(*context, self.ready).result().map_err(driver_error("record the context"))?;
            let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
            driver::stream::wait_event(self.stream, self.ready, flags).map_err(driver_error("wait for the context"))
        }
    }

    /// What the context is given from now on sees the product.
    fn after(&self) -> Result<()> {
        let Order::Events { context, wait, .. } = &self.order else {
            return driver::ctx::synchronize().map_err(driver_error("wait for the product"));
        };
        // SAFETY: as above.
        unsafe {
            driver::event::record(self.done, self.stream).map_err(driver_error("record the product"))?;
            wait(*context, self.done).result().map_err(driver_error("make the context wait"))
        }
    }
}

/// A function of the driver that older ones lack. (cudarc's own wrapper would panic there, and is compiled only with new headers.)
fn context_function(name: &str) -> Option<OnContext> {
    // SAFETY: both functions have this signature in cuda.h since CUDA 12.5; the library is never unloaded.
    unsafe { sys::culib().get::<OnContext>(name.as_bytes()).ok().map(|f| *f) }
}

struct Plan {
    product: Product,
    lhs: Described,
    rhs: Described,
    out: Described,
    algorithm: blas::cublasLtMatmulAlgo_t,
}

impl Plan {
    /// The algorithm that cuBLASLt's heuristics put first.
    fn new(handle: blas::cublasLtHandle_t, shape: &Shape) -> Result<Self> {
        let product = lt::create_matmul_desc(shape.element.compute(), blas::cudaDataType::CUDA_R_32F)
            .map(Product)
            .map_err(blas_error("describe the product"))?;
        let (lhs, rhs, out) = (
            Described::new(shape.element, &shape.lhs)?,
            Described::new(shape.element, &shape.rhs)?,
            Described::new(shape.element, &shape.out)?,
        );
        let preference = lt::create_matmul_pref().map(Preference).map_err(blas_error("create preference"))?;
        use blas::cublasLtMatmulDescAttributes_t as Attribute;
        use blas::cublasLtMatmulPreferenceAttributes_t as Wish;
        let operations = [
            (Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &shape.rhs),
            (Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &shape.lhs),
        ];
        let alignments = [
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &shape.rhs),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &shape.lhs),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &shape.out),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &shape.out),
        ];
        // SAFETY: descriptors are alive; every attribute is given a value of its documented type and size.
        let found = unsafe {
            for (attribute, matrix) in operations {
                let operation = i32::from(matrix.layout.transposed); // CUBLAS_OP_N is 0, CUBLAS_OP_T is 1
                lt::set_matmul_desc_attribute(product.0, attribute, (&raw const operation).cast(), 4)
                    .map_err(blas_error("set an operation"))?;
            }
            for (wish, matrix) in alignments {
                lt::set_matmul_pref_attribute(preference.0, wish, (&raw const matrix.alignment).cast(), 4)
                    .map_err(blas_error("set an alignment"))?;
            }
            let bytes = WORKSPACE;
            let wish = Wish::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            lt::set_matmul_pref_attribute(preference.0, wish, (&raw const bytes).cast(), size_of::<usize>())
                .map_err(blas_error("set the workspace"))?;
            lt::get_matmul_algo_heuristic(handle, product.0, rhs.0, lhs.0, out.0, out.0, preference.0)
        };
        let algorithm = found.map_err(blas_error("choose an algorithm"))?.algo;
        Ok(Self { product, lhs, rhs, out, algorithm })
    }
}

struct Product(blas::cublasLtMatmulDesc_t);
struct Described(blas::cublasLtMatrixLayout_t);
struct Preference(blas::cublasLtMatmulPreference_t);

impl Described {
    fn new(element: Element, matrix: &Matrix) -> Result<Self> {
        let [length, lines] = matrix.layout.columns(matrix.shape).map(|n| n as u64);
        lt::create_matrix_layout(element.cuda(), length, lines, matrix.layout.step as i64)
            .map(Self)
            .map_err(blas_error("describe a matrix"))
    }
}

// A failed destruction leaks a few bytes; there is nobody to tell.
impl Drop for Product {
    fn drop(&mut self) {
        // SAFETY: made by cuBLASLt, destroyed once.
        let _ = unsafe { lt::destroy_matmul_desc(self.0) };
    }
}

impl Drop for Described {
    fn drop(&mut self) {
        // SAFETY: as above.
        let _ = unsafe { lt::destroy_matrix_layout(self.0) };
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: as above.
        let _ = unsafe { lt::destroy_matmul_pref(self.0) };
    }
}

fn driver_error(action: &'static str) -> impl Fn(cudarc::driver::DriverError) -> GemmError {
    move |source| GemmError::Driver { action, code: source.0 }
}

fn blas_error(action: &'static str) -> impl Fn(lt::CublasError) -> GemmError {
    move |source| GemmError::Blas { action, code: source.0 }
}
