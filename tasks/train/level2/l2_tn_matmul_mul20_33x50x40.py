# tags: matmul, fused, elementwise
import torch
import torch.nn as nn

M = 33
N = 50
K = 40


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x, y):
        x = torch.matmul(x.t(), y)
        x = x * 2.0
        return x


def get_inputs():
    return [torch.randn(K, M), torch.randn(K, N)]


def get_init_inputs():
    return []
