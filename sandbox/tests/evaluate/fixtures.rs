//! Honest tasks and candidates that other tests bend.

pub const HEAD: &str = "import os, sys, time, signal, ctypes, struct, subprocess, threading\nimport torch\nimport triton\nimport triton.language as tl\n";

pub const ADD_TASK: &str = "\
import torch

class Model(torch.nn.Module):
    def forward(self, x, y):
        return x + 2 * y

def get_inputs():
    return [torch.randn(8, 128), torch.randn(8, 128)]

def get_init_inputs():
    return []
";

pub const ADD_KERNEL: &str = "
@triton.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    tl.store(out + at, tl.load(x + at, mask=mask) + 2 * tl.load(y + at, mask=mask), mask=mask)

def add(x, y):
    out = torch.empty_like(x)
    add_kernel[(triton.cdiv(x.numel(), 256),)](x, y, out, x.numel(), BLOCK=256)
    return out
";

/// An add candidate whose `forward(self, x, y)` is `body`; `add(x, y)` is the honest answer. `top` runs at import.
pub fn add_with(top: &str, body: &str) -> String {
    let body = if body.is_empty() { "pass" } else { body };
    let body: String = body.lines().map(|l| format!("        {l}\n")).collect();
    format!("{HEAD}{ADD_KERNEL}\n{top}\n\nclass ModelNew(torch.nn.Module):\n    def forward(self, x, y):\n{body}")
}

pub fn add() -> String {
    add_with("", "assert x.is_cuda and x.device.type == 'cuda'\nreturn add(x, y)")
}

pub const RELU_TASK: &str = "\
import torch

class Model(torch.nn.Module):
    def forward(self, x):
        return torch.relu(x)

def get_inputs():
    return [torch.rand(4, 128)]
";

pub const SOFTMAX_TASK: &str = "\
import torch

class Model(torch.nn.Module):
    def forward(self, x):
        return torch.softmax(x, dim=-1)

def get_inputs():
    return [torch.randn(8, 100)]
";

pub const SOFTMAX: &str = "\
import torch
import triton
import triton.language as tl

@triton.jit
def softmax_kernel(x, out, n, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    mask = at < n
    v = tl.load(x + row * n + at, mask=mask, other=-float('inf'))
    e = tl.exp(v - tl.max(v, axis=0))
    tl.store(out + row * n + at, e / tl.sum(e, axis=0), mask=mask)

class ModelNew(torch.nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        n = x.shape[1]
        softmax_kernel[(x.shape[0],)](x, out, n, BLOCK=triton.next_power_of_2(n))
        return out
";

pub const LINEAR_TASK: &str = "\
import torch

class Model(torch.nn.Module):
    def __init__(self, k, n):
        super().__init__()
        self.fc = torch.nn.Linear(k, n)

    def forward(self, x):
        return torch.relu(self.fc(x))

def get_inputs():
    return [torch.randn(32, 64)]

def get_init_inputs():
    return [64, 32]
";

pub const LINEAR: &str = "\
import torch
import triton
import triton.language as tl

@triton.jit
def linear_kernel(x, w, b, out, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    rn = tl.program_id(1) * BN + tl.arange(0, BN)
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, K, BK):
        rk = k + tl.arange(0, BK)
        a = tl.load(x + rm[:, None] * K + rk[None, :], mask=rm[:, None] < M, other=0.0)
        c = tl.load(w + rn[None, :] * K + rk[:, None])
        acc += tl.dot(a, c, input_precision='ieee')
    acc = tl.maximum(acc + tl.load(b + rn)[None, :], 0.0)
    tl.store(out + rm[:, None] * N + rn[None, :], acc, mask=rm[:, None] < M)

class ModelNew(torch.nn.Module):
    def __init__(self, k, n):
        super().__init__()
        self.fc = torch.nn.Linear(k, n)

    def forward(self, x):
        M, K = x.shape
        N = self.fc.weight.shape[0]
        out = torch.empty((M, N), device=x.device, dtype=x.dtype)
        linear_kernel[(triton.cdiv(M, 16), N // 16)](x, self.fc.weight, self.fc.bias, out, M, N, K, BM=16, BN=16, BK=32)
        return out
";

pub const NORM_TASK: &str = "\
import torch

class Model(torch.nn.Module):
    def __init__(self, n):
        super().__init__()
        self.norm = torch.nn.LayerNorm(n)

    def forward(self, x):
        return self.norm(x)

def get_inputs():
    return [torch.randn(4, 64)]

def get_init_inputs():
    return [64]
";

/// Layer norm; `tail` is what the kernel does with the normalised `v`, for example applying `w` and `b`.
pub fn norm(tail: &str) -> String {
    format!(
        "{HEAD}
@triton.jit
def norm_kernel(x, w, b, out, n, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    v = tl.load(x + row * n + at)
    v = v - tl.sum(v, axis=0) / n
    v = v / tl.sqrt(tl.sum(v * v, axis=0) / n + eps)
    tl.store(out + row * n + at, {tail})

class ModelNew(torch.nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(n))
        self.bias = torch.nn.Parameter(torch.zeros(n))

    def forward(self, x):
        out = torch.empty_like(x)
        norm_kernel[(x.shape[0],)](x, self.weight, self.bias, out, x.shape[1], 1e-5, BLOCK=x.shape[1])
        return out
"
    )
}
