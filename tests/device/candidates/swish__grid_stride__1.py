# expect: passed
# how: programs stride over blocks, two programs for each of 132 multiprocessors and eight warps
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def swish_stride(x_ptr, y_ptr, n, blocks, BLOCK: tl.constexpr):
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        offs = block * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + offs, mask=offs < n, other=0.0)
        tl.store(y_ptr + offs, x / (1.0 + tl.exp(0.0 - x)), mask=offs < n)


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.programs = 2 * 132
        self.block = 4096

    def forward(self, x):
        x = x.contiguous()
        y = torch.empty_like(x)
        n = x.numel()
        blocks = triton.cdiv(n, self.block)
        swish_stride[(min(blocks, self.programs),)](x, y, n, blocks, BLOCK=self.block, num_warps=8)
        return y
