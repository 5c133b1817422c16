# expect: wrong_answer
# how: one output buffer for all calls, so that an earlier answer changes when the next one is made
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def sum_row(x_ptr, y_ptr, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, cols, BLOCK):
        c = start + tl.arange(0, BLOCK)
        total += tl.load(x_ptr + row * cols + c, mask=c < cols, other=0.0)
    tl.store(y_ptr + row, tl.sum(total, axis=0))


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.buffer = None

    def forward(self, x):
        x = x.contiguous()
        rows, cols = x.shape
        if self.buffer is None or self.buffer.shape[0] != rows:
            self.buffer = torch.empty(rows, dtype=x.dtype, device=x.device)
        sum_row[(rows,)](x, self.buffer, cols, BLOCK=1024)
        return self.buffer
