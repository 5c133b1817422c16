# tags: elementwise, chain, fusion
import torch
import torch.nn as nn

M = 3000
N = 5001

INTERPRETER_SHAPES = {"M": 8, "N": 1001}


class Model(nn.Module):
    """A column-wise scale and bias, a clamp, and a weighted way around all of it."""

    def __init__(self, columns):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(columns))
        self.bias = nn.Parameter(torch.randn(columns))

    def forward(self, x):
        y = x * self.scale
        y = y + self.bias
        y = torch.clamp(y, min=-1.5, max=2.0)
        return y * 0.75 + x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return [N]
