# expect: compile_error
# how: a pointer is moved by a float
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def loss_row(x_ptr, t_ptr, loss_ptr, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * cols + c, mask=c < cols, other=-float("inf"))
    label = tl.load(t_ptr + row).to(tl.float32)
    top = tl.max(x, axis=0)
    own = tl.load(x_ptr + row * cols + label)
    tl.store(loss_ptr + row, tl.log(tl.sum(tl.exp(x - top), axis=0)) + top - own)


@triton.jit
def mean_all(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(x_ptr + at, mask=at < n, other=0.0)
    tl.store(y_ptr, tl.sum(total, axis=0) / n)


class ModelNew(nn.Module):
    def forward(self, logits, labels):
        logits = logits.contiguous()
        rows, cols = logits.shape
        losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
        out = torch.empty((), dtype=logits.dtype, device=logits.device)
        loss_row[(rows,)](logits, labels, losses, cols, BLOCK=triton.next_power_of_2(cols))
        mean_all[(1,)](losses, out, rows, BLOCK=1024)
        return out
