# expect: passed
# how: tiles of 16 rows by 128 columns, the maximum down a tile at the end
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def max_tile(x_ptr, y_ptr, rows, cols, BR: tl.constexpr, BC: tl.constexpr):
    b = tl.program_id(1)
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    tops = tl.full((BR, BC), -float("inf"), tl.float32)
    for start in range(0, rows, BR):
        r = start + tl.arange(0, BR)
        mask = (r[:, None] < rows) & (c[None, :] < cols)
        at = b * rows * cols + r[:, None] * cols + c[None, :]
        tops = tl.maximum(tops, tl.load(x_ptr + at, mask=mask, other=-float("inf")))
    tl.store(y_ptr + b * cols + c, tl.max(tops, axis=0), mask=c < cols)


class ModelNew(nn.Module):
    def forward(self, x):
        x = x.contiguous()
        batch, rows, cols = x.shape
        y = torch.empty((batch, cols), dtype=x.dtype, device=x.device)
        max_tile[(triton.cdiv(cols, 128), batch)](x, y, rows, cols, BR=16, BC=128, num_warps=4)
        return y
