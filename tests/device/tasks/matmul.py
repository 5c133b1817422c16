# tags: matmul
import torch
import torch.nn as nn

M = 1940
K = 2000
N = 1900

INTERPRETER_SHAPES = {"M": 52, "K": 80, "N": 76}


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, a, b):
        return torch.matmul(a, b)


def get_inputs():
    return [torch.randn(M, K), torch.randn(K, N)]


def get_init_inputs():
    return []
