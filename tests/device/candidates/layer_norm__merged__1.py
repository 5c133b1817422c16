# expect: passed
# how: mean and variance merged over blocks as running moments, then one pass that writes
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def norm_running(x_ptr, w_ptr, b_ptr, y_ptr, cols, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    mean = tl.full((), 0.0, tl.float32)
    spread = tl.full((), 0.0, tl.float32)
    seen = tl.full((), 0.0, tl.float32)
    for start in range(0, cols, BLOCK):
        c = start + lane
        inside = c < cols
        x = tl.load(x_ptr + row * cols + c, mask=inside, other=0.0)
        count = tl.sum(inside.to(tl.float32), axis=0)
        own = tl.sum(x, axis=0) / count
        d = tl.where(inside, x - own, 0.0)
        both = seen + count
        shift = own - mean
        spread += tl.sum(d * d, axis=0) + shift * shift * seen * count / both
        mean += shift * count / both
        seen = both
    inverse = tl.rsqrt(spread / cols + eps)
    for start in range(0, cols, BLOCK):
        c = start + lane
        inside = c < cols
        x = tl.load(x_ptr + row * cols + c, mask=inside, other=0.0)
        w = tl.load(w_ptr + c, mask=inside, other=0.0)
        b = tl.load(b_ptr + c, mask=inside, other=0.0)
        tl.store(y_ptr + row * cols + c, (x - mean) * inverse * w + b, mask=inside)


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
        norm_running[(rows,)](x, self.norm.weight, self.norm.bias, y, cols, self.norm.eps, BLOCK=1024, num_warps=8)
        return y
