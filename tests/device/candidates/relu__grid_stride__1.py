# expect: passed
# how: a fixed number of programs that stride over the blocks
import torch
import torch.nn as nn
import triton
import triton.language as tl

PROGRAMS = 1056


@triton.jit
def relu_stride(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    step = tl.num_programs(0) * BLOCK
    for start in range(tl.program_id(0) * BLOCK, n, step):
        offs = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + offs, mask=offs < n, other=0.0)
        tl.store(y_ptr + offs, tl.maximum(x, 0.0), mask=offs < n)


class ModelNew(nn.Module):
    def forward(self, x):
        x = x.contiguous()
        y = torch.empty_like(x)
        n = x.numel()
        relu_stride[(min(PROGRAMS, triton.cdiv(n, 2048)),)](x, y, n, BLOCK=2048)
        return y
