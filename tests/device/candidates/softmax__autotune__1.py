# expect: passed
# how: warps of the one-block kernel by triton.autotune
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.autotune(configs=[triton.Config({}, num_warps=w) for w in (4, 8, 16)], key=["cols"])
@triton.jit
def softmax_tuned(x_ptr, y_ptr, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * cols + c, mask=c < cols, other=-float("inf"))
    x -= tl.max(x, axis=0)
    e = tl.exp(x)
    tl.store(y_ptr + row * cols + c, e / tl.sum(e, axis=0), mask=c < cols)


class ModelNew(nn.Module):
    def forward(self, x):
        x = x.contiguous()
        rows, cols = x.shape
        y = torch.empty_like(x)
        softmax_tuned[(rows,)](x, y, cols, BLOCK=triton.next_power_of_2(cols))
        return y
