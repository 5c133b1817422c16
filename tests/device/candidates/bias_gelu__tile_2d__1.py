# expect: passed
# how: tiles of 8 rows by 256 columns, the bias is read once a tile
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def tanh(v):
    return 2.0 * tl.sigmoid(2.0 * v) - 1.0


@triton.jit
def gelu_tile(x_ptr, b_ptr, y_ptr, rows, cols, BR: tl.constexpr, BC: tl.constexpr):
    r = tl.program_id(1) * BR + tl.arange(0, BR)
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    mask = (r[:, None] < rows) & (c[None, :] < cols)
    at = r[:, None] * cols + c[None, :]
    b = tl.load(b_ptr + c, mask=c < cols, other=0.0)
    v = tl.load(x_ptr + at, mask=mask, other=0.0) + b[None, :]
    y = 0.5 * v * (1.0 + tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)))
    tl.store(y_ptr + at, y, mask=mask)


class ModelNew(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(columns))

    def forward(self, x):
        x = x.contiguous()
        rows, cols = x.shape
        y = torch.empty_like(x)
        gelu_tile[(triton.cdiv(cols, 256), triton.cdiv(rows, 8))](x, self.bias, y, rows, cols, BR=8, BC=256, num_warps=8)
        return y
