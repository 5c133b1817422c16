# expect: passed
# how: programs go over the rows and keep the weights
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def rms_stride(x_ptr, w_ptr, y_ptr, rows, cols, inverse_cols, eps, BLOCK: tl.constexpr):
    c = tl.arange(0, BLOCK)
    inside = c < cols
    w = tl.load(w_ptr + c, mask=inside, other=0.0)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        x = tl.load(x_ptr + row * cols + c, mask=inside, other=0.0)
        scale = tl.rsqrt(tl.sum(x * x, axis=0) * inverse_cols + eps)
        tl.store(y_ptr + row * cols + c, x * (w * scale), mask=inside)


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.eps = eps

    def forward(self, x):
        x = x.contiguous()
        rows, cols = x.shape
        y = torch.empty_like(x)
        block = triton.next_power_of_2(cols)
        grid = (min(rows, 528),)
        rms_stride[grid](x, self.weight, y, rows, cols, 1.0 / cols, self.eps, BLOCK=block, num_warps=16)
        return y
