//! A tuner on a GPU chooses by what it measures.

use super::*;

/// The first configuration does everything thirty times.
const TUNED: &str = "\
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.autotune(configs=[triton.Config({'TIMES': 30}), triton.Config({'TIMES': 1})], key=['n'])
@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n, TIMES: tl.constexpr):
    offs = tl.program_id(0) * 1024 + tl.arange(0, 1024)
    for _ in range(TIMES):
        x = tl.load(x_ptr + offs, mask=offs < n, volatile=True)
        y = tl.load(y_ptr + offs, mask=offs < n, volatile=True)
        tl.store(out_ptr + offs, x + 2 * y, mask=offs < n)


class ModelNew(nn.Module):
    def forward(self, x, y):
        x, y = x.contiguous(), y.contiguous()
        out = torch.empty_like(x)
        add_kernel[(triton.cdiv(x.numel(), 1024),)](x, y, out, x.numel())
        return out
";

/// Planted: the interpreter's stand-in for `do_bench`, for which all take as long, stays where kernels run (as it was). Seen: the
/// first configuration is chosen, many times slower than the reference.
#[test]
fn a_tuner_measures() {
    if !matches!(host().0, Kind::Cuda(_)) {
        return;
    }
    runtime().block_on(async {
        let Some(lab) = lab(1, true).await else { return };
        let report = lab.evaluate(0, ADD_TASK, TUNED).await.expect("no fault");
        assert!(matches!(report.outcome, Outcome::Passed { speedup: Some(s) } if s > 0.5), "{:?}", report.outcome);
        lab.end().await;
    });
}
