# tags: norm, reduction
import torch
import torch.nn as nn

M = 6000
N = 2056

INTERPRETER_SHAPES = {"M": 16, "N": 520}


class Model(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.norm = nn.LayerNorm(columns, eps=1e-3)
        self.norm.weight = nn.Parameter(torch.rand(columns) + 0.5)
        self.norm.bias = nn.Parameter(torch.randn(columns))

    def forward(self, x):
        return self.norm(x)


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return [N]
