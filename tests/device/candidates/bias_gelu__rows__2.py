# expect: passed
# how: libdevice's tanh, a program for a part of a row, four warps
import torch
import torch.nn as nn
import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def gelu_part(x_ptr, b_ptr, y_ptr, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = c < cols
    v = tl.load(x_ptr + row * cols + c, mask=mask, other=0.0)
    v += tl.load(b_ptr + c, mask=mask, other=0.0)
    t = libdevice.tanh(0.7978845608028654 * v * (1.0 + 0.044715 * v * v))
    tl.store(y_ptr + row * cols + c, 0.5 * v * (1.0 + t), mask=mask)


class ModelNew(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(columns))

    def forward(self, x):
        x = x.contiguous()
        y = torch.empty_like(x)
        rows, cols = x.shape
        gelu_part[(rows, triton.cdiv(cols, 1024))](x, self.bias, y, cols, BLOCK=1024, num_warps=4)
        return y
