//! Operations that a backend may compute in a way of its own, behind one model code.
//!
//! [`Kernels`] has burn's operation as the default: the CPU keeps it. With CUDA, products go to cuBLASLt (`cuda`, `cublaslt`).
//! Autodiff gets its backward by hand (`autodiff`), from the same operations of the backend below.

mod autodiff;
#[cfg(feature = "cuda")]
mod cublaslt;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(any(feature = "cuda", test))]
pub(crate) mod layout;
#[cfg(feature = "cuda")]
pub mod memory;
#[cfg(feature = "cuda")]
pub(crate) mod plan;
#[cfg(test)]
mod tests;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorData, TensorPrimitive};

/// A backend with the network's own operations.
pub trait Kernels: Backend {
    /// The product of two matrices, `[m, k]` and `[k, n]`, of one type. A transposed view is as good as a matrix.
    fn product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(lhs, rhs)
    }

    /// Where a tensor lies on a GPU, if it is one of fp32 there.
    #[cfg(feature = "cuda")]
    fn memory(_tensor: &FloatTensor<Self>) -> Option<memory::Memory> {
        None
    }

    /// To call once results have been read and before anything is made of them.
    ///
    /// # Panics
    /// Where an operation failed after it was submitted: what was read is not its result.
    fn check() {}
}

/// burn's own product, to the bit.
impl Kernels for burn::backend::Flex {}

/// A tensor that stays: on a GPU in memory of its own size. burn's pages for others are of a few sizes, up to a quarter of the GPU, of
/// which much may stay unused.
pub fn lasting<B: Backend, const D: usize>(data: TensorData, device: &B::Device) -> Tensor<B, D> {
    B::memory_persistent_allocations(device, data, |data| Tensor::from_data(data, device))
}

/// `x W`: `[.., in]` and `[in, out]` to `[.., out]`.
pub fn linear<B: Kernels, const D: usize>(x: Tensor<B, D>, weight: Tensor<B, 2>) -> Tensor<B, D> {
    let mut dims = x.dims();
    let [width, out] = weight.dims();
    let rows = dims[..D - 1].iter().product();
    let flat: Tensor<B, 2> = x.reshape([rows, width]);
    let y = B::product(flat.into_primitive().tensor(), weight.into_primitive().tensor());
    dims[D - 1] = out;
    Tensor::<B, 2>::from_primitive(TensorPrimitive::Float(y)).reshape(dims)
}
