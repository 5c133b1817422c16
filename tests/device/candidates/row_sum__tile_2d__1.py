# expect: passed
# how: tiles of 4 rows by 512 columns, reduced along the second axis at the end
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def sum_tile(x_ptr, y_ptr, rows, cols, BR: tl.constexpr, BC: tl.constexpr):
    r = tl.program_id(0) * BR + tl.arange(0, BR)
    acc = tl.zeros((BR, BC), tl.float32)
    for start in range(0, cols, BC):
        c = start + tl.arange(0, BC)
        mask = (r[:, None] < rows) & (c[None, :] < cols)
        acc += tl.load(x_ptr + r[:, None] * cols + c[None, :], mask=mask, other=0.0)
    tl.store(y_ptr + r, tl.sum(acc, axis=1), mask=r < rows)


class ModelNew(nn.Module):
    def forward(self, x):
        x = x.contiguous()
        rows, cols = x.shape
        y = torch.empty((rows,), dtype=x.dtype, device=x.device)
        sum_tile[(triton.cdiv(rows, 4),)](x, y, rows, cols, BR=4, BC=512, num_warps=8)
        return y
