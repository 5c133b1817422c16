# expect: passed
# how: a program keeps scale and bias of its columns and goes down every eighth row
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def chain_down(x_ptr, s_ptr, b_ptr, y_ptr, rows, cols, BC: tl.constexpr):
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    inside = c < cols
    s = tl.load(s_ptr + c, mask=inside, other=0.0)
    b = tl.load(b_ptr + c, mask=inside, other=0.0)
    for r in range(tl.program_id(1), rows, tl.num_programs(1)):
        x = tl.load(x_ptr + r * cols + c, mask=inside, other=0.0)
        v = x * s + b
        v = tl.where(v < -1.5, -1.5, v)
        v = tl.where(v > 2.0, 2.0, v)
        tl.store(y_ptr + r * cols + c, 0.75 * v + x, mask=inside)


class ModelNew(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(columns))
        self.bias = nn.Parameter(torch.randn(columns))

    def forward(self, x):
        x = x.contiguous()
        rows, cols = x.shape
        y = torch.empty_like(x)
        grid = (triton.cdiv(cols, 512), triton.cdiv(rows, 8))
        chain_down[grid](x, self.scale, self.bias, y, rows, cols, BC=512)
        return y
