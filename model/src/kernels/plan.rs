//! One product as cuBLASLt is told it: types, layouts, the algorithm its heuristics choose. Shared by burn's products (`cublaslt`)
//! and by the device executor (`device`), which differ in whose buffers and which stream they use.
#![allow(unsafe_code)]

use std::ffi::c_void;

use cudarc::cublaslt::{result as lt, sys as blas};
use cudarc::driver::sys;

use super::layout::Layout;

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

/// The type of a matrix; sums are in single precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    F32 { tf32: bool },
    F16,
    Bf16,
}

impl Element {
    pub fn bytes(self) -> usize {
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
    /// The type of both factors.
    pub element: Element,
    /// The type of the product: that of the factors, or fp32.
    pub result: Element,
    pub lhs: Matrix,
    pub rhs: Matrix,
    pub out: Matrix,
    pub batch: Batch,
}

/// Equal products at regular distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Batch {
    /// How many; at least 1.
    pub count: i32,
    /// Elements from one to the next: left factor, right factor, product. 0: the same for all.
    pub strides: [i64; 3],
}

impl Batch {
    pub const ONE: Self = Self { count: 1, strides: [0; 3] };
}

/// Where a product is computed.
#[derive(Clone, Copy)]
pub struct Place {
    pub handle: blas::cublasLtHandle_t,
    pub stream: sys::CUstream,
    /// [`WORKSPACE`] bytes that this stream alone uses.
    pub workspace: sys::CUdeviceptr,
}

pub type Result<T> = std::result::Result<T, GemmError>;

/// Hopper needs 32 MiB for its best algorithms, NVIDIA says.
pub const WORKSPACE: usize = 32 << 20;

pub struct Plan {
    product: Product,
    lhs: Described,
    rhs: Described,
    out: Described,
    algorithm: blas::cublasLtMatmulAlgo_t,
}

impl Plan {
    /// The algorithm that cuBLASLt's heuristics put first.
    pub fn new(handle: blas::cublasLtHandle_t, shape: &Shape) -> Result<Self> {
        let product = lt::create_matmul_desc(shape.element.compute(), blas::cudaDataType::CUDA_R_32F)
            .map(Product)
            .map_err(blas_error("describe the product"))?;
        let (lhs, rhs, out) = (
            Described::new(shape.element, &shape.lhs, shape.batch.count, shape.batch.strides[0])?,
            Described::new(shape.element, &shape.rhs, shape.batch.count, shape.batch.strides[1])?,
            Described::new(shape.result, &shape.out, shape.batch.count, shape.batch.strides[2])?,
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

    /// Submits `out = scale lhs rhs + keep out`.
    ///
    /// # Safety
    /// The handle is the plan's, the place's context is current and its workspace its own; the addresses (left factor, right
    /// factor, product) are those of buffers of the plan's types, as large as their layouts say and aligned as the plan
    /// assumes, alive until the stream is done with them.
    pub unsafe fn submit(&self, place: Place, [lhs, rhs, out]: [u64; 3], scale: f32, keep: f32) -> Result<()> {
        // SAFETY: the plan's descriptors are alive; the caller vouches for the rest; the scalars are host scalars, read before the
        // call returns.
        unsafe {
            lt::matmul(
                place.handle,
                self.product.0,
                (&raw const scale).cast(),
                (&raw const keep).cast(),
                // Row-major `out = lhs rhs` is column-major `out^T = rhs^T lhs^T`: the factors change places.
                rhs as *const c_void,
                self.rhs.0,
                lhs as *const c_void,
                self.lhs.0,
                out as *const c_void,
                self.out.0,
                out as *mut c_void,
                self.out.0,
                &raw const self.algorithm,
                place.workspace as *mut c_void,
                WORKSPACE,
                place.stream.cast(),
            )
        }
        .map_err(blas_error("product"))
    }
}

struct Product(blas::cublasLtMatmulDesc_t);
struct Described(blas::cublasLtMatrixLayout_t);
struct Preference(blas::cublasLtMatmulPreference_t);

impl Described {
    fn new(element: Element, matrix: &Matrix, count: i32, stride: i64) -> Result<Self> {
        let [length, lines] = matrix.layout.columns(matrix.shape).map(|n| n as u64);
        let layout = lt::create_matrix_layout(element.cuda(), length, lines, matrix.layout.step as i64)
            .map(Self)
            .map_err(blas_error("describe a matrix"))?;
        if count > 1 {
            use blas::cublasLtMatrixLayoutAttribute_t as Attribute;
            let (many, far) =
                (Attribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, Attribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET);
            // SAFETY: the layout is alive; both attributes get a value of their documented type and size.
            unsafe {
                lt::set_matrix_layout_attribute(layout.0, many, (&raw const count).cast(), size_of::<i32>())
                    .map_err(blas_error("set a batch count"))?;
                lt::set_matrix_layout_attribute(layout.0, far, (&raw const stride).cast(), size_of::<i64>())
                    .map_err(blas_error("set a batch stride"))?;
            }
        }
        Ok(layout)
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

pub fn driver_error(action: &'static str) -> impl Fn(cudarc::driver::DriverError) -> GemmError {
    move |source| GemmError::Driver { action, code: source.0 }
}

pub fn blas_error(action: &'static str) -> impl Fn(lt::CublasError) -> GemmError {
    move |source| GemmError::Blas { action, code: source.0 }
}
