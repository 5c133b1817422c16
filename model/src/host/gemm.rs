//! Matrix products on plain slices: the one door to the `gemm` crate, and the only unsafe code of the CPU executor.

/// A borrowed matrix; element `(r, c)` is `data[r * row_stride + c * col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// Dense rows: `[rows, cols]`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Rows `row_stride` elements apart, each of `cols` neighbouring elements.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        check(data.len(), rows, cols, row_stride, 1);
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose; no element moves.
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

fn check(len: usize, rows: usize, cols: usize, row_stride: usize, col_stride: usize) {
    if rows > 0 && cols > 0 {
        let last = (rows - 1) * row_stride + (cols - 1) * col_stride;
        assert!(last < len, "matrix [{rows}, {cols}] with strides [{row_stride}, {col_stride}] in {len} elements");
    }
}

/// `out = a b`, or `out += a b` with `add`. `out` has rows `out_stride` elements apart. One thread.
///
/// An element's sum runs over the inner axis in an order that does not depend on how many rows `a` has, as long as there
/// are at least two (one row takes another path in the crate): the engine relies on it for samples that do not
/// depend on their neighbours, and tests it.
#[allow(unsafe_code)]
pub fn matmul(out: &mut [f32], out_stride: usize, a: Mat, b: Mat, add: bool) {
    assert_eq!(a.cols, b.rows, "inner axes of a matrix product");
    let (m, k, n) = (a.rows, a.cols, b.cols);
    if m == 0 || n == 0 {
        return;
    }
    check(out.len(), m, n, out_stride, 1);
    assert!(out_stride >= n || m == 1, "rows of a product overlap");
    // SAFETY: `Mat` can only be built over a slice that holds its last element (`check`), strides are not negative, and
    // transposing keeps the same set of elements; the same check was just made for `out`, which is borrowed mutably
    // and so overlaps neither input. Rows of `out` do not overlap.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            if add { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_and_transposed_views_multiply_as_written_by_hand() {
        // a: [2, 3] inside rows of 4; b: [3, 2]
        let a = [1.0, 2.0, 3.0, 99.0, 4.0, 5.0, 6.0, 99.0];
        let b = [1.0, 0.5, -1.0, 2.0, 0.0, 1.0];
        let mut out = [7.0; 6];
        matmul(&mut out, 3, Mat::strided(&a, 2, 3, 4), Mat::new(&b, 3, 2), false);
        assert_eq!(out, [-1.0, 7.5, 7.0, -1.0, 18.0, 7.0]);
        matmul(&mut out, 3, Mat::new(&b, 3, 2).t(), Mat::strided(&a, 2, 3, 4).t(), true);
        assert_eq!(out, [-2.0, 6.5, 7.0, 6.5, 36.0, 7.0]);
    }

    #[test]
    #[should_panic(expected = "matrix [2, 3]")]
    fn a_view_past_the_end_is_refused() {
        let _ = Mat::strided(&[0.0; 6], 2, 3, 4);
    }
}
