# expect: passed
# how: mean, variance and result in three passes over blocks of 512
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def norm_passes(x_ptr, w_ptr, b_ptr, y_ptr, cols, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    x_ptr += row * cols
    y_ptr += row * cols
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, cols, BLOCK):
        c = start + tl.arange(0, BLOCK)
        total += tl.load(x_ptr + c, mask=c < cols, other=0.0)
    mean = tl.sum(total, axis=0) / cols
    squares = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, cols, BLOCK):
        c = start + tl.arange(0, BLOCK)
        d = tl.where(c < cols, tl.load(x_ptr + c, mask=c < cols, other=0.0) - mean, 0.0)
        squares += d * d
    inverse = 1.0 / tl.sqrt(tl.sum(squares, axis=0) / cols + eps)
    for start in range(0, cols, BLOCK):
        c = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + c, mask=c < cols, other=0.0)
        w = tl.load(w_ptr + c, mask=c < cols, other=0.0)
        b = tl.load(b_ptr + c, mask=c < cols, other=0.0)
        tl.store(y_ptr + c, (x - mean) * inverse * w + b, mask=c < cols)


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
        norm_passes[(rows,)](x, self.norm.weight, self.norm.bias, y, cols, self.norm.eps, BLOCK=512)
        return y
