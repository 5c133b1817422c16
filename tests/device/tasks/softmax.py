# tags: reduction, softmax
import torch
import torch.nn as nn

M = 4096
N = 4000

INTERPRETER_SHAPES = {"M": 16, "N": 976}


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        return torch.softmax(x, dim=1)


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
