# expect: passed
# how: tiles of 16 rows by 128 columns, tl.clamp
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def chain_tile(x_ptr, s_ptr, b_ptr, y_ptr, rows, cols, BR: tl.constexpr, BC: tl.constexpr):
    r = tl.program_id(1) * BR + tl.arange(0, BR)[:, None]
    c = tl.program_id(0) * BC + tl.arange(0, BC)[None, :]
    mask = (r < rows) & (c < cols)
    s = tl.load(s_ptr + c, mask=c < cols, other=0.0)
    b = tl.load(b_ptr + c, mask=c < cols, other=0.0)
    x = tl.load(x_ptr + r * cols + c, mask=mask, other=0.0)
    tl.store(y_ptr + r * cols + c, tl.clamp(x * s + b, -1.5, 2.0) * 0.75 + x, mask=mask)


class ModelNew(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(columns))
        self.bias = nn.Parameter(torch.randn(columns))

    def forward(self, x):
        x = x.contiguous()
        rows, cols = x.shape
        y = torch.empty_like(x)
        grid = (triton.cdiv(cols, 128), triton.cdiv(rows, 16))
        chain_tile[grid](x, self.scale, self.bias, y, rows, cols, BR=16, BC=128)
        return y
