# expect: passed
# how: four configurations by triton.autotune, the steps as helpers
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def affine(x, s, b):
    return x * s + b


@triton.jit
def bounded(v):
    return tl.maximum(tl.minimum(v, 2.0), -1.5)


@triton.autotune(
    configs=[
        triton.Config({"BLOCK": 256}, num_warps=2),
        triton.Config({"BLOCK": 512}, num_warps=4),
        triton.Config({"BLOCK": 1024}, num_warps=4),
        triton.Config({"BLOCK": 2048}, num_warps=8),
    ],
    key=["n", "cols"],
)
@triton.jit
def chain_tuned(x_ptr, s_ptr, b_ptr, y_ptr, n, cols, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    x = tl.load(x_ptr + offs, mask=mask, other=0.0)
    s = tl.load(s_ptr + offs % cols, mask=mask, other=0.0)
    b = tl.load(b_ptr + offs % cols, mask=mask, other=0.0)
    tl.store(y_ptr + offs, bounded(affine(x, s, b)) * 0.75 + x, mask=mask)


class ModelNew(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(columns))
        self.bias = nn.Parameter(torch.randn(columns))

    def forward(self, x):
        x = x.contiguous()
        y = torch.empty_like(x)
        n = x.numel()
        chain_tuned[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, self.scale, self.bias, y, n, x.shape[1])
        return y
