# tags: elementwise, activation
import torch
import torch.nn as nn

M = 4093
N = 4100

INTERPRETER_SHAPES = {"M": 13, "N": 1012}


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        return torch.relu(x)


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
