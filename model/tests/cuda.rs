//! Products on a GPU against the CPU's. Without a GPU, a driver or cuBLASLt every test says so and passes.
//!
//!     cargo test --release -p model --features cuda --test cuda -- --nocapture
//!     cargo test --release -p model --features cuda --test cuda -- --ignored --nocapture
//!
//! The second prints speeds, beside those of burn's own product in the same process.
#![cfg(feature = "cuda")]

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use burn::tensor::{DType, Distribution, FloatDType, Tensor, TensorData};
use model::kernels::{cuda, linear};
use model::{Cpu, CpuInner, Gpu, GpuInner};

/// The switch for TF32 and the list of refusals are the process's.
static ONE: Mutex<()> = Mutex::new(());

fn gpu() -> Option<MutexGuard<'static, ()>> {
    match cuda::available() {
        Ok(count) => println!("{count} GPUs"),
        Err(reason) => {
            println!("skipped: {reason}");
            return None;
        }
    }
    Some(ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

fn random(shape: [usize; 2]) -> Tensor<CpuInner, 2> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Default::default())
}

fn to_gpu(x: &Tensor<CpuInner, 2>, dtype: FloatDType) -> Tensor<GpuInner, 2> {
    Tensor::<GpuInner, 2>::from_data(x.to_data(), &Default::default()).cast(dtype)
}

fn values(data: TensorData) -> Vec<f32> {
    data.iter::<f32>().collect()
}

fn close(what: &str, found: TensorData, expected: TensorData, absolute: f32, relative: f32) {
    assert_eq!(found.shape, expected.shape, "{what}");
    let (found, expected) = (values(found), values(expected));
    let worst = found.iter().zip(&expected).map(|(f, e)| ((f - e).abs(), *e)).max_by(|a, b| a.0.total_cmp(&b.0));
    println!("{what}: largest difference and its value {worst:?}");
    for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
        assert!((f - e).abs() <= absolute + relative * e.abs(), "{what}: element {i} is {f}, expected {e}");
    }
}

fn nothing_refused() {
    let refused = cuda::refused();
    assert!(refused.is_empty(), "burn computed in cuBLASLt's place: {refused:#?}");
}

/// Odd sizes (padded rows, addresses that are not multiples of 16 bytes), one row, one column, and a real layer.
const SHAPES: [[usize; 3]; 8] =
    [[1, 1, 1], [1, 64, 32], [64, 64, 64], [33, 17, 9], [5, 96, 1], [129, 1000, 77], [3, 1024, 2048], [512, 1024, 768]];

/// Factors as they lie, transposed, and as pieces of larger ones.
fn every_layout(dtype: FloatDType, absolute: f32, relative: f32) {
    for [m, k, n] in SHAPES {
        // Rounded to the type first, so that both sides multiply the same numbers.
        let round = |x: Tensor<CpuInner, 2>| x.cast(dtype).cast(FloatDType::F32);
        let (wide, tall) = (round(random([m, k + 8])), round(random([k, n])));
        let piece = |x: Tensor<CpuInner, 2>| x.narrow(1, 3, k);
        let expected = piece(wide.clone()).matmul(tall.clone()).to_data();
        let (x, w) = (to_gpu(&piece(wide.clone()), dtype), to_gpu(&tall, dtype));
        let x_t = to_gpu(&piece(wide.clone()).transpose(), dtype).transpose();
        let w_t = to_gpu(&tall.clone().transpose(), dtype).transpose();
        let x_piece = to_gpu(&wide, dtype).narrow(1, 3, k);
        for (name, x) in [("dense", x), ("transposed", x_t), ("piece", x_piece)] {
            for (other, w) in [("dense", w.clone()), ("transposed", w_t.clone())] {
                let what = format!("{dtype:?} {m}x{k}x{n} {name} by {other}");
                let found = linear(x.clone(), w);
                assert_eq!(found.dtype(), DType::from(dtype), "{what}");
                close(&what, found.cast(FloatDType::F32).into_data(), expected.clone(), absolute, relative);
            }
        }
    }
}

/// 5e-4 would not hold for TF32, which is off.
#[test]
fn single_precision() {
    let Some(_guard) = gpu() else { return };
    every_layout(FloatDType::F32, 5e-4, 0.0);
    nothing_refused();
}

#[test]
fn bf16_with_sums_in_single_precision() {
    let Some(_guard) = gpu() else { return };
    every_layout(FloatDType::BF16, 2e-2, 5e-3);
    nothing_refused();
}

#[test]
fn tf32_is_a_switch() {
    let Some(_guard) = gpu() else { return };
    let (x, w) = (random([256, 1024]), random([1024, 256]));
    let expected = x.clone().matmul(w.clone()).to_data();
    cuda::allow_tf32(true);
    let found = linear(to_gpu(&x, FloatDType::F32), to_gpu(&w, FloatDType::F32)).into_data();
    cuda::allow_tf32(false);
    close("tf32", found, expected, 0.2, 0.0);
    nothing_refused();
}

#[test]
fn gradients() {
    let Some(_guard) = gpu() else { return };
    let (x, w, signs) = (random([96, 160]), random([160, 112]), random([96, 112]));
    let cpu = |t: &Tensor<CpuInner, 2>| Tensor::<Cpu, 2>::from_inner(t.clone());
    let on_gpu = |t: &Tensor<CpuInner, 2>| Tensor::<Gpu, 2>::from_inner(to_gpu(t, FloatDType::F32));
    let (cx, cw) = (cpu(&x).require_grad(), cpu(&w).require_grad());
    let expected = (linear(cx.clone(), cw.clone()) * cpu(&signs)).sum().backward();
    let (gx, gw) = (on_gpu(&x).require_grad(), on_gpu(&w).require_grad());
    let found = (linear(gx.clone(), gw.clone()) * on_gpu(&signs)).sum().backward();
    for (name, found, expected) in
        [("dX", gx.grad(&found), cx.grad(&expected)), ("dW", gw.grad(&found), cw.grad(&expected))]
    {
        let (found, expected) = (found.expect("a gradient"), expected.expect("a gradient"));
        close(name, found.into_data(), expected.into_data(), 5e-4, 0.0);
    }
    nothing_refused();
}

/// A chain whose every product needs what burn computed just before, and whose buffers are reused at once: a product that
/// does not wait, or is not waited for, shows.
fn chain<B: model::kernels::Kernels>(x: Tensor<B, 2>, w: Tensor<B, 2>) -> TensorData {
    let mut y = x;
    for i in 0..64 {
        let scale = 1.0 / (w.dims()[0] as f64).sqrt();
        // Nothing that a GPU rounds in its own way: differences would grow along the chain.
        y = linear(y, w.clone()).mul_scalar(scale).add_scalar(f64::from(i % 3) * 0.01).clamp(-1.0, 1.0);
    }
    y.into_data()
}

#[test]
fn products_keep_their_place_among_burns_kernels() {
    let Some(_guard) = gpu() else { return };
    let (x, w) = (random([256, 512]), random([512, 512]));
    let expected = chain(x.clone(), w.clone());
    let shared = to_gpu(&w, FloatDType::F32);
    // Each thread has a stream of its own in cubecl; the weights come from this one's.
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (x, w, expected) = (x.clone(), shared.clone(), expected.clone());
            scope.spawn(move || {
                for round in 0..4 {
                    let found = chain(to_gpu(&x, FloatDType::F32), w.clone());
                    close(&format!("thread {thread} round {round}"), found, expected.clone(), 2e-3, 0.0);
                }
            });
        }
    });
    nothing_refused();
}

/// The device-side time of `calls`, by the wall clock: the last result is read.
fn seconds(mut call: impl FnMut() -> Tensor<GpuInner, 2>, calls: usize) -> f64 {
    let read = |y: Tensor<GpuInner, 2>| y.slice([0..1, 0..1]).cast(FloatDType::F32).into_data();
    for _ in 0..3 {
        read(call());
    }
    let start = Instant::now();
    for _ in 1..calls {
        call();
    }
    read(call());
    start.elapsed().as_secs_f64() / calls as f64
}

#[test]
#[ignore = "a measurement"]
fn speed_beside_burns_own() {
    let Some(_guard) = gpu() else { return };
    // Qwen3-0.6B, 4 x 1024 tokens: q k v, attention's output, gate and up, down, the head.
    let shapes: [(&str, [usize; 3]); 6] = [
        ("8192^3", [8192, 8192, 8192]),
        ("qkv", [4096, 1024, 4096]),
        ("output", [4096, 2048, 1024]),
        ("gate_up", [4096, 1024, 6144]),
        ("down", [4096, 3072, 1024]),
        ("head", [4096, 1024, 151_936]),
    ];
    println!("TFLOP/s: shape, type, cuBLASLt forward, dX, dW, burn forward");
    for dtype in [FloatDType::BF16, FloatDType::F32] {
        for (name, [m, k, n]) in shapes {
            let device = Default::default();
            let new = |shape| Tensor::<GpuInner, 2>::random(shape, Distribution::Default, &device).cast(dtype);
            let (x, w, dy) = (new([m, k]), new([k, n]), new([m, n]));
            let calls = if m * k * n > 1 << 36 { 20 } else { 100 };
            let speed = |time: f64| 2.0 * (m * k * n) as f64 / time / 1e12;
            let forward = speed(seconds(|| linear(x.clone(), w.clone()), calls));
            let dx = speed(seconds(|| linear(dy.clone(), w.clone().transpose()), calls));
            let dw = speed(seconds(|| linear(x.clone().transpose(), dy.clone()), calls));
            let burns = speed(seconds(|| x.clone().matmul(w.clone()), calls.min(20)));
            println!("{name} {dtype:?} {forward:.0} {dx:.0} {dw:.0} {burns:.0}");
        }
    }
    nothing_refused();
}
