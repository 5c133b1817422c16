# tags: reduction
import torch
import torch.nn as nn

B = 64
R = 500
N = 1001

INTERPRETER_SHAPES = {"B": 16, "R": 20, "N": 41}


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        return torch.amax(x, dim=1)


def get_inputs():
    return [torch.randn(B, R, N)]


def get_init_inputs():
    return []
