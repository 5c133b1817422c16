# expect: passed
# how: parts of 64 rows to a workspace, the same kernel once more over the parts
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def max_part(x_ptr, y_ptr, rows, cols, parts, PER: tl.constexpr, BLOCK: tl.constexpr):
    b = tl.program_id(0)
    part = tl.program_id(1)
    c = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    top = tl.full((BLOCK,), -float("inf"), tl.float32)
    for r in range(part * PER, tl.minimum(part * PER + PER, rows)):
        top = tl.maximum(top, tl.load(x_ptr + (b * rows + r) * cols + c, mask=c < cols, other=0.0))
    tl.store(y_ptr + (b * parts + part) * cols + c, top, mask=c < cols)


class ModelNew(nn.Module):
    def forward(self, x):
        x = x.contiguous()
        batch, rows, cols = x.shape
        parts = triton.cdiv(rows, 64)
        blocks = triton.cdiv(cols, 512)
        work = torch.empty((batch, parts, cols), dtype=x.dtype, device=x.device)
        y = torch.empty((batch, 1, cols), dtype=x.dtype, device=x.device)
        max_part[(batch, parts, blocks)](x, work, rows, cols, parts, PER=64, BLOCK=512)
        max_part[(batch, 1, blocks)](work, y, parts, cols, 1, PER=1024, BLOCK=512)
        return y.view(batch, cols)
