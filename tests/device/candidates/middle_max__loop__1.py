# expect: passed
# how: a program for 256 columns of a slice, one row after the other
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def max_down(x_ptr, y_ptr, rows, cols, BLOCK: tl.constexpr):
    b = tl.program_id(0)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = c < cols
    top = tl.full((BLOCK,), -float("inf"), tl.float32)
    for r in range(0, rows):
        top = tl.maximum(top, tl.load(x_ptr + (b * rows + r) * cols + c, mask=inside, other=0.0))
    tl.store(y_ptr + b * cols + c, top, mask=inside)


class ModelNew(nn.Module):
    def forward(self, x):
        x = x.contiguous()
        batch, rows, cols = x.shape
        y = torch.empty((batch, cols), dtype=x.dtype, device=x.device)
        max_down[(batch, triton.cdiv(cols, 256))](x, y, rows, cols, BLOCK=256)
        return y
