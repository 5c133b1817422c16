//! Element-wise and row-wise loops on plain slices, compiled for the widest vectors of the machine they run on.
//!
//! Every row is computed from itself alone: the result does not depend on which rows lie beside it.

/// Declares a function whose body is compiled once per instruction set and dispatched at run time.
macro_rules! vectorised {
    ($(#[$doc:meta])* pub fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        pub fn $name<'a>($($arg: $ty),*) $(-> $ret)? {
            struct Call<'a> { $($arg: $ty,)* marker: std::marker::PhantomData<&'a ()> }
            impl<'a> pulp::NullaryFnOnce for Call<'a> {
                type Output = ret_type!($($ret)?);
                #[inline(always)]
                fn call(self) -> Self::Output {
                    let Self { $($arg,)* marker: _ } = self;
                    $body
                }
            }
            pulp::Arch::new().dispatch(Call { $($arg,)* marker: std::marker::PhantomData })
        }
    };
}
macro_rules! ret_type {
    () => {
        ()
    };
    ($ret:ty) => {
        $ret
    };
}
pub(crate) use {ret_type, vectorised};

/// `e^x` to about 2 units in the last place (Cephes' polynomial), NaN for NaN, for `x` of at most 88; below -87 it stays at `e^-87`.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer, which is then in the low bits
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    y * f32::from_bits(exponent)
}

const LANES: usize = 16;

/// The largest of a row.
#[inline(always)]
pub fn max_of(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let mut top = f32::NEG_INFINITY;
    for x in chunks.remainder() {
        top = top.max(*x);
    }
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    lanes.iter().fold(top, |a, b| a.max(*b))
}

/// Sum of `f(i)` over a row of `len`, in lanes.
#[inline(always)]
fn sum_of(len: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let whole = len / LANES * LANES;
    let mut i = 0;
    while i < whole {
        for (j, lane) in lanes.iter_mut().enumerate() {
            *lane += f(i + j);
        }
        i += LANES;
    }
    let mut sum = 0.0;
    while i < len {
        sum += f(i);
        i += 1;
    }
    lanes.iter().fold(sum, |a, b| a + b)
}

/// Replaces `row` by its exponentials and returns their sum in f64.
#[inline(always)]
pub fn exp_row(row: &mut [f32], subtract: f32, scale: f32) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let mut chunks = row.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *x = exp((*x - subtract) * scale);
            *lane += f64::from(*x);
        }
    }
    let mut sum = 0.0;
    for x in chunks.into_remainder() {
        *x = exp((*x - subtract) * scale);
        sum += f64::from(*x);
    }
    lanes.iter().fold(sum, |a, b| a + b)
}

vectorised! {
    /// Replaces `row` by its exponentials and returns their sum in f64.
    pub fn exp_sum_in_place(row: &'a mut [f32]) -> f64 {
        exp_row(row, 0.0, 1.0)
    }
}

vectorised! {
    /// Replaces each row of `width` by `exp(scale * (x - max))`; `stats` gets the row's maximum (unscaled) and the f64 sum.
    pub fn softmax_parts(rows: &'a mut [f32], width: usize, scale: f32, stats: &'a mut Vec<(f32, f64)>) {
        stats.clear();
        for row in rows.chunks_exact_mut(width) {
            let max = max_of(row);
            let sum = exp_row(row, max, scale);
            stats.push((max, sum));
        }
    }
}

vectorised! {
    /// Causal softmax of `rows.len() / width` score rows; row `i` sees its first `first + i` columns, the rest becomes 0.
    /// `lse[i * lse_stride]` gets `log sum exp` of the scaled scores.
    pub fn causal_softmax(
        rows: &'a mut [f32],
        width: usize,
        first: usize,
        scale: f32,
        lse: &'a mut [f32],
        lse_stride: usize,
    ) {
        for (i, row) in rows.chunks_exact_mut(width).enumerate() {
            let (seen, hidden) = row.split_at_mut(first + i);
            let max = max_of(seen);
            let sum = exp_row(seen, max, scale);
            let inv = (1.0 / sum) as f32;
            for x in seen.iter_mut() {
                *x *= inv;
            }
            hidden.fill(0.0);
            lse[i * lse_stride] = (f64::from(max * scale) + sum.ln()) as f32;
        }
    }
}

vectorised! {
    /// The same probabilities again from the scores and the saved `lse`.
    pub fn causal_softmax_again(
        rows: &'a mut [f32],
        width: usize,
        first: usize,
        scale: f32,
        lse: &'a [f32],
        lse_stride: usize,
    ) {
        for (i, row) in rows.chunks_exact_mut(width).enumerate() {
            let (seen, hidden) = row.split_at_mut(first + i);
            let shift = lse[i * lse_stride];
            for x in seen.iter_mut() {
                *x = exp(*x * scale - shift);
            }
            hidden.fill(0.0);
        }
    }
}

vectorised! {
    /// `ds = p * (dp - delta[row]) * scale`, into `dp`.
    pub fn softmax_backward(dp: &'a mut [f32], p: &'a [f32], width: usize, scale: f32, delta: &'a [f32]) {
        for ((dp, p), delta) in dp.chunks_exact_mut(width).zip(p.chunks_exact(width)).zip(delta) {
            for (dp, p) in dp.iter_mut().zip(p) {
                *dp = *p * (*dp - *delta) * scale;
            }
        }
    }
}

vectorised! {
    /// `delta[r] = a_r . b_r` of rows `stride` apart.
    pub fn row_dots(a: &'a [f32], b: &'a [f32], stride: usize, width: usize, delta: &'a mut [f32]) {
        for (r, d) in delta.iter_mut().enumerate() {
            let (a, b) = (&a[r * stride..][..width], &b[r * stride..][..width]);
            *d = sum_of(width, |i| a[i] * b[i]);
        }
    }
}

vectorised! {
    /// RMSNorm of groups of `width` neighbours: `y = x * inv * w`, `inv = 1 / sqrt(mean(x^2) + eps)`.
    pub fn rms_norm(y: &'a mut [f32], inv: &'a mut [f32], x: &'a [f32], w: &'a [f32], eps: f32) {
        let width = w.len();
        for ((y, x), inv) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(inv) {
            *inv = 1.0 / (sum_of(width, |i| x[i] * x[i]) / width as f32 + eps).sqrt();
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                *y = *x * *inv * *w;
            }
        }
    }
}

vectorised! {
    /// Gradient of `rms_norm`: `dx += inv w dy - x inv^3 mean(x w dy)`, `dw += sum over rows of dy x inv`.
    pub fn rms_norm_backward(
        dx: &'a mut [f32],
        dw: &'a mut [f32],
        dy: &'a [f32],
        x: &'a [f32],
        inv: &'a [f32],
        w: &'a [f32],
    ) {
        let width = w.len();
        for (((dx, dy), x), inv) in
            dx.chunks_exact_mut(width).zip(dy.chunks_exact(width)).zip(x.chunks_exact(width)).zip(inv)
        {
            let mean = sum_of(width, |i| x[i] * w[i] * dy[i]) / width as f32;
            let pull = mean * *inv * *inv * *inv;
            for i in 0..width {
                dx[i] += *inv * w[i] * dy[i] - x[i] * pull;
                dw[i] += dy[i] * x[i] * *inv;
            }
        }
    }
}

vectorised! {
    /// Turns the heads at the start of each row (`stride` elements) by the row's angles (`cos`, `sin`: `[rows, dim / 2]`);
    /// `sign = -1` turns back, which is the gradient.
    pub fn rotate(rows: &'a mut [f32], stride: usize, heads: usize, dim: usize, cos: &'a [f32], sin: &'a [f32], sign: f32) {
        let half = dim / 2;
        for (r, row) in rows.chunks_exact_mut(stride).enumerate() {
            let (cos, sin) = (&cos[r * half..][..half], &sin[r * half..][..half]);
            for head in row[..heads * dim].chunks_exact_mut(dim) {
                let (a, b) = head.split_at_mut(half);
                for i in 0..half {
                    let (x, y, s) = (a[i], b[i], sin[i] * sign);
                    a[i] = x * cos[i] - y * s;
                    b[i] = y * cos[i] + x * s;
                }
            }
        }
    }
}

vectorised! {
    /// `out = silu(gate) * up` for rows `[gate | up]` of `2 * ff`.
    pub fn swiglu(out: &'a mut [f32], gate_up: &'a [f32], ff: usize) {
        for (out, row) in out.chunks_exact_mut(ff).zip(gate_up.chunks_exact(2 * ff)) {
            let (gate, up) = row.split_at(ff);
            for ((o, g), u) in out.iter_mut().zip(gate).zip(up) {
                *o = *g / (1.0 + exp(-*g)) * *u;
            }
        }
    }
}

vectorised! {
    /// Gradient of `swiglu`, written over `gate_up`.
    pub fn swiglu_backward(gate_up: &'a mut [f32], d_out: &'a [f32], ff: usize) {
        for (d, row) in d_out.chunks_exact(ff).zip(gate_up.chunks_exact_mut(2 * ff)) {
            let (gate, up) = row.split_at_mut(ff);
            for ((d, g), u) in d.iter().zip(gate).zip(up) {
                let s = 1.0 / (1.0 + exp(-*g));
                let silu = *g * s;
                let d_gate = *d * *u * (s + silu * (1.0 - s));
                *u = *d * silu;
                *g = d_gate;
            }
        }
    }
}

vectorised! {
    /// `a += b`.
    pub fn add_assign(a: &'a mut [f32], b: &'a [f32]) {
        for (a, b) in a.iter_mut().zip(b) {
            *a += *b;
        }
    }
}

vectorised! {
    /// Adds `bias` to every row.
    pub fn add_bias(rows: &'a mut [f32], bias: &'a [f32]) {
        for row in rows.chunks_exact_mut(bias.len()) {
            for (x, b) in row.iter_mut().zip(bias) {
                *x += *b;
            }
        }
    }
}

vectorised! {
    /// Adds every row to `sum`.
    pub fn sum_rows(sum: &'a mut [f32], rows: &'a [f32]) {
        for row in rows.chunks_exact(sum.len()) {
            for (s, x) in sum.iter_mut().zip(row) {
                *s += *x;
            }
        }
    }
}

/// `cos` and `sin`, `[positions, frequencies]` each, for `rotate`.
pub fn angles(positions: &[u32], frequencies: &[f32], scale: f32, cos: &mut Vec<f32>, sin: &mut Vec<f32>) {
    cos.clear();
    sin.clear();
    for p in positions {
        for f in frequencies {
            let (s, c) = (*p as f32 * f).sin_cos();
            cos.push(c * scale);
            sin.push(s * scale);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere_and_keeps_nan() {
        let mut worst = 0.0f64;
        for i in -8_700..=8_800 {
            let x = i as f32 * 0.01;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 3e-7, "worst relative error {worst}");
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-1e9) < 1e-37);
    }

    #[test]
    fn a_row_with_a_nan_has_a_nan_sum() {
        let mut row = [0.0f32; 40];
        row[20] = f32::NAN;
        assert!(exp_sum_in_place(&mut row).is_nan());
    }
}
