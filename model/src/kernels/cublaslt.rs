//! cuBLASLt on the buffers of burn's CUDA server: where they lie and in which order they are used.
//!
//! Everything here runs on the server's own thread, where cubecl submits its kernels: what was submitted before is before,
//! what comes after is after. cubecl keeps its streams to itself (`CudaServer::streams` is private), so products have a stream of
//! their own and are ordered on the device: our stream waits for an event of the whole context, and the context's later
//! work waits for an event of our stream. No thread waits. Drivers older than CUDA 12.5 know no events of a context; there the
//! thread waits for the device, before and after.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;

use burn::cubecl::Runtime;
use burn::cubecl::cuda::CudaRuntime;
use burn::cubecl::server::{Binding, ComputeServer};
use burn::cubecl::stream_id::StreamId;
use cudarc::cublaslt::{result as lt, sys as blas};
use cudarc::driver::{result as driver, sys};

use super::plan::{GemmError, Matrix, Place, Plan, Result, Shape, WORKSPACE, blas_error, driver_error};

pub type Server = <CudaRuntime as Runtime>::Server;

pub struct Job {
    pub device: u16,
    pub stream: StreamId,
    pub shape: Shape,
    pub lhs: Binding,
    pub rhs: Binding,
    pub out: Binding,
}

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
    unsafe fn submit(&mut self, shape: &Shape, addresses: [u64; 3]) -> Result<()> {
        if self.plans.len() >= MAX_PLANS {
            self.plans.clear();
        }
        if !self.plans.contains_key(shape) {
            self.plans.insert(*shape, Plan::new(self.handle, shape)?);
        }
        self.before()?;
        let place = Place { handle: self.handle, stream: self.stream, workspace: self.workspace };
        // SAFETY: handle and plan are alive and of one another, the workspace is this stream's alone; the caller vouches for the
        // addresses.
        unsafe { self.plans[shape].submit(place, addresses, 1.0, 0.0)? };
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
