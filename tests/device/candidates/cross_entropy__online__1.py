# expect: passed
# how: maximum, sum and the label's logit in one pass over blocks of 512, the mean by a second kernel
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def loss_online(x_ptr, t_ptr, loss_ptr, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    label = tl.load(t_ptr + row)
    top = tl.full((), -float("inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    own = tl.full((), 0.0, tl.float32)
    for start in range(0, cols, BLOCK):
        c = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * cols + c, mask=c < cols, other=-float("inf"))
        higher = tl.maximum(top, tl.max(x, axis=0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(x - higher), axis=0)
        own += tl.sum(tl.where(c == label, x, 0.0), axis=0)
        top = higher
    tl.store(loss_ptr + row, top + tl.log(total) - own)


@triton.jit
def mean_block(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0)
    tl.store(y_ptr, tl.sum(x, axis=0) / n)


class ModelNew(nn.Module):
    def forward(self, logits, labels):
        logits = logits.contiguous()
        rows, cols = logits.shape
        losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
        out = torch.empty((), dtype=logits.dtype, device=logits.device)
        loss_online[(rows,)](logits, labels, losses, cols, BLOCK=512, num_warps=4)
        mean_block[(1,)](losses, out, rows, BLOCK=triton.next_power_of_2(rows), num_warps=16)
        return out
