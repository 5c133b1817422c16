# expect: passed
# how: two rows a program, sums along the second axis
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def rms_rows(x_ptr, w_ptr, y_ptr, rows, cols, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK)
    at = r[:, None] * cols + c[None, :]
    mask = (r[:, None] < rows) & (c[None, :] < cols)
    x = tl.load(x_ptr + at, mask=mask, other=0.0)
    w = tl.load(w_ptr + c, mask=c < cols, other=0.0)
    mean = tl.sum(x * x, axis=1) / cols
    y = x * tl.rsqrt(mean + eps)[:, None] * w[None, :]
    tl.store(y_ptr + at, y, mask=mask)


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        x = x.contiguous()
        rows, cols = x.shape
        y = torch.empty_like(x)
        grid = (triton.cdiv(rows, 2),)
        block = triton.next_power_of_2(cols)
        rms_rows[grid](x, self.weight, y, rows, cols, self.eps, ROWS=2, BLOCK=block, num_warps=8)
        return y
