# expect: passed
# how: squares summed over blocks of 1024, then a second pass over the row
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def rms_loop(x_ptr, w_ptr, y_ptr, cols, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    base = row * cols
    squares = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, cols, BLOCK):
        c = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + base + c, mask=c < cols, other=0.0)
        squares += x * x
    inverse = tl.rsqrt(tl.sum(squares, axis=0) / cols + eps)
    for start in range(0, cols, BLOCK):
        c = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + base + c, mask=c < cols, other=0.0)
        w = tl.load(w_ptr + c, mask=c < cols, other=0.0)
        tl.store(y_ptr + base + c, x * inverse * w, mask=c < cols)


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        x = x.contiguous()
        rows, cols = x.shape
        y = torch.empty_like(x)
        rms_loop[(rows,)](x, self.weight, y, cols, self.eps, BLOCK=1024)
        return y
