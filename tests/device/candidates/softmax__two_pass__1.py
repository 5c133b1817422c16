# expect: passed
# how: element-wise partial maxima and sums over blocks of 512, reduced at the end of each pass
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def softmax_passes(x_ptr, y_ptr, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    tops = tl.full((BLOCK,), -float("inf"), tl.float32)
    for start in range(0, cols, BLOCK):
        c = start + lane
        tops = tl.maximum(tops, tl.load(x_ptr + row * cols + c, mask=c < cols, other=-float("inf")))
    top = tl.max(tops, axis=0)
    sums = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, cols, BLOCK):
        c = start + lane
        sums += tl.exp(tl.load(x_ptr + row * cols + c, mask=c < cols, other=-float("inf")) - top)
    scale = 1.0 / tl.sum(sums, axis=0)
    for start in range(0, cols, BLOCK):
        c = start + lane
        x = tl.load(x_ptr + row * cols + c, mask=c < cols, other=0.0)
        tl.store(y_ptr + row * cols + c, tl.exp(x - top) * scale, mask=c < cols)


class ModelNew(nn.Module):
    def forward(self, x):
        x = x.contiguous()
        y = torch.empty_like(x)
        softmax_passes[(x.shape[0],)](x, y, x.shape[1], BLOCK=512, num_warps=4)
        return y
