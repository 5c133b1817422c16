# tags: matmul, fused, activation, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 24
N = 64
K = 32


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x, y):
        x = torch.matmul(x.t(), y)
        x = torch.tanh(x)
        x = F.elu(x)
        x = x * 1.5
        return x


def get_inputs():
    return [torch.randn(K, M), torch.randn(K, N)]


def get_init_inputs():
    return []
