# expect: wrong_answer
# how: eps is left out
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def norm_kernel(x_ptr, w_ptr, b_ptr, y_ptr, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    inside = c < cols
    x = tl.load(x_ptr + row * cols + c, mask=inside, other=0.0)
    centred = tl.where(inside, x - tl.sum(x, axis=0) / cols, 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred, axis=0) / cols)
    w = tl.load(w_ptr + c, mask=inside, other=0.0)
    b = tl.load(b_ptr + c, mask=inside, other=0.0)
    tl.store(y_ptr + row * cols + c, centred * inverse * w + b, mask=inside)


class ModelNew(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.norm = nn.LayerNorm(columns, eps=1e-3)
        self.norm.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.norm.bias = nn.Parameter(torch.randn(columns))

    def forward(self, x):
        x = x.contiguous()
        rows, cols = x.shape
        y = torch.empty_like(x)
        block = triton.next_power_of_2(cols)
        norm_kernel[(rows,)](x, self.norm.weight, self.norm.bias, y, cols, BLOCK=block, num_warps=8)
        return y
