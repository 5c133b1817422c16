# tags: matmul, bias, activation, fusion
import torch
import torch.nn as nn

M = 1500
K = 1024
N = 1100

INTERPRETER_SHAPES = {"M": 44, "K": 64, "N": 60}


class Model(nn.Module):
    def __init__(self, inner, columns):
        super().__init__()
        self.linear = nn.Linear(inner, columns)

    def forward(self, x):
        return torch.relu(self.linear(x))


def get_inputs():
    return [torch.randn(M, K)]


def get_init_inputs():
    return [K, N]
