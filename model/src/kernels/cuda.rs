//! Products on the CUDA backend: cuBLASLt where it can, burn's own where it cannot, and which of the two is told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard};

use burn::cubecl::device::{Device, DeviceId};
use burn::cubecl::device_handle::DeviceHandle;
use burn::cubecl::server::Handle;
use burn::cubecl::stream_id::StreamId;
use burn::tensor::ops::{FloatTensor, FloatTensorOps};
use burn::tensor::{DType, Shape as Dims};

use super::Kernels;
pub use super::cublaslt::available;
use super::cublaslt::{self, Job, Server};
use super::layout::Layout;
pub use super::plan::GemmError;
use super::plan::{Batch, Element, Matrix, Shape};
use crate::GpuInner;

type Primitive = FloatTensor<GpuInner>;

static TF32: AtomicBool = AtomicBool::new(false);
type Known = HashMap<(DeviceId, Shape), Option<GemmError>>;
/// By shape, why its first product was refused; none where it went well.
static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
/// The first error of a product that nobody waited for.
static FAILED: Mutex<Option<GemmError>> = Mutex::new(None);
/// cubecl's allocations are multiples of at least this; more helps no algorithm.
const ALIGNMENT: u64 = 256;

/// Products of single precision may round their factors to TF32 (10 bits of mantissa). Off unless asked for.
pub fn allow_tf32(yes: bool) {
    TF32.store(yes, Ordering::Relaxed);
}

/// Products that burn computed in cuBLASLt's place, as text, with the reason. Empty: none.
pub fn refused() -> Vec<(String, GemmError)> {
    let known = lock(&KNOWN);
    known.iter().filter_map(|((_, shape), error)| Some((format!("{shape:?}"), error.clone()?))).collect()
}

impl Kernels for GpuInner {
    /// # Panics
    /// Where an earlier one failed, as `check`.
    fn product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::check();
        by_cublaslt(&lhs, &rhs).unwrap_or_else(|| Self::float_matmul(lhs, rhs))
    }

    fn memory(tensor: &FloatTensor<Self>) -> Option<super::memory::Memory> {
        super::memory::Memory::of(tensor)
    }

    /// The process has to end after a failure: the result it left, and all that came of it, is not to be used.
    fn check() {
        let failed = lock(&FAILED).clone();
        if let Some(error) = failed {
            panic!("a matrix product on the GPU failed: {error}");
        }
    }
}

fn by_cublaslt(lhs: &Primitive, rhs: &Primitive) -> Option<Primitive> {
    let element = match lhs.dtype {
        DType::F32 => Element::F32 { tf32: TF32.load(Ordering::Relaxed) },
        DType::F16 => Element::F16,
        DType::BF16 => Element::Bf16,
        _ => return None,
    };
    let same = lhs.dtype == rhs.dtype && lhs.device == rhs.device;
    let (left, right) = (matrix(lhs)?, matrix(rhs)?);
    let ([m, k], [inner, n]) = (left.shape, right.shape);
    if !same || k != inner || m * k * n == 0 {
        return None;
    }
    let out = GpuInner::float_empty(Dims::new([m, n]), &lhs.device, lhs.dtype.into());
    let result = matrix(&out).filter(|r| !r.layout.transposed)?;
    let shape = Shape { element, result: element, lhs: left, rhs: right, out: result, batch: Batch::ONE };
    let device = lhs.device.to_id();
    let binding = |handle: &Handle| handle.clone().binding();
    let job = Job {
        device: device.index_id,
        stream: StreamId::current(),
        shape,
        lhs: binding(&lhs.handle),
        rhs: binding(&rhs.handle),
        out: binding(&out.handle),
    };
    let server = DeviceHandle::<Server>::new(device);
    let known = lock(&KNOWN).get(&(device, shape)).map(Option::is_none);
    match known {
        // Nobody waits: the server's thread submits it in its turn.
        Some(true) => server.submit(move |server| {
            if let Err(error) = cublaslt::run(server, &job) {
                lock(&FAILED).get_or_insert(error);
            }
        }),
        Some(false) => return None,
        // The first of its shape is waited for (its submission, not its end): what cuBLASLt refuses, burn computes.
        None => {
            let error = match server.submit_blocking(move |server| cublaslt::run(server, &job)) {
                Ok(done) => done.err(),
                Err(source) => Some(GemmError::Buffer { reason: format!("the device's thread is gone: {source:?}") }),
            };
            let refused = error.is_some();
            lock(&KNOWN).insert((device, shape), error);
            if refused {
                return None;
            }
        }
    }
    Some(out)
}

fn matrix(tensor: &Primitive) -> Option<Matrix> {
    let two = |list: &[usize]| <[usize; 2]>::try_from(list).ok();
    let (shape, strides) = (two(&tensor.meta.shape()[..])?, two(&tensor.meta.strides()[..])?);
    let offset = tensor.handle.offset_start.unwrap_or(0);
    // The largest power of two that divides the offset, at most ALIGNMENT.
    let alignment = (1 << (offset | ALIGNMENT).trailing_zeros()) as u32;
    Some(Matrix { shape, layout: Layout::of(shape, strides)?, alignment })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
