# expect: wrong_answer
# how: scale and bias are taken by the row, not by the column
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def chain_row(x_ptr, s_ptr, b_ptr, y_ptr, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    s = tl.load(s_ptr + row % cols)
    b = tl.load(b_ptr + row % cols)
    for start in range(0, cols, BLOCK):
        c = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * cols + c, mask=c < cols, other=0.0)
        v = tl.minimum(tl.maximum(x * s + b, -1.5), 2.0)
        tl.store(y_ptr + row * cols + c, v * 0.75 + x, mask=c < cols)


class ModelNew(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(columns))
        self.bias = nn.Parameter(torch.randn(columns))

    def forward(self, x):
        x = x.contiguous()
        y = torch.empty_like(x)
        chain_row[(x.shape[0],)](x, self.scale, self.bias, y, x.shape[1], BLOCK=1024)
        return y
