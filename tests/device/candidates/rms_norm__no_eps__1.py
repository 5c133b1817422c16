# expect: wrong_answer
# how: eps is left out
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def rms_kernel(x_ptr, w_ptr, y_ptr, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * cols + c, mask=c < cols, other=0.0)
    w = tl.load(w_ptr + c, mask=c < cols, other=0.0)
    inverse = tl.rsqrt(tl.sum(x * x, axis=0) / cols)
    tl.store(y_ptr + row * cols + c, x * inverse * w, mask=c < cols)


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)

    def forward(self, x):
        x = x.contiguous()
        rows, cols = x.shape
        y = torch.empty_like(x)
        rms_kernel[(rows,)](x, self.weight, y, cols, BLOCK=triton.next_power_of_2(cols), num_warps=8)
        return y
