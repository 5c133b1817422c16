# expect: passed
# how: a program a row, a loop over its columns
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def gelu_row(x_ptr, b_ptr, y_ptr, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    for start in range(0, cols, BLOCK):
        c = start + tl.arange(0, BLOCK)
        mask = c < cols
        v = tl.load(x_ptr + row * cols + c, mask=mask, other=0.0) + tl.load(b_ptr + c, mask=mask, other=0.0)
        cube = v * v * v
        u = -1.5957691216057308 * (v + 0.044715 * cube)
        tl.store(y_ptr + row * cols + c, v / (1.0 + tl.exp(u)), mask=mask)


class ModelNew(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(columns))

    def forward(self, x):
        x = x.contiguous()
        y = torch.empty_like(x)
        gelu_row[(x.shape[0],)](x, self.bias, y, x.shape[1], BLOCK=1024)
        return y
