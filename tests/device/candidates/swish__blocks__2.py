# expect: passed
# how: tl.sigmoid in a helper, blocks of 2048, eight warps
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def silu(v):
    return v * tl.sigmoid(v)


@triton.jit
def apply_silu(inp, out, size, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    idx = pid * BLOCK + tl.arange(0, BLOCK)
    ok = idx < size
    tl.store(out + idx, silu(tl.load(inp + idx, mask=ok, other=0.0)), mask=ok)


def launch(x):
    out = torch.empty_like(x)
    size = x.numel()
    apply_silu[(triton.cdiv(size, 2048),)](x, out, size, 2048, num_warps=8)
    return out


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        return launch(x.contiguous())
