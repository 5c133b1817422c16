# expect: wrong_answer
# how: the maximum along the last axis
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def max_along(x_ptr, y_ptr, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    top = tl.full((BLOCK,), -float("inf"), tl.float32)
    for start in range(0, cols, BLOCK):
        c = start + tl.arange(0, BLOCK)
        top = tl.maximum(top, tl.load(x_ptr + row * cols + c, mask=c < cols, other=-float("inf")))
    tl.store(y_ptr + row, tl.max(top, axis=0))


class ModelNew(nn.Module):
    def forward(self, x):
        x = x.contiguous()
        batch, rows, cols = x.shape
        y = torch.empty((batch, rows), dtype=x.dtype, device=x.device)
        max_along[(batch * rows,)](x, y, cols, BLOCK=1024)
        return y
