# expect: passed
# how: a fixed number of programs that go over the rows, exp2 with the factor folded in
import torch
import torch.nn as nn
import triton
import triton.language as tl

PROGRAMS = 132 * 4


@triton.jit
def softmax_rows(x_ptr, y_ptr, rows, cols, BLOCK: tl.constexpr, STAGES: tl.constexpr):
    c = tl.arange(0, BLOCK)
    inside = c < cols
    for row in tl.range(tl.program_id(0), rows, tl.num_programs(0), num_stages=STAGES):
        x = tl.load(x_ptr + row * cols + c, mask=inside, other=-float("inf"))
        e = tl.exp2((x - tl.max(x, axis=0)) * 1.4426950408889634)
        tl.store(y_ptr + row * cols + c, e / tl.sum(e, axis=0), mask=inside)


class ModelNew(nn.Module):
    def forward(self, x):
        x = x.contiguous()
        rows, cols = x.shape
        y = torch.empty_like(x)
        block = triton.next_power_of_2(cols)
        softmax_rows[(min(rows, PROGRAMS),)](x, y, rows, cols, BLOCK=block, STAGES=2, num_warps=8)
        return y
