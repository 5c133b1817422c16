# expect: passed
# how: a program a row, two rows in flight by a loop, sixteen warps
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def normalised(x, inside, cols, eps):
    d = tl.where(inside, x - tl.sum(x, axis=0) / cols, 0.0)
    return d * tl.rsqrt(tl.sum(d * d, axis=0) / cols + eps)


@triton.jit
def norm_pair(x_ptr, w_ptr, b_ptr, y_ptr, rows, cols, eps, PER: tl.constexpr, BLOCK: tl.constexpr):
    c = tl.arange(0, BLOCK)
    inside = c < cols
    w = tl.load(w_ptr + c, mask=inside, other=0.0)
    b = tl.load(b_ptr + c, mask=inside, other=0.0)
    for i in range(PER):
        row = tl.program_id(0) * PER + i
        mask = inside & (row < rows)
        x = tl.load(x_ptr + row * cols + c, mask=mask, other=0.0)
        tl.store(y_ptr + row * cols + c, normalised(x, inside, cols, eps) * w + b, mask=mask)


class ModelNew(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.norm = nn.LayerNorm(columns, eps=1e-3)
        self.norm.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.norm.bias = nn.Parameter(torch.randn(columns))

    def forward(self, x):
        x = x.contiguous()
        rows, cols = x.shape
        y = torch.empty_like(x)
        block = triton.next_power_of_2(cols)
        weights = (self.norm.weight, self.norm.bias)
        norm_pair[(triton.cdiv(rows, 2),)](x, *weights, y, rows, cols, self.norm.eps, PER=2, BLOCK=block, num_warps=16)
        return y
