# expect: wrong_answer
# how: the number of blocks of a row is rounded down
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def sum_row(x_ptr, y_ptr, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(0, cols // BLOCK):
        c = i * BLOCK + tl.arange(0, BLOCK)
        total += tl.load(x_ptr + row * cols + c)
    tl.store(y_ptr + row, tl.sum(total, axis=0))


class ModelNew(nn.Module):
    def forward(self, x):
        x = x.contiguous()
        rows, cols = x.shape
        y = torch.empty(rows, dtype=x.dtype, device=x.device)
        sum_row[(rows,)](x, y, cols, BLOCK=512)
        return y
