# expect: wrong_answer
# how: normalised down the columns instead of along the rows
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def softmax_down(x_ptr, y_ptr, rows, cols, BLOCK: tl.constexpr):
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = c < cols
    top = tl.full((BLOCK,), -float("inf"), tl.float32)
    for row in range(0, rows):
        top = tl.maximum(top, tl.load(x_ptr + row * cols + c, mask=inside, other=0.0))
    total = tl.zeros((BLOCK,), tl.float32)
    for row in range(0, rows):
        total += tl.exp(tl.load(x_ptr + row * cols + c, mask=inside, other=0.0) - top)
    for row in range(0, rows):
        x = tl.load(x_ptr + row * cols + c, mask=inside, other=0.0)
        tl.store(y_ptr + row * cols + c, tl.exp(x - top) / total, mask=inside)


class ModelNew(nn.Module):
    def forward(self, x):
        x = x.contiguous()
        rows, cols = x.shape
        y = torch.empty_like(x)
        softmax_down[(triton.cdiv(cols, 64),)](x, y, rows, cols, BLOCK=64, num_warps=2)
        return y
