//! What must pass, and what a report says about it.

use rollout::outcome::Outcome;

use crate::fixtures::*;
use crate::lab_or_skip;

const PASSED: Outcome = Outcome::Passed { speedup: None };

#[test]
fn an_elementwise_kernel_passes_with_a_full_report() {
    let report = lab_or_skip!().evaluate(ADD_TASK, &add()).unwrap();
    assert_eq!(report.outcome, PASSED);
    assert_eq!((report.kernelbench_1e2, report.kernelbench_1e4), (Some(true), Some(true)));
    // A last bit of the largest values that are drawn, some hundreds.
    assert!(report.max_abs_error.unwrap() < 1e-4, "{:?}", report.max_abs_error);
    assert_eq!(report.launches.len(), 1);
    assert_eq!((report.launches[0].kernel.as_str(), report.launches[0].grid), ("add_kernel", [4, 1, 1]));
    for phase in ["import", "compile", "run", "reference", "compare", "total"] {
        assert!(report.phase_ms[phase] > 0.0, "{phase}");
    }
    assert_eq!(report.protocol, sandbox::protocol_digest());
    assert!(!report.reused);
}

#[test]
fn reductions_matmuls_and_weights_pass() {
    let lab = lab_or_skip!();
    assert_eq!(lab.outcome(SOFTMAX_TASK, SOFTMAX), PASSED);
    assert_eq!(lab.outcome(LINEAR_TASK, LINEAR), PASSED);
}

#[test]
fn weights_under_other_names_are_matched_by_shape() {
    // The reference's are `norm.weight` and `norm.bias`; here both have one shape, so order decides.
    let lab = lab_or_skip!();
    assert_eq!(lab.outcome(NORM_TASK, &norm("v * tl.load(w + at) + tl.load(b + at)")), PASSED);
}

#[test]
fn the_known_good_candidate_passes() {
    let lab = lab_or_skip!();
    let (task, good) = sandbox::doctor::known_good();
    assert_eq!(lab.outcome(&task.source, &good.source), PASSED);
}

#[test]
fn libdevice_device_functions_and_autotune_work() {
    let task = "import torch
class Model(torch.nn.Module):
    def forward(self, x):
        return torch.tanh(x) * torch.erf(x)
def get_inputs():
    return [torch.randn(512)]
";
    let candidate = format!(
        "{HEAD}from triton.language.extra import libdevice

@triton.jit
def both(v):
    return libdevice.tanh(v) * tl.math.erf(v)

@triton.autotune(configs=[triton.Config({{'BLOCK': 64}}, num_warps=2), triton.Config({{'BLOCK': 128}})], key=['n'])
@triton.jit
def kernel(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, both(tl.load(x + at, mask=at < n)), mask=at < n)

class ModelNew(torch.nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        kernel[lambda meta: (triton.cdiv(x.numel(), meta['BLOCK']),)](x, out, x.numel())
        return out
"
    );
    assert_eq!(lab_or_skip!().outcome(task, &candidate), PASSED);
}

#[test]
fn cuda_idioms_run() {
    let body = "\
assert torch.cuda.is_available()
with torch.cuda.device(x.device):
    out = torch.zeros(x.shape, device='cuda', dtype=x.dtype)
y = y.to('cuda').cuda().contiguous()
add_kernel[(triton.cdiv(x.numel(), 256),)](x, y, out, x.numel(), BLOCK=256)
torch.cuda.synchronize()
return out.to(x.device)";
    assert_eq!(lab_or_skip!().outcome(ADD_TASK, &add_with("", body)), PASSED);
}

#[test]
fn several_outputs_integers_and_half_precision() {
    let task = "import torch
class Model(torch.nn.Module):
    def forward(self, x):
        v, i = torch.max(x, dim=1)
        return v.half(), i
def get_inputs():
    return [torch.randn(8, 64)]
";
    let candidate = format!(
        "{HEAD}
@triton.jit
def kernel(x, v, i, n, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    a = tl.load(x + row * n + at, mask=at < n, other=-float('inf'))
    tl.store(v + row, tl.max(a, axis=0).to(tl.float16))
    tl.store(i + row, tl.argmax(a, axis=0))

class ModelNew(torch.nn.Module):
    def forward(self, x):
        v = torch.empty(x.shape[0], device=x.device, dtype=torch.float16)
        i = torch.empty(x.shape[0], device=x.device, dtype=torch.int64)
        kernel[(x.shape[0],)](x, v, i, x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]))
        return v, i
"
    );
    assert_eq!(lab_or_skip!().outcome(task, &candidate), PASSED);
}

#[test]
fn what_it_prints_is_kept_as_a_log() {
    let report =
        lab_or_skip!().evaluate(ADD_TASK, &add_with("print('hello from import')", "return add(x, y)")).unwrap();
    assert_eq!(report.outcome, PASSED);
    assert!(report.log_tail.contains("hello from import"), "{}", report.log_tail);
}

/// Planted: Triton's own cast (as it was). Seen: a flag's or a number's value taken for the bits of a bfloat16, an honest kernel blamed.
#[test]
fn integers_and_flags_become_bfloat16() {
    let task = "import torch
class Model(torch.nn.Module):
    def forward(self, x):
        return (x > 0).to(torch.bfloat16) * x, torch.arange(100, 100 + x.numel(), dtype=torch.int32).to(torch.bfloat16), x.double().to(torch.bfloat16)
def get_inputs():
    return [torch.randn(16, 8, dtype=torch.bfloat16)]
";
    let candidate = format!(
        "{HEAD}
@triton.jit
def kernel(x, y, z, w, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < n, other=0.0).to(tl.float32)
    keep = (v > 0).to(tl.bfloat16)
    tl.store(y + at, (v * keep.to(tl.float32)).to(tl.bfloat16), mask=at < n)
    tl.store(z + at, (at + 100).to(tl.bfloat16), mask=at < n)
    tl.store(w + at, v.to(tl.float64).to(tl.bfloat16), mask=at < n)

class ModelNew(torch.nn.Module):
    def forward(self, x):
        y, w = torch.empty_like(x), torch.empty_like(x)
        z = torch.empty(x.numel(), device=x.device, dtype=x.dtype)
        kernel[(triton.cdiv(x.numel(), 64),)](x, y, z, w, x.numel(), BLOCK=64)
        return y, z, w
"
    );
    assert_eq!(lab_or_skip!().outcome(task, &candidate), PASSED);
}
