# expect: passed
# how: blocks of 4096 elements, eight warps, tl.where for the maximum, a stride over the launch in a lambda
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def positive_part(src, dst, count, CHUNK: tl.constexpr):
    start = tl.program_id(axis=0) * CHUNK
    at = start + tl.arange(0, CHUNK)
    inside = at < count
    value = tl.load(src + at, mask=inside, other=0.0)
    tl.store(dst + at, tl.where(value > 0, value, 0.0), mask=inside)


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.chunk = 4096

    def forward(self, x):
        x = x.contiguous()
        out = torch.empty_like(x)
        grid = lambda meta: (triton.cdiv(x.numel(), meta["CHUNK"]),)
        positive_part[grid](x, out, x.numel(), CHUNK=self.chunk, num_warps=8)
        return out
