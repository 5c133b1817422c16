//! How a matrix lies in memory, in the words of a BLAS.

/// One axis lies densely, the other in steps of `step` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Columns lie densely, not rows: a transposed view.
    pub transposed: bool,
    /// Elements from one dense line to the next: the leading dimension.
    pub step: usize,
}

impl Layout {
    /// None where neither axis is dense or lines overlap (a broadcast view): a BLAS cannot read that.
    ///
    /// The stride of an axis of length one says nothing: burn leaves there what it had.
    pub fn of([rows, cols]: [usize; 2], [row_stride, col_stride]: [usize; 2]) -> Option<Self> {
        let dense = |lines: usize, length: usize, step: usize, stride: usize| {
            let step = if lines == 1 { length } else { step };
            ((stride == 1 || length == 1) && step >= length).then_some(step)
        };
        if let Some(step) = dense(rows, cols, row_stride, col_stride) {
            return Some(Self { transposed: false, step });
        }
        dense(cols, rows, col_stride, row_stride).map(|step| Self { transposed: true, step })
    }

    /// The matrix as a BLAS reads the same memory, column by column: its rows and columns there. Dense rows become columns, so
    /// what is not `transposed` is read transposed.
    pub fn columns(self, [rows, cols]: [usize; 2]) -> [usize; 2] {
        if self.transposed { [rows, cols] } else { [cols, rows] }
    }

    /// Elements from the first to past the last.
    pub fn extent(self, shape: [usize; 2]) -> usize {
        let [length, lines] = self.columns(shape);
        (lines - 1) * self.step + length
    }
}
