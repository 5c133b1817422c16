# tags: elementwise, activation
import torch
import torch.nn as nn

M = 4000
N = 4001

INTERPRETER_SHAPES = {"M": 16, "N": 1009}


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        return x * torch.sigmoid(x)


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
