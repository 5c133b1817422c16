# tags: reduction
import torch
import torch.nn as nn

M = 4099
N = 8000

INTERPRETER_SHAPES = {"M": 19, "N": 800}


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        return torch.sum(x, dim=1)


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
