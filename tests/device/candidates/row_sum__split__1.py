# expect: passed
# how: parts of a row to a workspace, a second kernel adds the parts
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def sum_part(x_ptr, part_ptr, cols, parts, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    part = tl.program_id(1)
    c = part * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * cols + c, mask=c < cols, other=0.0)
    tl.store(part_ptr + row * parts + part, tl.sum(x, axis=0))


@triton.jit
def add_parts(part_ptr, y_ptr, rows, parts, BR: tl.constexpr, BP: tl.constexpr):
    r = tl.program_id(0) * BR + tl.arange(0, BR)
    p = tl.arange(0, BP)
    mask = (r[:, None] < rows) & (p[None, :] < parts)
    x = tl.load(part_ptr + r[:, None] * parts + p[None, :], mask=mask, other=0.0)
    tl.store(y_ptr + r, tl.sum(x, axis=1), mask=r < rows)


class ModelNew(nn.Module):
    def forward(self, x):
        x = x.contiguous()
        rows, cols = x.shape
        parts = triton.cdiv(cols, 4096)
        work = torch.empty((rows, parts), dtype=torch.float32, device=x.device)
        y = torch.empty(rows, dtype=x.dtype, device=x.device)
        sum_part[(rows, parts)](x, work, cols, parts, BLOCK=4096, num_warps=8)
        add_parts[(triton.cdiv(rows, 64),)](work, y, rows, parts, BR=64, BP=triton.next_power_of_2(parts))
        return y
