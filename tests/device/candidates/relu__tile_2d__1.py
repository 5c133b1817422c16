# expect: passed
# how: tiles of 4 rows by 256 columns on a grid of two dimensions
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def relu_tile(x_ptr, y_ptr, rows, cols, stride, BR: tl.constexpr, BC: tl.constexpr):
    r = tl.program_id(0) * BR + tl.arange(0, BR)[:, None]
    c = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    mask = (r < rows) & (c < cols)
    x = tl.load(x_ptr + r * stride + c, mask=mask, other=0.0)
    tl.store(y_ptr + r * cols + c, x * (x > 0).to(tl.float32), mask=mask)


class ModelNew(nn.Module):
    def forward(self, x):
        x = x.contiguous()
        rows, cols = x.shape
        y = torch.empty_like(x)
        relu_tile[(triton.cdiv(rows, 4), triton.cdiv(cols, 256))](x, y, rows, cols, x.stride(0), BR=4, BC=256)
        return y
