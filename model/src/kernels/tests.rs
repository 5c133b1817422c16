//! `linear` under burn's autodiff against burn's own product and its own gradients.

use burn::tensor::{Distribution, Tensor, Tolerance, backend::AutodiffBackend};

use super::layout::Layout;
use super::linear;
use crate::Cpu;

type Inner = <Cpu as AutodiffBackend>::InnerBackend;

fn random<const D: usize>(shape: [usize; D]) -> Tensor<Cpu, D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Default::default())
}

fn close<const D: usize>(found: Tensor<Inner, D>, expected: Tensor<Inner, D>) {
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
