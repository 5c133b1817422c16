# expect: passed
# how: four rows a program and their partial sum, the parts by a second kernel
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def loss_rows(x_ptr, t_ptr, part_ptr, rows, cols, BR: tl.constexpr, BLOCK: tl.constexpr):
    r = tl.program_id(0) * BR + tl.arange(0, BR)
    c = tl.arange(0, BLOCK)
    label = tl.load(t_ptr + r, mask=r < rows, other=0)
    # Rows behind the end are read as zeros and left out of the sum.
    mask = (r[:, None] < rows) & (c[None, :] < cols)
    x = tl.load(x_ptr + r[:, None] * cols + c[None, :], mask=mask, other=0.0)
    x = tl.where(c[None, :] < cols, x, -float("inf"))
    top = tl.max(x, axis=1)
    lse = tl.log(tl.sum(tl.exp(x - top[:, None]), axis=1)) + top
    own = tl.load(x_ptr + r * cols + label, mask=r < rows, other=0.0)
    loss = tl.where(r < rows, lse - own, 0.0)
    tl.store(part_ptr + tl.program_id(0), tl.sum(loss, axis=0))


@triton.jit
def add_parts(part_ptr, y_ptr, parts, rows, BLOCK: tl.constexpr):
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, parts, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(part_ptr + at, mask=at < parts, other=0.0)
    tl.store(y_ptr, tl.sum(total, axis=0) / rows)


class ModelNew(nn.Module):
    def forward(self, logits, labels):
        logits = logits.contiguous()
        rows, cols = logits.shape
        parts = triton.cdiv(rows, 4)
        work = torch.empty(parts, dtype=torch.float32, device=logits.device)
        out = torch.empty((), dtype=logits.dtype, device=logits.device)
        block = triton.next_power_of_2(cols)
        loss_rows[(parts,)](logits, labels, work, rows, cols, BR=4, BLOCK=block, num_warps=8)
        add_parts[(1,)](work, out, parts, rows, BLOCK=1024)
        return out
