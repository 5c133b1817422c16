//! `linear` under burn's autodiff against burn's own product and its own gradients.

use burn::tensor::{Distribution, Tensor, Tolerance};

use super::layout::Layout;
use super::linear;
use crate::{Cpu, CpuInner};

fn random<const D: usize>(shape: [usize; D]) -> Tensor<Cpu, D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Default::default())
}

fn close<const D: usize>(found: Tensor<CpuInner, D>, expected: Tensor<CpuInner, D>) {
    assert_eq!(found.dims(), expected.dims());
    found.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-6));
}

/// Value and both gradients of `sum(y * s)`; `view` makes a factor from a leaf, so gradients pass through it too.
fn compare<const D: usize>(
    x: Tensor<Cpu, D>,
    w: Tensor<Cpu, 2>,
    view_x: impl Fn(Tensor<Cpu, D>) -> Tensor<Cpu, D>,
    view_w: impl Fn(Tensor<Cpu, 2>) -> Tensor<Cpu, 2>,
) {
    let (x, w) = (x.require_grad(), w.require_grad());
    let ours = linear(view_x(x.clone()), view_w(w.clone()));
    let [width, out] = view_w(w.clone()).dims();
    let flat = view_x(x.clone());
    let rows = flat.shape().num_elements() / width;
    let burns = flat.reshape([rows, width]).matmul(view_w(w.clone())).reshape(ours.dims());
    assert_eq!(ours.dims()[D - 1], out);
    let signs: Tensor<Cpu, D> = random(ours.dims());
    let ours_grads = (ours.clone() * signs.clone()).sum().backward();
    let burns_grads = (burns.clone() * signs).sum().backward();
    close(ours.inner(), burns.inner());
    for (leaf, name) in [(x.grad(&ours_grads).is_some(), "x"), (w.grad(&ours_grads).is_some(), "w")] {
        assert!(leaf, "no gradient of {name}");
    }
    close(x.grad(&ours_grads).expect("checked"), x.grad(&burns_grads).expect("burn has it"));
    close(w.grad(&ours_grads).expect("checked"), w.grad(&burns_grads).expect("burn has it"));
}

#[test]
fn values_and_gradients_are_burns() {
    for [rows, width, out] in [[1, 1, 1], [1, 5, 3], [7, 1, 4], [33, 17, 9], [64, 48, 80], [5, 96, 1]] {
        compare(random([rows, width]), random([width, out]), |x| x, |w| w);
    }
}

#[test]
fn views_and_more_axes() {
    // Transposed factors: the head tied to the embedding is one.
    compare(random([6, 9]), random([4, 6]), |x| x.transpose(), |w| w.transpose());
    // A piece of wider rows: not dense.
    compare(random([8, 30]), random([10, 7]), |x| x.narrow(1, 3, 10), |w| w);
    compare(random([8, 10]), random([20, 14]), |x| x, |w| w.narrow(0, 5, 10).narrow(1, 2, 7));
    compare(random([2, 5, 12]), random([12, 3]), |x| x, |w| w);
    compare(random([5, 2, 12]), random([3, 12]), |x| x.swap_dims(0, 1), |w| w.transpose());
    compare(random([2, 3, 2, 4]), random([4, 6]), |x| x, |w| w);
}

/// Where one factor needs no gradient, none is computed for it and the other's is right.
#[test]
fn one_factor_tracked() {
    let (x, w): (Tensor<Cpu, 2>, Tensor<Cpu, 2>) = (random([4, 6]), random([6, 5]));
    let tracked = w.clone().require_grad();
    let grads = linear(x.clone(), tracked.clone()).sum().backward();
    let ones = Tensor::<Cpu, 2>::ones([4, 5], &Default::default());
    close(tracked.grad(&grads).expect("tracked"), x.clone().transpose().matmul(ones.clone()).inner());
    let tracked = x.clone().require_grad();
    let grads = linear(tracked.clone(), w.clone()).sum().backward();
    close(tracked.grad(&grads).expect("tracked"), ones.matmul(w.transpose()).inner());
}

#[test]
fn layouts() {
    let row = |step| Some(Layout { transposed: false, step });
    let column = |step| Some(Layout { transposed: true, step });
    assert_eq!(Layout::of([4, 6], [6, 1]), row(6));
    assert_eq!(Layout::of([4, 6], [16, 1]), row(16), "padded rows");
    assert_eq!(Layout::of([4, 6], [1, 4]), column(4));
    assert_eq!(Layout::of([4, 6], [1, 9]), column(9));
    assert_eq!(Layout::of([1, 6], [999, 1]), row(6), "one row: its stride says nothing");
    assert_eq!(Layout::of([1, 6], [1, 1]), row(6));
    assert_eq!(Layout::of([4, 1], [7, 3]), row(7), "one column");
    assert_eq!(Layout::of([4, 1], [1, 4]), row(1));
    assert_eq!(Layout::of([1, 1], [0, 0]), row(1));
    assert_eq!(Layout::of([1, 6], [1, 8]), column(8), "one row of a transposed, padded matrix");
    assert_eq!(Layout::of([4, 6], [12, 2]), None, "every second column");
    assert_eq!(Layout::of([4, 6], [0, 1]), None, "one row, repeated");
    assert_eq!(Layout::of([4, 6], [1, 0]), None);
    assert_eq!(Layout { transposed: false, step: 16 }.extent([4, 6]), 54);
    assert_eq!(Layout { transposed: true, step: 4 }.extent([4, 6]), 24);
}

/// What cuBLASLt is told, computed here: column by column, `out^T = op(rhs) op(lhs)`, `op` a transposition where the layout
/// says `transposed`.
#[test]
fn a_blas_told_so_gives_the_product() {
    let number = |row: usize, col: usize| (row * 31 + col * 17) as f32 % 7.0 - 3.0;
    let store = |layout: Layout, shape: [usize; 2]| {
        let mut memory = vec![f32::NAN; layout.extent(shape)];
        for (r, c) in (0..shape[0]).flat_map(|r| (0..shape[1]).map(move |c| (r, c))) {
            memory[if layout.transposed { c * layout.step + r } else { r * layout.step + c }] = number(r, c);
        }
        memory
    };
    for ([m, k, n], padding) in [([3, 5, 4], 0), ([3, 5, 4], 3), ([1, 6, 2], 0), ([4, 1, 3], 1), ([2, 3, 1], 2)] {
        for (left, right) in [(false, false), (false, true), (true, false), (true, true)] {
            let layout = |transposed, [rows, cols]: [usize; 2]| {
                let strides = if transposed { [1, rows + padding] } else { [cols + padding, 1] };
                Layout::of([rows, cols], strides).expect("dense")
            };
            let (lhs, rhs, out) = (layout(left, [m, k]), layout(right, [k, n]), layout(false, [m, n]));
            let (a, b) = (store(rhs, [k, n]), store(lhs, [m, k]));
            // An operand of a column-major BLAS: element (i, j) of `op`.
            let op = |memory: &[f32], layout: Layout, shape, i: usize, j: usize| {
                let (i, j) = if layout.transposed { (j, i) } else { (i, j) };
                let [rows, columns] = layout.columns(shape);
                assert!(i < rows && j < columns);
                memory[j * layout.step + i]
            };
            let [rows, columns] = out.columns([m, n]);
            assert_eq!([rows, columns], [n, m]);
            for (i, j) in (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))) {
                let sum: f32 = (0..k).map(|l| op(&a, rhs, [k, n], i, l) * op(&b, lhs, [m, k], l, j)).sum();
                let expected: f32 = (0..k).map(|l| number(j, l) * number(l, i)).sum();
                assert_eq!(sum, expected, "{m}x{k}x{n} {left} {right} row {j} column {i}");
            }
        }
    }
}
