//! Gradients of A and B, from the gradient of the whole matrix or without it.
//!
//! With `y = x W`, `W = W0 + s A^T B^T` (`[in, out]`, as the network keeps it): `dA = s (dW B)^T`, `dB = s (A dW)^T`.

use burn::tensor::{Tensor, backend::Backend};

use crate::kernels::{Kernels, linear};

/// From the gradient of the merged matrix, which the executors compute.
///
/// # Shapes
/// - d_weight: `[in, out]`; a: `[rank, in]`; b: `[out, rank]`
/// - returns the gradients of a and b
pub fn project<B: Kernels>(
    d_weight: Tensor<B, 2>,
    a: Tensor<B, 2>,
    b: Tensor<B, 2>,
    scale: f32,
) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let d_a = linear(d_weight.clone(), b).transpose().mul_scalar(scale);
    let d_b = linear(a, d_weight).transpose().mul_scalar(scale);
    (d_a, d_b)
}

/// From a layer's rows, without the matrix's own gradient: `4 n rank (in + out)` operations instead of `2 n in out`, and no
/// `[in, out]` buffer. Over several batches the results are added. The GPU executor computes these (`device::adapters`).
///
/// # Shapes
/// - x: `[n, in]`; d_y: `[n, out]`, the target's own columns; a: `[rank, in]`; b: `[out, rank]`
/// - returns the gradients of a and b
pub fn from_rows<B: Backend>(
    x: Tensor<B, 2>,
    d_y: Tensor<B, 2>,
    a: Tensor<B, 2>,
    b: Tensor<B, 2>,
    scale: f32,
) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let d_a = d_y.clone().matmul(b).transpose().matmul(x.clone()).mul_scalar(scale);
    let d_b = d_y.transpose().matmul(x.matmul(a.transpose())).mul_scalar(scale);
    (d_a, d_b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CpuInner;
    use burn::tensor::TensorData;

    /// By hand: in 2, out 3, rank 1.
    #[test]
    fn a_product_of_small_numbers() {
        let t = |v: &[f32], shape: [usize; 2]| {
            Tensor::<CpuInner, 2>::from_data(TensorData::new(v.to_vec(), shape), &Default::default())
        };
        let d_weight = t(&[1.0, 2.0, 3.0, -1.0, 0.5, 4.0], [2, 3]);
        let (a, b) = (t(&[2.0, -1.0], [1, 2]), t(&[1.0, 0.0, -2.0], [3, 1]));
        let (d_a, d_b) = project(d_weight, a, b, 0.5);
        d_a.into_data().assert_eq(&TensorData::from([[-2.5f32, -4.5]]), true);
        d_b.into_data().assert_eq(&TensorData::from([[1.5f32], [1.75], [1.0]]), true);
    }

    /// Planted and seen to fail: `scale` left out of either `d_b`.
    #[test]
    fn rows_and_matrix_give_the_same() {
        let (n, input, output, rank, scale) = (7, 5, 6, 2, 0.7);
        let t = |rows: usize, cols: usize, salt: f32| {
            let v: Vec<f32> = (0..rows * cols).map(|i| (salt * (i as f32 + 1.3)).sin()).collect();
            Tensor::<CpuInner, 2>::from_data(TensorData::new(v, [rows, cols]), &Default::default())
        };
        let (x, d_y, a, b) = (t(n, input, 1.1), t(n, output, 2.3), t(rank, input, 0.7), t(output, rank, 1.9));
        let whole = project(x.clone().transpose().matmul(d_y.clone()), a.clone(), b.clone(), scale);
        let rows = from_rows(x, d_y, a, b, scale);
        for (found, expected) in [(rows.0, whole.0), (rows.1, whole.1)] {
            let gap = (found - expected.clone()).abs().max().into_scalar();
            let size = expected.abs().max().into_scalar();
            assert!(size > 0.1 && gap < 1e-6 * (1.0 + size), "{gap} of {size}");
        }
    }
}
