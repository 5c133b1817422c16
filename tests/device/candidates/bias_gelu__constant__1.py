# expect: wrong_answer
# how: 0.0447 for 0.044715, and 0.79 for the root of 2 / pi
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def bias_gelu_kernel(x_ptr, bias_ptr, y_ptr, n, cols, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    v = tl.load(x_ptr + offs, mask=mask, other=0.0) + tl.load(bias_ptr + offs % cols, mask=mask, other=0.0)
    u = 0.79 * (v + 0.0447 * v * v * v)
    tl.store(y_ptr + offs, v * tl.sigmoid(2.0 * u), mask=mask)


class ModelNew(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(columns))

    def forward(self, x):
        x = x.contiguous()
        y = torch.empty_like(x)
        n = x.numel()
        bias_gelu_kernel[(triton.cdiv(n, 1024),)](x, self.bias, y, n, x.shape[1], BLOCK=1024)
        return y
